//! Files that no program of ours reads: YAML, shell scripts, the image and the compose file.

use std::fs;
use std::path::Path;

use crate::service::remedyd;
use crate::tools::{check, files, read, root, run, said, validators};
use tempfile::TempDir;

#[test]
fn yaml_is_clean() {
    check("yamllint", ["--strict", "-c", "deploy/.yamllint.yaml", "deploy"]);
    let dir = TempDir::new().unwrap();
    let wrong = dir.path().join("wrong.yaml");
    fs::write(&wrong, "a: 1\na: 2\n").unwrap();
    assert!(!run("yamllint", ["--strict", "-c", "deploy/.yamllint.yaml", wrong.to_str().unwrap()]).well, "a key that is there twice");
}

#[test]
fn shell_scripts_are_clean() {
    let is_script = |path: &Path| {
        let text = fs::read(root().join(path)).unwrap();
        text.starts_with(b"#!/bin/sh") || text.starts_with(b"#!/usr/bin/env bash")
    };
    let scripts: Vec<String> = ["deploy", "tests", "benches", ".ci"].into_iter().flat_map(|dir| files(dir, is_script)).collect();
    for known in ["deploy/rabbitmq/users.sh", "deploy/debian/debian/remedyd.postrm", "tests/run.sh", ".ci/run"] {
        assert!(scripts.iter().any(|script| script == known), "{known} is not in {scripts:?}");
    }
    check("shellcheck", &scripts);
}

#[test]
fn the_image_has_what_it_is_built_from() {
    let hadolint = validators().join("hadolint");
    check(hadolint.to_str().unwrap(), ["deploy/docker/Dockerfile"]);
    let dir = TempDir::new().unwrap();
    let careless = dir.path().join("Dockerfile");
    fs::write(&careless, "FROM debian:latest\nRUN cd /tmp && apt-get install curl\n").unwrap();
    assert!(!run(hadolint.to_str().unwrap(), [&careless]).well, "a careless Dockerfile");

    // what it copies is enough for cargo to know its targets; and what is copied is not ignored
    let context = TempDir::new().unwrap();
    let ignored = read("deploy/docker/Dockerfile.dockerignore");
    let dockerfile = read("deploy/docker/Dockerfile");
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    let sources: Vec<&str> = copies.flat_map(|line| line.rsplit_once(' ').unwrap().0.split(' ')).collect();
    assert!(sources.len() >= 5, "{sources:?}");
    for source in sources {
        assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source} is copied and ignored");
        let to = context.path().join(source);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        check("cp", ["-r", source, to.to_str().unwrap()]);
    }
    let manifest = context.path().join("Cargo.toml");
    check(env!("CARGO"), ["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path", manifest.to_str().unwrap()]);
}

/// The compose file with secrets that were just made: everything it mounts is there, and the service takes its settings.
#[test]
fn the_containers_fit_together() {
    let dir = TempDir::new().unwrap();
    let secrets = dir.path().join("secrets");
    let mut prepare = std::process::Command::new(root().join("deploy/docker/prepare.sh"));
    prepare.env("REMEDYD_SECRETS", &secrets);
    let prepared = said(prepare, "");
    assert!(prepared.well, "{}", prepared.all());

    let printed = check("docker-compose", ["-f", "deploy/docker/compose.yaml", "config"]);
    for service in ["broker", "remedyd", "prometheus", "grafana"] {
        assert!(printed.contains(&format!("\n  {service}:")), "{service} is not in\n{printed}");
    }
    let docker = root().join("deploy/docker");
    let mounts = printed.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_prefix("file: ").or_else(|| line.strip_prefix("- ").and_then(|mount| Some(mount.split_once(':')?.0)))
    });
    let mounted: Vec<&str> = mounts.filter(|path| path.starts_with('/')).collect();
    assert!(mounted.len() >= 12, "{mounted:?}");
    for path in mounted {
        let path = Path::new(path);
        let real = path.strip_prefix(docker.join("secrets")).map_or_else(|_| path.to_owned(), |secret| secrets.join(secret));
        assert!(real.exists(), "{} is mounted and not there", real.display());
    }

    let mut config = remedyd(["config", "check", "--config", "deploy/docker/remedyd.toml"]);
    config.current_dir(root()).env_remove("REMEDYD_OPS__LISTEN");
    for (name, secret) in [
        ("AMQP__URL_FILE", "amqp_url"),
        ("AMQP__TLS_CA_FILE", "tls_ca"),
        ("AMQP__TLS_CERT_FILE", "tls_cert"),
        ("AMQP__TLS_KEY_FILE", "tls_key"),
    ]
    .into_iter()
    .chain([("OPS__TOKEN_FILE", "ops_token")])
    {
        let (line, compose) = (format!("REMEDYD_{name}: /run/secrets/{secret}"), read("deploy/docker/compose.yaml"));
        assert!(compose.contains(&line), "{line}");
        let (_, at) = compose.split_once(&format!("\n  {secret}:\n    file: ./secrets/")).unwrap();
        config.env(format!("REMEDYD_{name}"), secrets.join(at.lines().next().unwrap()));
    }
    let checked = said(config, "");
    assert!(checked.well, "{}", checked.all());
}

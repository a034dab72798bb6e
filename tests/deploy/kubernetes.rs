//! The kustomization, built by kubectl and held against the schemas; and what no schema can say of it.

use std::fs;

use crate::service::remedyd;
use crate::tools::{Said, check, read, run_with, said, validators};
use serde_json::Value;
use tempfile::TempDir;

/// The oldest version that has all we use.
const VERSION: &str = "1.29";

fn validate(manifests: &str) -> Said {
    let python = validators().join("python");
    run_with(python.to_str().unwrap(), ["tests/deploy/manifests.py", VERSION], manifests)
}

#[test]
fn the_manifests_are_valid_and_agree() {
    let built = check("kubectl", ["kustomize", "deploy/kubernetes"]);
    let said = validate(&built);
    assert!(said.well, "{}", said.all());
    let documents: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    let of = |kind: &str| {
        let mut found = documents.iter().filter(|document| document["kind"] == kind);
        found.next().unwrap_or_else(|| panic!("no {kind}"))
    };
    for kind in ["Namespace", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"] {
        let document = of(kind);
        let namespace = if kind == "Namespace" { &document["metadata"]["name"] } else { &document["metadata"]["namespace"] };
        assert_eq!(namespace, "remedyd", "{kind}");
    }

    let set = &of("StatefulSet")["spec"];
    let pod = &set["template"]["spec"];
    let container = &pod["containers"][0];
    let settings = of("ConfigMap")["data"]["remedyd.toml"].as_str().unwrap();
    assert!(settings.contains(&format!("\npartitions = {}\n", set["replicas"])), "a pod for each partition");
    let partition = &container["env"][0];
    assert_eq!(partition["name"], "REMEDYD_AMQP__PARTITION");
    assert_eq!(partition["valueFrom"]["fieldRef"]["fieldPath"], "metadata.labels['apps.kubernetes.io/pod-index']");
    assert_eq!(set["volumeClaimTemplates"][0]["spec"]["accessModes"][0], "ReadWriteOncePod");
    assert_eq!(set["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], "Retain");
    for (probe, path) in [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "ops");
    }
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 10, "longer than a stop takes");
    assert_eq!(pod["volumes"][1]["secret"]["defaultMode"], 0o440);

    // one set of labels, by which all of them find the pods
    let labels = &set["template"]["metadata"]["labels"];
    for (selector, what) in [
        (&set["selector"]["matchLabels"], "the set"),
        (&of("Service")["spec"]["selector"], "the service"),
        (&of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], "the budget"),
        (&of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"], "the policy"),
        (&of("ServiceMonitor")["spec"]["selector"]["matchLabels"], "the monitor"),
    ] {
        assert_eq!(selector, labels, "{what}");
    }
    assert_eq!(of("ServiceMonitor")["spec"]["endpoints"][0]["port"], of("Service")["spec"]["ports"][0]["name"]);
}

#[test]
fn manifests_that_are_wrong_are_refused() {
    let built = check("kubectl", ["kustomize", "deploy/kubernetes"]);
    for (right, wrong, named) in [
        ("terminationGracePeriodSeconds: 30", "terminationGraceSeconds: 30", "terminationGraceSeconds"),
        ("maxUnavailable: 1", "maxUnavailable: [1]", "PodDisruptionBudget"),
        ("jobLabel:", "jobLable:", "jobLable"),
    ] {
        assert!(built.contains(right), "{right}");
        let said = validate(&built.replace(right, wrong));
        assert!(!said.well && said.stderr.contains(named), "{wrong}: {}", said.all());
    }
}

/// The pods' settings with the secrets as the pods see them.
#[test]
fn the_pods_settings_are_taken() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    check("deploy/rabbitmq/tls.sh", [dir.path().to_str().unwrap(), "broker.example"]);
    for (from, to) in [("remedyd.pem", "tls.pem"), ("remedyd.key", "tls.key")] {
        fs::rename(path(from), path(to)).unwrap();
    }
    fs::write(path("url"), "amqps://remedyd:secret@broker.example/%2f").unwrap();
    fs::write(path("token"), "a-token-of-some-length").unwrap();
    let settings = read("deploy/kubernetes/remedyd.toml");
    assert!(settings.contains("/run/secrets/broker/url") && settings.contains("/run/secrets/ops/token"));
    let here = dir.path().to_str().unwrap();
    fs::write(path("remedyd.toml"), settings.replace("/run/secrets/broker", here).replace("/run/secrets/ops", here)).unwrap();
    let mut config = remedyd(["config", "check", "--config"]);
    config.arg(path("remedyd.toml")).env("REMEDYD_AMQP__PARTITION", "0").env_remove("REMEDYD_OPS__LISTEN");
    let checked = said(config, "");
    assert!(checked.well, "{}", checked.all());
    // both places that list the users say the same
    let users = |text: &str| text.split_once("# Who may say what").unwrap().1.to_owned();
    assert_eq!(users(&settings), users(&read("deploy/docker/remedyd.toml")));
}

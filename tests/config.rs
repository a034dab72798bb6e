//! The settings, from outside: layers, bounds, all errors at once, and nothing secret in any output.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
#[path = "config/reload.rs"]
mod reload;
mod service;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use remedyd::config::{Accounts, Authority, Overrides, Settings, Users, keys};
use tempfile::TempDir;

const CANARY: &str = "canary-3f9a";

/// Loads `toml`; the answer is the settings or the error lines.
fn load(toml: &str, environment: &[(&str, &str)], overrides: &Overrides) -> Result<Settings, Vec<String>> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("remedyd.toml");
    fs::write(&path, toml).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::load_with(Some(&path), environment, overrides).map_err(|errors| errors.0)
}

/// The error lines of `toml` are exactly `expected`.
#[track_caller]
fn check(toml: &str, expected: &[&str]) {
    match load(toml, &[], &Overrides::default()) {
        Ok(_) => assert!(expected.is_empty(), "taken, but expected {expected:#?}"),
        Err(lines) => assert_eq!(lines, expected, "of\n{toml}"),
    }
}

#[test]
fn each_wrong_value_has_its_line() {
    for (toml, line) in [
        ("[amqp]\nprefetch_reports = 0", "amqp.prefetch_reports (file): 0; expected a whole number from 1 to 2000 (messages)"),
        ("[amqp]\nprefetch_reports = -1", "amqp.prefetch_reports (file): -1; expected a whole number from 1 to 2000 (messages)"),
        ("[amqp]\nprefetch_surveys = 10001", "amqp.prefetch_surveys (file): 10001; expected a whole number from 1 to 10000 (messages)"),
        ("[amqp]\npublish_window = \"9\"", "amqp.publish_window (file): \"9\"; expected a whole number from 1 to 10000 (messages)"),
        ("[amqp]\npublish_window = 1.5", "amqp.publish_window (file): 1.5; expected a whole number from 1 to 10000 (messages)"),
        ("[amqp]\nprefix = \"Über\"", "amqp.prefix (file): \"Über\"; expected 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter"),
        ("[amqp]\npartitions = 257", "amqp.partitions (file): 257; expected a whole number from 1 to 256 (partitions)"),
        (
            "[amqp]\npartition = 1",
            "amqp.partition (file): 1; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0; 1 is not below amqp.partitions, which is 1",
        ),
        (
            "[amqp]\npartition = true",
            "amqp.partition (file): true; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0",
        ),
        (
            "[amqp]\npartition = [0]",
            "amqp.partition (file): [0]; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0",
        ),
        (
            "[amqp]\npartition = \"any\"",
            "amqp.partition (file): \"any\"; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0; \"any\" is no partition",
        ),
        (
            "[amqp]\npartitions = 4\npartition = \"0-4\"",
            "amqp.partition (file): \"0-4\"; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0; 4 is not below amqp.partitions, which is 4",
        ),
        (
            "[amqp]\npartitions = 4\npartition = \"3-1\"",
            "amqp.partition (file): \"3-1\"; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0; the range 3-1 is empty",
        ),
        (
            "[amqp]\npartitions = 4\npartition = \"0-2,1\"",
            "amqp.partition (file): \"0-2,1\"; expected \"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0; 1 is named twice",
        ),
        ("[amqp]\napply_topology = \"yes\"", "amqp.apply_topology (file): \"yes\"; expected true or false"),
        (
            "[amqp]\nport = 1",
            "amqp.port (file): there is no such key; expected url, url_file, tls_ca_file, tls_cert_file, tls_key_file, prefetch_reports, prefetch_surveys, publish_window, prefix, partition, partitions, apply_topology",
        ),
        ("[store]\ndir = \"\"", "store.dir (file): \"\"; expected the path of a directory"),
        ("[store]\ncache_mib = 1024", "store.cache_mib (file): 1024; expected a whole number from 64 to 256 (MiB)"),
        ("[agents]\nexecutor = \"amqp\"", "agents.executor (file): \"amqp\"; expected \"simulated\""),
        ("[agents]\nmodel = \"random\"", "agents.model (file): \"random\"; expected one of \"steady\", \"seeded\""),
        ("[agents]\nseed = true", "agents.seed (file): true; expected a whole number from 0 to 9223372036854775807"),
        (
            "[agents]\nsurvey_interval_minutes = 0",
            "agents.survey_interval_minutes (file): 0; expected a whole number from 1 to 1440 (minutes)",
        ),
        ("[clock]\nsource = \"ntp\"", "clock.source (file): \"ntp\"; expected one of \"system\", \"events\""),
        ("[limits]\noutbox_rows = 1", "limits.outbox_rows (file): 1; expected a whole number from 10000 to 10000000 (rows)"),
        ("[limits]\nbatch_events = 2048", "limits.batch_events (file): 2048; expected a whole number from 1 to 1024 (events)"),
        ("[limits]\ndrain_seconds = 11", "limits.drain_seconds (file): 11; expected a whole number from 1 to 10 (seconds)"),
        ("[log]\nformat = 1", "log.format (file): 1; expected one of \"pretty\", \"json\""),
        ("[log]\nfilter = \"a=b=c\"", "log.filter (file): \"a=b=c\"; expected filter directives such as info,remedyd=debug"),
        ("log = \"info\"", "log (file): \"info\"; expected a section"),
        ("[metrics]\nport = 1", "metrics (file): there is no such section; expected amqp, store, agents, clock, limits, log, ops, users"),
        (
            "[ops]\nlisten = \"9464\"",
            "ops.listen (file): \"9464\"; expected an address and port such as 127.0.0.1:9464 or [::1]:9464, or \"\"",
        ),
        (
            "[ops]\nlisten = \"0.0.0.0:9464\"",
            "ops.listen (file): \"0.0.0.0:9464\"; expected an address on loopback, or a token in ops.token_file",
        ),
        ("users = 3", "users (file): 3; expected [[users]] entries"),
        ("[[users]]\naccounts = \"*\"\ntypes = [\"#\"]", "users[0].name (file): missing; expected the AMQP user's name, 1 to 255 bytes"),
        (
            "[[users]]\nname = \"a\"\naccounts = [-5]\ntypes = [\"#\"]",
            "users[0].accounts (file): [-5]; expected \"*\" or a list of account ids such as [5, 7]",
        ),
        (
            "[[users]]\nname = \"a\"\naccounts = [5]\ntypes = [\"a..b\"]",
            "users[0].types (file): [\"a..b\"]; expected a list of event-type patterns such as [\"incident_report.*\", \"#\"]",
        ),
        ("[[users]]\nname = \"a\"\naccounts = [5]\ntypes = [\"#\"]\nportal = 1", "users[0].portal (file): 1; expected true or false"),
        (
            "[[users]]\nname = \"a\"\naccounts = [5]\ntypes = [\"#\"]\nrole = 1",
            "users[0].role (file): there is no such key; expected name, accounts, types, portal",
        ),
        (
            "[[users]]\nname = \"*\"\naccounts = [5]\ntypes = [\"#\"]",
            "users (file): \"*\" is one user for all; expected it to be the only entry, with accounts = \"*\", types = [\"#\"], portal = true",
        ),
    ] {
        check(toml, &[line]);
    }
}

#[test]
fn all_errors_are_told_at_once_whatever_their_source() {
    let lines = load(
        "[amqp]\nprefetch_reports = 0\nurl = 7\nprot = 1\n[limits]\nbatch_events = \"many\"\n[[users]]\nname = \"\"\ntypes = []\n",
        &[
            ("REMEDYD_STORE", ""),
            ("REMEDYD_AMQP__PARTITIONS", "none"),
            ("REMEDYD_USERS__0__NAME", "eve"),
            ("REMEDYD_STOER__DIR", "/x"),
            ("REMEDYD_AMQP__URL", "nonsense"),
        ],
        &Overrides::default().set("--seed", "agents.seed", Some("-3")),
    )
    .unwrap_err();
    let starts = [
        "users.0__name (environment REMEDYD_USERS__0__NAME): users can be listed only in the file",
        "stoer.dir (environment REMEDYD_STOER__DIR): there is no such key",
        "amqp.prot (file): there is no such key",
        "amqp.url (environment REMEDYD_AMQP__URL): <redacted>; expected amqps://",
        "amqp.partitions (environment REMEDYD_AMQP__PARTITIONS): \"none\"",
        "amqp.prefetch_reports (file): 0",
        "store.dir (environment REMEDYD_STORE): \"\"",
        "agents.seed (flag --seed): \"-3\"",
        "limits.batch_events (file): \"many\"",
        "users[0].name (file): \"\"",
        "users[0].accounts (file): missing",
        "users[0].types (file): []",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\nexpected {start}");
    }
}

#[test]
fn a_file_that_cannot_be_read_hides_nothing_else() {
    let wrong = [("REMEDYD_AMQP__PARTITION".to_owned(), "x".to_owned())];
    let lines = Settings::load_with(Some(Path::new("/nonexistent/remedyd.toml")), wrong, &Overrides::default()).unwrap_err().0;
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("file /nonexistent/remedyd.toml: cannot be read: "), "{}", lines[0]);
    assert!(lines[1].starts_with("amqp.partition (environment REMEDYD_AMQP__PARTITION): \"x\""), "{}", lines[1]);
}

#[test]
fn the_environment_is_over_the_file_and_flags_over_both() {
    let file = "[amqp]\nprefix = \"file\"\npartitions = 4\n[store]\ndir = \"/file\"\n[agents]\nseed = 1\n";
    let environment = [
        ("REMEDYD_AMQP__PREFIX", "environment"),
        ("REMEDYD_STORE", "/environment"),
        ("REMEDYD_AMQP__APPLY_TOPOLOGY", "true"),
        ("REMEDYD_AGENTS__SEED", "2"),
        // not ours to judge: Kubernetes and the tests set such names
        ("REMEDYD_PORT", "tcp://10.0.0.1:80"),
        ("REMEDYD_TEST_AMQP_URL", "x"),
        ("HOME", "/root"),
    ];
    let flags = Overrides::default().set("--seed", "agents.seed", Some("3")).set("--store", "store.dir", None);
    let settings = load(file, &environment, &flags).unwrap();
    assert_eq!(settings.amqp.prefix, "environment");
    assert_eq!(settings.amqp.partitions, 4);
    assert!(settings.amqp.apply_topology);
    assert_eq!(settings.store.dir, Path::new("/environment"));
    assert_eq!(settings.agents.seed, 3);
    assert_eq!(settings.amqp.served(), [0, 1, 2, 3], "all, where nothing is said");
    assert_eq!(settings.partition_dir(3), Path::new("/environment/p3"));
}

#[test]
fn partitions_are_chosen_in_every_layer() {
    for (line, served, printed) in [
        ("", &[0, 1, 2, 3, 4, 5, 6, 7][..], "\"all\""),
        ("partition = \"all\"", &[0, 1, 2, 3, 4, 5, 6, 7], "\"all\""),
        ("partition = 2", &[2], "2"),
        ("partition = \"2\"", &[2], "2"),
        ("partition = \"0-3\"", &[0, 1, 2, 3], "\"0-3\""),
        ("partition = \"0,2,5-7\"", &[0, 2, 5, 6, 7], "\"0,2,5-7\""),
    ] {
        let settings = load(&format!("[amqp]\npartitions = 8\n{line}"), &[], &Overrides::default()).unwrap();
        assert_eq!(settings.amqp.served(), served, "{line}");
        let printed = format!("\npartition = {printed}\n");
        assert!(settings.to_toml().contains(&printed), "{line}: no {printed:?}");
        assert_eq!(load(&settings.to_toml(), &[], &Overrides::default()), Ok(settings), "{line}");
    }
    // as Kubernetes gives a pod its ordinal
    let environment = [("REMEDYD_AMQP__PARTITION", "3")];
    let file = "[amqp]\npartitions = 4\npartition = \"0-1\"";
    assert_eq!(load(file, &environment, &Overrides::default()).unwrap().amqp.served(), [3]);
    let flag = Overrides::default().set("--partition", "amqp.partition", Some("1-2"));
    assert_eq!(load(file, &environment, &flag).unwrap().amqp.served(), [1, 2]);
    let wrong = Overrides::default().set("--partition", "amqp.partition", Some("0,4"));
    let lines = load(&format!("{file}\nprefetch_reports = 0"), &environment, &wrong).unwrap_err();
    assert!(lines.len() == 2 && lines[0].starts_with("amqp.partition (flag --partition): \"0,4\"; "), "{lines:#?}");
}

#[test]
fn one_setting_has_one_variable() {
    let both = [("REMEDYD_STORE", "/a"), ("REMEDYD_STORE__DIR", "/b")];
    let lines = load("", &both, &Overrides::default()).unwrap_err();
    assert_eq!(lines, ["store.dir (environment REMEDYD_STORE__DIR): already set by environment REMEDYD_STORE; expected one of the two"]);
}

#[test]
fn a_token_is_read_from_its_file_and_never_shown() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("token");
    let toml = format!("[ops]\nlisten = \"0.0.0.0:9464\"\ntoken_file = {:?}", path.to_str().unwrap());
    // nowhere, too short, of several words, too long
    for content in [None, Some("short".to_owned()), Some(format!("{CANARY} and more of it")), Some("x".repeat(513))] {
        if let Some(content) = &content {
            fs::write(&path, content).unwrap();
        }
        let lines = load(&toml, &[], &Overrides::default()).unwrap_err();
        let [line] = lines.as_slice() else { panic!("{content:?}: {lines:#?}") };
        assert!(line.starts_with("ops.token_file (file): ") && line.contains("16 to 512 printable ASCII"), "{line}");
        assert!(!line.contains(CANARY), "{line}");
    }
    fs::write(&path, format!("{CANARY}-{CANARY}\n")).unwrap();
    let settings = load(&toml, &[], &Overrides::default()).unwrap();
    assert_eq!(settings.ops.token.as_ref().map(|token| token.expose().to_owned()), Some(format!("{CANARY}-{CANARY}")));
    assert!(!format!("{settings:?}{}", settings.to_toml()).contains(CANARY));
    assert_eq!(load("[ops]\nlisten = \"\"", &[], &Overrides::default()).unwrap().ops.listen, None);
}

#[test]
fn the_url_comes_from_the_highest_layer_that_says_where() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("url");
    fs::write(&secret, format!("amqp://svc:{CANARY}@127.0.0.1:1/%2f\n")).unwrap();
    let from_file = format!("[amqp]\nurl_file = {secret:?}\n");

    let settings = load(&from_file, &[], &Overrides::default()).unwrap();
    assert_eq!(settings.amqp.url.expose(), format!("amqp://svc:{CANARY}@127.0.0.1:1/%2f"));
    assert_eq!(settings.amqp.url_file.as_deref(), Some(secret.as_path()));

    let settings = load(&from_file, &[("REMEDYD_AMQP_URL", "amqp://127.0.0.1:2/v")], &Overrides::default()).unwrap();
    assert_eq!(settings.amqp.url.expose(), "amqp://127.0.0.1:2/v");
    assert_eq!(settings.amqp.url_file, None);

    check(
        &format!("{from_file}url = \"amqp://127.0.0.1:2\"\n"),
        &["amqp.url and amqp.url_file (file): both are set; expected one of the two"],
    );
    let lines = load("[amqp]\nurl_file = \"/nonexistent/url\"", &[], &Overrides::default()).unwrap_err();
    assert!(lines.len() == 1 && lines[0].starts_with("amqp.url_file (file): \"/nonexistent/url\": cannot be read: "), "{lines:?}");
}

#[test]
fn credentials_are_stronger_than_the_file_and_weaker_than_the_environment() {
    let dir = TempDir::new().unwrap();
    let directory = dir.path().to_str().unwrap();
    fs::write(dir.path().join("amqp-url"), format!("amqp://svc:{CANARY}@127.0.0.1:7/%2f\n")).unwrap();
    fs::write(dir.path().join("ops-token"), format!("{CANARY}-{CANARY}")).unwrap();
    let file = "[amqp]\nurl = \"amqp://127.0.0.1:1/%2f\"\n";
    let settings = load(file, &[("CREDENTIALS_DIRECTORY", directory)], &Overrides::default()).unwrap();
    assert_eq!(settings.amqp.url.expose(), format!("amqp://svc:{CANARY}@127.0.0.1:7/%2f"));
    assert_eq!(settings.ops.token.as_ref().map(|token| token.expose().to_owned()), Some(format!("{CANARY}-{CANARY}")));
    // there is no tls-ca: nothing is made of it
    assert_eq!(settings.amqp.tls, Settings::default().amqp.tls);

    let environment = [("CREDENTIALS_DIRECTORY", directory), ("REMEDYD_AMQP_URL", "amqp://127.0.0.1:2/%2f")];
    let settings = load(file, &environment, &Overrides::default()).unwrap();
    assert_eq!(settings.amqp.url.expose(), "amqp://127.0.0.1:2/%2f");

    fs::write(dir.path().join("ops-token"), "short").unwrap();
    let lines = load(file, &[("CREDENTIALS_DIRECTORY", directory)], &Overrides::default()).unwrap_err();
    assert!(lines.len() == 1 && lines[0].starts_with("ops.token_file (credential ops-token): "), "{lines:?}");
}

#[test]
fn each_value_is_told_with_its_source() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("remedyd.toml");
    fs::write(&file, "[amqp]\nprefix = \"x\"\n[limits]\nbatch_events = 9\n[[users]]\nname = \"soc\"\naccounts = \"*\"\ntypes = [\"#\"]\n")
        .unwrap();
    fs::write(dir.path().join("amqp-url"), format!("amqp://svc:{CANARY}@127.0.0.1:7/%2f\n")).unwrap();
    let printed = |command: &mut Command| String::from_utf8(command.assert().code(0).get_output().stdout.clone()).unwrap();
    let mut command = remedyd(&["config", "print", "--sources", "--seed", "3", "--config", file.to_str().unwrap()]);
    let text = printed(command.env("REMEDYD_LIMITS__BATCH_EVENTS", "8").env("CREDENTIALS_DIRECTORY", dir.path()));
    let told: Vec<(&str, &str)> =
        text.lines().map(|line| line.split_once("  # ").map_or((line, ""), |(setting, source)| (setting.trim_end(), source))).collect();
    let in_file = format!("file {}", file.display());
    for expected in [
        ("# amqp.url is read from amqp.url_file", ""),
        (format!("amqp.url_file = \"{}\"", dir.path().join("amqp-url").display()).as_str(), "credential amqp-url"),
        ("amqp.prefix = \"x\"", in_file.as_str()),
        ("limits.batch_events = 8", "environment REMEDYD_LIMITS__BATCH_EVENTS"),
        ("agents.seed = 3", "flag --seed"),
        ("log.filter = \"info\"", "default"),
        ("users = \"soc\"", in_file.as_str()),
    ] {
        assert!(told.contains(&expected), "no {expected:?} in\n{text}");
    }
    // every key, once, and nothing secret
    assert_eq!(told.len(), keys::ALL.len() + 1, "{text}");
    for key in keys::ALL {
        assert_eq!(
            told.iter().filter(|(line, _)| line.trim_start_matches("# ").starts_with(&format!("{} ", key.path))).count(),
            1,
            "{}",
            key.path
        );
    }
    assert!(!text.contains(CANARY), "{text}");

    let mut command = remedyd(&["config", "print", "--sources"]);
    let text =
        printed(command.env("REMEDYD_AMQP_URL", format!("amqp://svc:{CANARY}@127.0.0.1:7/%2f")).env("CREDENTIALS_DIRECTORY", dir.path()));
    assert!(text.contains("amqp.url = \"amqp://<redacted>@127.0.0.1:7/%2f\"") && text.contains("# environment REMEDYD_AMQP_URL"), "{text}");
    assert!(text.contains("# credential amqp-url, not used: amqp.url is stronger"), "{text}");
    assert!(!text.contains(CANARY), "{text}");
}

#[test]
fn a_password_is_never_shown() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("url");
    let mut seen = Vec::new();

    let settings = load(&format!("[amqp]\nurl = \"amqps://svc:{CANARY}@mq.example/v?x={CANARY}\""), &[], &Overrides::default()).unwrap();
    assert!(settings.amqp.url.expose().contains(CANARY), "the canary must have been there to be hidden");
    seen.extend([format!("{settings:?}"), settings.amqp.url.to_string(), settings.to_toml()]);

    // mistakes: wrong type, plaintext, broken TOML on the very line, wrong key, wrong place, a secret file with rubbish
    fs::write(&secret, format!("mq.example {CANARY}")).unwrap();
    for toml in [
        format!("[amqp]\nurl = [\"amqps://svc:{CANARY}@mq.example\"]"),
        format!("[amqp]\nurl = \"amqp://svc:{CANARY}@mq.example\""),
        format!("[amqp]\nurl = \"svc:{CANARY}\""),
        format!("[amqp]\nurl = \"amqps://svc:{CANARY}@mq.example"),
        format!("[amqp]\nurl = amqps://svc:{CANARY}@mq.example\nx = 1"),
        format!("[amqp]\nulr = \"amqps://svc:{CANARY}@mq.example\""),
        format!("[amqp]\nurl_file = \"amqps://svc:{CANARY}@mq.example\""),
        format!("[store]\ndir = \"amqps://svc:{CANARY}@mq.example\""),
        format!("[amqp]\nurl_file = {secret:?}"),
    ] {
        let lines = load(&toml, &[], &Overrides::default()).expect_err(&toml);
        seen.extend(lines);
    }
    let overrides = Overrides::default().set("--url", "amqp.url", Some(CANARY));
    seen.push(format!("{overrides:?}"));
    seen.extend(load("", &[("REMEDYD_AMQP_URL", CANARY)], &overrides).unwrap_err());

    assert!(seen.len() >= 14);
    for output in seen {
        assert!(!output.contains(CANARY), "{output}");
    }
}

#[test]
fn the_example_is_the_defaults_and_explains_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/remedyd.example.toml");
    let example = fs::read_to_string(&path).unwrap();
    assert_eq!(load(&example, &[], &Overrides::default()), Ok(Settings::default()));
    assert_eq!(load("", &[], &Overrides::default()), Ok(Settings::default()));
    assert_eq!(example, Settings::default().to_toml(), "write it anew: remedyd config print > deploy/remedyd.example.toml");
    for key in keys::ALL {
        let stands = example.lines().any(|line| line.starts_with(&format!("{} = ", key.name())));
        assert!(stands, "{} is missing", key.path);
    }
}

#[test]
fn what_is_printed_can_be_read_back() {
    let toml = r#"
        [amqp]
        prefetch_reports = 7
        prefetch_surveys = 8
        publish_window = 9
        prefix = "x.y"
        partition = 1
        partitions = 2
        apply_topology = true
        [store]
        dir = "a \"b\" \\ ü"
        cache_mib = 64
        [agents]
        model = "seeded"
        seed = 9223372036854775807
        survey_interval_minutes = 30
        [clock]
        source = "events"
        [limits]
        outbox_rows = 10000
        batch_events = 2
        drain_seconds = 1
        [log]
        format = "json"
        filter = "warn,remedyd=trace"
        [[users]]
        name = "soc"
        accounts = "*"
        types = ["incident_report.*", "agent.#"]
        [[users]]
        name = "portal"
        accounts = [5, 7]
        types = ["remediations.*"]
        portal = true
    "#;
    let settings = load(toml, &[], &Overrides::default()).unwrap();
    assert_eq!(load(&settings.to_toml(), &[], &Overrides::default()), Ok(settings.clone()));
    let defaults = Settings::default();
    assert_ne!(settings.limits, defaults.limits);
    assert_ne!(settings.log, defaults.log);
}

#[test]
fn listing_users_ends_messages_without_one() {
    let one = "[[users]]\nname = \"portal\"\naccounts = [5]\ntypes = [\"remediations.*\"]\nportal = true\n";
    let users = load(one, &[], &Overrides::default()).unwrap().users;
    assert!(matches!(&users, Users::Listed(list) if list[0].accounts == Accounts::These(vec![5])));
    assert_eq!(users.authority(Some("portal"), 5, "remediations.approved"), Authority::Allowed { role_believed: true });
    assert!(matches!(users.authority(None, 5, "remediations.approved"), Authority::Refused { .. }));
    assert_eq!(Settings::default().users.authority(None, 5, "remediations.approved"), Authority::Allowed { role_believed: true });
}

/// The program with an environment of its own, so that the tests' variables do not reach it.
fn remedyd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remedyd"));
    command.env_clear().args(args);
    command
}

#[test]
fn the_command_answers_with_its_exit_code() {
    remedyd(&["config", "check"]).assert().code(0).stdout("OK\n");
    remedyd(&["config", "print"]).assert().code(0).stdout(Settings::default().to_toml());
    let output = remedyd(&["config", "check", "--seed", "x", "--partition", "9"]).assert().code(64).get_output().clone();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("remedyd: 2 wrong settings\n") && told.contains("flag --seed") && told.contains("flag --partition"), "{told}");
    remedyd(&["config", "check", "--config", "/nonexistent"]).assert().code(64);
    remedyd(&["confgi"]).assert().code(64);
    remedyd(&[]).assert().code(64);
    remedyd(&["--version"]).assert().code(0);
}

/// `topology` reads no settings, but the variable of the service; its flag is stronger.
#[test]
fn the_topology_is_of_as_many_partitions_as_the_environment_says() {
    for (environment, flag, expected) in [(None, None, 1), (Some("3"), None, 3), (Some("3"), Some("2"), 2)] {
        let mut command = remedyd(&["topology", "print"]);
        command.envs(environment.map(|count| ("REMEDYD_AMQP__PARTITIONS", count)));
        command.args(flag.into_iter().flat_map(|count| ["--partitions", count]));
        let printed = String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap();
        let there = |partition: u16| printed.contains(&format!("\"remedyd.p{partition}.reports\""));
        assert!(there(expected - 1) && !there(expected), "{environment:?} {flag:?}: {printed}");
    }
}

//! The Debian package: made, judged by lintian, installed by dpkg into a system of its own, run by its unit's ExecStart,
//! removed and purged.
//!
//! The system is a directory with a dpkg database. Nothing on this machine is touched, and nothing escapes notice: what is
//! in it after the purge is held against what was in it before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::outside::{Outside, Sent};
use crate::process::Process;
use crate::service::sample;
use crate::tools::{Said, check, root, run, said};

struct System {
    root: PathBuf,
    _dir: TempDir,
}

impl System {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        for made in ["etc", "var/lib/systemd", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        for empty in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
            fs::write(root.join(empty), "").unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
        Self { root, _dir: dir }
    }

    /// dpkg for this system. The maintainer scripts run for real; what the package depends on is not in there.
    #[track_caller]
    fn dpkg(&self, args: &[&str]) -> Said {
        let mut command = Command::new("fakeroot");
        command.arg("dpkg").arg(format!("--root={}", self.root.display()));
        command.args(["--force-script-chrootless", "--force-depends", "--log=/dev/null"]).args(args).current_dir(root());
        let said = said(command, "");
        assert!(said.well, "dpkg {args:?}:\n{}", said.all());
        said
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// Everything in it, without dpkg's own books and what account tools keep beside the accounts.
    fn content(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        collect(&self.root, &self.root, &mut found);
        let books = |path: &String| path.starts_with("var/lib/dpkg") || path == "var" || path == "var/lib";
        let accounts = ["etc/group-", "etc/passwd-", "etc/.pwd.lock", "etc/gshadow", "etc/shadow", "etc/gshadow-", "etc/shadow-"];
        found.retain(|path| !books(path) && !accounts.contains(&path.as_str()));
        found
    }
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.insert(path.strip_prefix(root).unwrap().display().to_string());
        if path.is_dir() && !path.is_symlink() {
            collect(root, &path, found);
        }
    }
}

/// The unit's settings of this name, with what systemd puts in for `%d` and `%S`.
fn unit(text: &str, name: &str, credentials: &Path, state: &Path) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}=")));
    lines.map(|line| line.replace("%d", credentials.to_str().unwrap()).replace("%S", state.to_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_installs_runs_and_goes_without_a_trace() {
    let out = TempDir::new().unwrap();
    let made = check("deploy/debian/build.sh", [env!("CARGO_BIN_EXE_remedyd"), out.path().to_str().unwrap()]);
    let package = made.trim();
    assert!(package.ends_with(".deb") && Path::new(package).is_file(), "{made}");
    let judged = run("lintian", ["--fail-on", "error,warning", package]);
    assert!(judged.well, "{}", judged.all());
    // what it depends on can be had here
    check("apt-get", ["--simulate", "-qq", "-o", "Debug::NoLocking=1", "install", "--no-install-recommends", package]);

    check_scripts(package, out.path());

    let system = System::new();
    let before = system.content();
    system.dpkg(&["-i", package]);
    let there = system.content();
    for path in ["usr/bin/remedyd", "etc/remedyd/remedyd.toml", "lib/systemd/system/remedyd.service", "usr/lib/sysusers.d/remedyd.conf"] {
        assert!(there.contains(path), "{path} is not in {there:#?}");
    }
    assert!(there.iter().any(|path| path.starts_with("usr/share/doc/remedyd/runbooks/dead-letters.md")), "{there:#?}");
    assert!(!there.iter().any(|path| path.contains("multi-user.target.wants")), "it was enabled before it was set up");
    let accounts = fs::read_to_string(system.path("/etc/passwd")).unwrap();
    assert!(accounts.lines().any(|line| line.starts_with("remedyd:") && line.ends_with("nologin")), "{accounts}");
    check_manual(&system, &there);
    run_as_the_unit_would(&system).await;

    // settings that somebody has changed survive a removal and an installation
    let settings = system.path("/etc/remedyd/remedyd.toml");
    let changed = fs::read_to_string(&settings).unwrap() + "# changed\n";
    fs::write(&settings, &changed).unwrap();
    fs::write(system.path("/etc/remedyd/amqp-url"), "amqp://127.0.0.1").unwrap();
    system.dpkg(&["-r", "remedyd"]);
    assert_eq!(fs::read_to_string(&settings).unwrap(), changed);
    assert!(!system.path("/usr/bin/remedyd").exists() && !system.path("/lib/systemd/system/remedyd.service").exists());
    system.dpkg(&["-i", package]);
    assert_eq!(fs::read_to_string(&settings).unwrap(), changed);

    // a purge leaves the store, and says so; without one it leaves nothing
    let purged = system.dpkg(&["-P", "remedyd"]);
    assert!(purged.stderr.contains("the store in /var/lib/remedyd is kept"), "{}", purged.all());
    assert!(system.path("/var/lib/remedyd/p0").is_dir());
    fs::remove_dir_all(system.path("/var/lib/remedyd")).unwrap();
    system.dpkg(&["-i", package]);
    system.dpkg(&["-P", "remedyd"]);
    let after = system.content();
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// What they would do where systemd runs: an upgrade starts a running service anew, a removal stops it, nothing starts it.
fn check_scripts(package: &str, dir: &Path) {
    let control = dir.join("control");
    check("dpkg-deb", ["-e", package, control.to_str().unwrap()]);
    let script = |name: &str| fs::read_to_string(control.join(name)).unwrap_or_default();
    let (postinst, prerm) = (script("postinst"), script("prerm"));
    assert!(postinst.contains("deb-systemd-invoke try-restart 'remedyd.service'"), "{postinst}");
    assert!(!postinst.contains("deb-systemd-invoke start"), "{postinst}");
    assert!(prerm.contains("\"$1\" = remove") && prerm.contains("deb-systemd-invoke stop remedyd.service"), "{prerm}");
    assert!(!script("preinst").contains("stop"), "an upgrade that cannot be unpacked would leave it stopped");
    assert_eq!(script("conffiles").trim(), "/etc/remedyd/remedyd.toml");
}

/// Every command has its page, and mandoc finds nothing to complain of that a reader would see.
fn check_manual(system: &System, there: &BTreeSet<String>) {
    for page in ["remedyd", "remedyd-serve", "remedyd-topology-apply", "remedyd-health"] {
        let path = format!("usr/share/man/man1/{page}.1.gz");
        assert!(there.contains(&path), "no manual page {page}");
        let file = system.path(&path);
        check("mandoc", ["-T", "lint", "-W", "error", file.to_str().unwrap()]);
        let text = check("mandoc", ["-T", "html", file.to_str().unwrap()]);
        assert!(text.contains("SYNOPSIS"), "{text}");
    }
    assert!(!there.iter().any(|path| path.contains("remedyd-manual")), "a hidden command is listed");
}

/// The unit's ExecStart and Environment, from the system's own files, with a broker; until SIGTERM.
async fn run_as_the_unit_would(system: &System) {
    let text = fs::read_to_string(system.path("/lib/systemd/system/remedyd.service")).unwrap();
    let (credentials, state) = (TempDir::new().unwrap(), system.path("/var/lib"));
    let mut outside = Outside::connect("package").await;
    for credential in unit(&text, "LoadCredential", credentials.path(), &state) {
        let (name, _) = credential.split_once(':').unwrap();
        assert_eq!(name, "amqp-url");
        fs::write(credentials.path().join(name), format!("{}\n", outside.url)).unwrap();
    }
    let started = unit(&text, "ExecStart", credentials.path(), &state);
    let [line] = &started[..] else { panic!("{started:?}") };
    let mut words = line.split(' ');
    let mut command = Command::new(system.path(words.next().unwrap()));
    // the settings file by its place in that system; everything else as it is
    command.env_clear().args(words.map(|word| if word.starts_with('/') { system.path(word).into_os_string() } else { word.into() }));
    for setting in unit(&text, "Environment", credentials.path(), &state) {
        let (name, value) = setting.split_once('=').unwrap();
        command.env(name, value);
    }
    // a test's own part of the broker, and no port that others may have
    command.env("REMEDYD_AMQP__PREFIX", &outside.prefix).env("REMEDYD_OPS__LISTEN", "127.0.0.1:0");
    outside.apply_topology();
    let mut service = Process::start(command);
    service.line("ready").await;
    outside.listen().await;
    outside.send(&Sent::structured(&sample("no-remediation")[0])).await;
    assert_eq!(outside.status().await.event()["causationid"], "soc-1004-1");
    service.stop().await;
    outside.clean().await;
    assert!(system.path("/var/lib/remedyd/p0").is_dir(), "the store is not in the state directory");
}

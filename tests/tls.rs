//! `remedyd serve` and a RabbitMQ that speaks TLS: a good certificate is enough, a bad one is the end of it, and
//! nothing is ever said in the clear instead.
//!
//! The certificates are made here, and last as long as the test. Never here: a broker that others use.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/node.rs"]
mod node;
#[path = "service/process.rs"]
mod process;
mod service;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use node::Node;
use process::Process;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use service::remedyd;
use tempfile::TempDir;

const PASSWORD: &str = "canary-of-tls";

/// An authority made up for a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn identity(&self, host: &str, last_year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(last_year, 12, 31));
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A RabbitMQ with TLS, and the files of both sides.
struct Place {
    node: Node,
    dir: TempDir,
}

impl Place {
    /// The broker trusts `clients`; with `asks` it refuses those without a certificate.
    fn new(authority: &Authority, clients: &Authority, asks: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let conf = format!(
            "listeners.ssl.1 = 127.0.0.1:@TLS_PORT@\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = {}\nssl_options.fail_if_no_peer_cert = {asks}\n",
            at("clients.pem"),
            at("broker.pem"),
            at("broker.key"),
            if asks { "verify_peer" } else { "verify_none" },
        );
        fs::write(dir.path().join("clients.pem"), &clients.pem).unwrap();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        write_identity(dir.path(), "broker", &authority.identity("localhost", 2200));
        let node = Node::start_with(&conf);
        node.ctl(&["add_user", "svc", PASSWORD]);
        node.ctl(&["set_permissions", "svc", ".*", ".*", ".*"]);
        Self { node, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the broker another certificate.
    fn broker_shows(&self, identity: &Identity) {
        write_identity(self.dir.path(), "broker", identity);
        self.node.ctl(&["eval", "ssl:clear_pem_cache()."]);
    }

    fn serve(&self, store: &Path) -> Command {
        serve(store, self.node.tls_port())
    }

    /// The service gets no connection, and says so in a line with all of `parts`.
    async fn check_refused(&self, mut command: Command, parts: &[&str]) {
        command.env("REMEDYD_AMQP__PREFIX", "tls");
        let mut service = Process::start(command);
        // more than one: it keeps trying
        for _ in 0..3 {
            let line = service.line_with(&["connecting to amqps://svc@localhost"]).await;
            assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} is not in: {line}");
        }
        assert_eq!(self.node.ctl(&["list_connections", "user"]).lines().filter(|line| *line == "svc").count(), 0);
        assert!(!service.log.iter().any(|line| line.ends_with("ready")), "{:#?}", service.log);
        check_end(service).await;
    }

    async fn check_works(&self, command: Command) {
        let mut service = Process::start(command);
        service.line("ready").await;
        let connections = self.node.ctl(&["list_connections", "user", "ssl"]);
        let ours: Vec<&str> = connections.lines().filter(|line| line.starts_with("svc")).collect();
        assert_eq!(ours, ["svc\ttrue", "svc\ttrue"], "{connections}");
        check_end(service).await;
    }
}

async fn check_end(mut service: Process) {
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    let leaks: Vec<&String> = service.log.iter().filter(|line| line.contains(PASSWORD) || line.contains("PRIVATE KEY")).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

fn write_identity(dir: &Path, name: &str, identity: &Identity) {
    fs::write(dir.join(format!("{name}.pem")), &identity.certificate).unwrap();
    fs::write(dir.join(format!("{name}.key")), &identity.key).unwrap();
}

fn serve(store: &Path, port: u16) -> Command {
    let mut command = remedyd(["serve", "--apply-topology", "--store"]);
    command.arg(store).env("REMEDYD_AMQP_URL", format!("amqps://svc:{PASSWORD}@localhost:{port}/%2f"));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_trusted_for_its_certificate_alone() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let place = Place::new(&authority, &stranger, false);
    let store = TempDir::new().unwrap();
    let trusting = || {
        let mut command = place.serve(store.path());
        command.env("REMEDYD_AMQP__TLS_CA_FILE", place.file("ca.pem"));
        command
    };
    place.check_works(trusting()).await;
    // the same broker, whose authority nobody has named
    place.check_refused(place.serve(store.path()), &["ERROR", "certificates", "UnknownIssuer"]).await;
    place.broker_shows(&authority.identity("localhost", 2021));
    place.check_refused(trusting(), &["ERROR", "certificates", "expired"]).await;
    place.broker_shows(&authority.identity("mq.example", 2200));
    place.check_refused(trusting(), &["ERROR", "certificates", "not valid for name", "localhost"]).await;
    place.broker_shows(&stranger.identity("localhost", 2200));
    place.check_refused(trusting(), &["ERROR", "certificates", "UnknownIssuer"]).await;
    // none of it was the broker's doing
    place.broker_shows(&authority.identity("localhost", 2200));
    place.check_works(trusting()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_asks_who_we_are_is_told() {
    let (authority, clients, stranger) = (Authority::new("ours"), Authority::new("clients"), Authority::new("a stranger"));
    let place = Place::new(&authority, &clients, true);
    write_identity(place.dir.path(), "service", &clients.identity("remedyd", 2200));
    write_identity(place.dir.path(), "stranger", &stranger.identity("remedyd", 2200));
    let store = TempDir::new().unwrap();
    let serve = |name: Option<&str>| {
        let mut command = place.serve(store.path());
        command.env("REMEDYD_AMQP__TLS_CA_FILE", place.file("ca.pem"));
        if let Some(name) = name {
            command.env("REMEDYD_AMQP__TLS_CERT_FILE", place.file(&format!("{name}.pem")));
            command.env("REMEDYD_AMQP__TLS_KEY_FILE", place.file(&format!("{name}.key")));
        }
        command
    };
    place.check_works(serve(Some("service"))).await;
    place.check_refused(serve(None), &["wants a certificate of ours", "amqp.tls_cert_file"]).await;
    place.check_refused(serve(Some("stranger")), &["or another one", "amqp.tls_cert_file"]).await;
    // the other command that connects knows the same settings
    let url = format!("amqps://svc:{PASSWORD}@localhost:{}/%2f", place.node.tls_port());
    let mut checking = remedyd(["topology", "check", "--tls-ca-file"]);
    checking.arg(place.file("ca.pem")).arg("--tls-cert-file").arg(place.file("service.pem"));
    checking.arg("--tls-key-file").arg(place.file("service.key")).env("REMEDYD_AMQP_URL", url);
    let checked = checking.output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Somebody on the way who answers in plain AMQP, as a broker without TLS would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_in_the_clear() {
    const ATTEMPTS: usize = 4;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard_in, heard) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().take(ATTEMPTS) {
            let mut stream = stream.unwrap();
            let mut first = [0; 1024];
            let mut said = vec![];
            // the header of a broker that speaks another version, which makes clients say theirs
            if let Ok(length) = stream.read(&mut first) {
                said.extend_from_slice(&first[..length]);
                let _ = stream.write_all(b"AMQP\0\0\x09\x01");
            }
            // whatever it still says, until it gives up
            let _ = stream.read_to_end(&mut said);
            heard_in.send(said).unwrap();
        }
    });
    let store = TempDir::new().unwrap();
    let mut service = Process::start(serve(store.path(), port));
    for _ in 0..ATTEMPTS {
        service.line_with(&["ERROR", "no encrypted connection to the broker"]).await;
    }
    for said in heard.iter().take(ATTEMPTS) {
        assert_eq!(said[..2], [0x16, 0x03], "not the beginning of TLS: {said:?}");
        let contains = |needle: &[u8]| said.windows(needle.len()).any(|window| window == needle);
        assert!(!contains(b"AMQP") && !contains(PASSWORD.as_bytes()), "in the clear: {said:?}");
    }
    check_end(service).await;
}

/// A file that does not exist, or is of no use, is told at the start and not in an endless reconnecting.
#[tokio::test]
async fn files_that_cannot_be_used_are_told_at_the_start() {
    let dir = TempDir::new().unwrap();
    let identity = Authority::new("ours").identity("localhost", 2200);
    write_identity(dir.path(), "service", &identity);
    let file = |name: &str| dir.path().join(name).display().to_string();
    let mut command = serve(dir.path(), 1);
    command.env("REMEDYD_AMQP__TLS_CA_FILE", file("missing.pem")).env("REMEDYD_AMQP__TLS_CERT_FILE", file("service.key"));
    check_lines(
        command,
        &["amqp.tls_ca_file", "cannot be read", "amqp.tls_cert_file", "there is no CERTIFICATE in it", "amqp.tls_key_file beside it"],
    )
    .await;
    let mut command = remedyd(["serve", "--store"]);
    command.arg(dir.path()).env("REMEDYD_AMQP__TLS_CA_FILE", file("service.pem")).env("REMEDYD_AMQP_URL", "amqp://127.0.0.1:1");
    check_lines(command, &["amqp.tls_ca_file", "amqp.url is not amqps://"]).await;
}

async fn check_lines(command: Command, parts: &[&str]) {
    let mut service = Process::start(command);
    assert_eq!(service.end().await.code(), Some(64), "{:#?}", service.log);
    let log = service.log.join("\n");
    assert!(parts.iter().all(|part| log.contains(part)), "{parts:?} is not in:\n{log}");
}

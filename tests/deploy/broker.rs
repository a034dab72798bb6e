//! `deploy/rabbitmq` on a real node: the configuration as it stands, users with the rights they need and no others, TLS from
//! both sides; and the service that works with all of it.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use remedyd::broker::amqp::Endpoint;
use remedyd::broker::amqp::connection::Connection;
use remedyd::broker::amqp::settings::{TimeOuts, Tls};
use serde_json::Value;
use tempfile::TempDir;

use crate::node::Node;
use crate::outside::{STRUCTURED, Sent};
use crate::process::{Process, within};
use crate::service::{remedyd, sample};
use crate::tools::{check, read, root};

/// A node with our files where its operator would put them.
struct Installed {
    node: Node,
    dir: TempDir,
}

impl Installed {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        check("deploy/rabbitmq/tls.sh", [path("tls").as_str(), "localhost", "127.0.0.1"]);
        check("deploy/rabbitmq/users.sh", [path("users")]);
        fs::create_dir(path("definitions")).unwrap();
        for (from, to) in [("definitions.json", "definitions.json"), ("policies-3.10.json", "policies.json")] {
            fs::copy(root().join("deploy/rabbitmq").join(from), dir.path().join("definitions").join(to)).unwrap();
        }
        fs::copy(path("users/users.json"), path("definitions/users.json")).unwrap();
        let conf = read("deploy/rabbitmq/rabbitmq.conf");
        assert!(conf.contains("= /etc/rabbitmq/definitions\n") && conf.contains("listeners.ssl.default = 5671\n"));
        let conf = conf.replace("/etc/rabbitmq", &dir.path().display().to_string());
        let node = Node::start_with(&conf.replace("default = 5671", "default = 127.0.0.1:@TLS_PORT@"));
        Self { node, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self, user: &str) -> String {
        let password = fs::read_to_string(self.file(&format!("users/{user}.password"))).unwrap();
        format!("amqps://{user}:{}@localhost:{}/%2f", password.trim(), self.node.tls_port())
    }

    /// A program of ours as this user, with the certificates.
    fn remedyd(&self, user: &str, args: &[&str]) -> std::process::Command {
        let mut command = remedyd(args);
        command.env("REMEDYD_AMQP_URL", self.url(user)).env("REMEDYD_AMQP__TLS_CA_FILE", self.file("tls/ca.pem"));
        command.env("REMEDYD_AMQP__TLS_CERT_FILE", self.file("tls/remedyd.pem"));
        command.env("REMEDYD_AMQP__TLS_KEY_FILE", self.file("tls/remedyd.key"));
        command
    }

    async fn login(&self, user: &'static str) -> Login {
        let pem = |name: &str| fs::read_to_string(self.file(name)).unwrap();
        let tls = Tls::new(Some(&pem("tls/ca.pem")), Some((&pem("tls/remedyd.pem"), &pem("tls/remedyd.key"))));
        let endpoint = Endpoint::parse(&self.url(user)).unwrap();
        let opened = Connection::open(&endpoint, user, &tls, TimeOuts::default()).await;
        Login { user, connection: opened.unwrap_or_else(|error| panic!("{user}: {}", error.chain())) }
    }
}

/// Somebody at the broker.
struct Login {
    user: &'static str,
    connection: Connection,
}

/// The code with which the broker closes the channel.
#[track_caller]
fn code<T>(answer: Result<T, lapin::Error>) -> u16 {
    match answer {
        Ok(_) => panic!("the broker allows it"),
        Err(error) => match error.kind() {
            lapin::ErrorKind::ProtocolError(refusal) => refusal.get_id(),
            other => panic!("not a refusal: {other:?}"),
        },
    }
}

impl Login {
    /// One each: a refusal closes it.
    async fn channel(&self) -> Channel {
        let channel = self.connection.lapin().create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        channel
    }

    async fn publish(&self, exchange: &str, sent: &Sent, as_user: &str) -> lapin::Result<Confirmation> {
        let channel = self.channel().await;
        let mut headers = FieldTable::default();
        for (name, value) in &sent.headers {
            headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        let properties = BasicProperties::default().with_content_type(STRUCTURED.into()).with_user_id(as_user.into()).with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = channel.basic_publish(exchange.into(), sent.routing_key.as_str().into(), options, &sent.body, properties);
        within("a confirm", within("publishing", publishing).await?).await
    }

    async fn sends(&self, sent: &Sent) {
        let confirmed = self.publish("remedyd.events", sent, self.user).await;
        assert_eq!(confirmed.unwrap(), Confirmation::Ack(None), "{} from {}", sent.routing_key, self.user);
    }

    async fn declare(&self, queue: &str) -> lapin::Result<()> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel().await.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
    }

    async fn consume(&self, queue: &str) -> lapin::Result<lapin::Consumer> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let channel = self.connection.lapin().create_channel().await?;
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await
    }
}

const ALLOWED_TO_VENDOR: [&str; 3] = ["incident_report.created", "incident_report.revised", "agent.surveyed"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_do_what_they_must_and_nothing_else() {
    let installed = Installed::new();
    let node = &installed.node;
    // what stands in our files is what the node has
    let users = node.ctl(&["list_users"]);
    for user in ["remedyd", "remedyd-portal", "remedyd-vendor", "remedyd-reader", "remedyd-operator"] {
        assert!(users.lines().any(|line| line.starts_with(&format!("{user}\t"))), "{user} is not in\n{users}");
    }
    assert!(!users.contains("guest"), "{users}");
    let queues = node.ctl(&["list_queues", "name", "policy", "type"]);
    for line in
        ["remedyd.p0.reports\tremedyd-inbound\tquorum", "remedyd.p0.surveys\tremedyd-inbound\tquorum", "remedyd.dead-letters\t\tquorum"]
    {
        assert!(queues.lines().any(|queue| queue == line), "{line} is not in\n{queues}");
    }
    let plain = node.url();
    let port = plain.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    assert!(TcpStream::connect(&port).is_err(), "somebody listens in the clear at {port}");

    // the service, with the settings of its container
    let store = TempDir::new().unwrap();
    let mut command = installed.remedyd("remedyd", &["serve", "--clock", "events", "--config", "deploy/docker/remedyd.toml"]);
    command.current_dir(root()).env("REMEDYD_STORE", store.path().join("store")).env("REMEDYD_LOG__FORMAT", "pretty");
    let mut service = Process::start(command);
    service.line("ready").await;

    let (portal, vendor) = (installed.login("remedyd-portal").await, installed.login("remedyd-vendor").await);
    let (reader, operator) = (installed.login("remedyd-reader").await, installed.login("remedyd-operator").await);
    reader.declare("remedyd-reader.all").await.unwrap();
    let (queue, exchange, none) = ("remedyd-reader.all".into(), "remedyd.status".into(), FieldTable::default());
    reader.channel().await.queue_bind(queue, exchange, "#".into(), QueueBindOptions::default(), none).await.unwrap();
    let mut heard = reader.consume("remedyd-reader.all").await.unwrap();
    let mut dead_letters = operator.consume("remedyd.dead-letters").await.unwrap();

    // a report from its arrival to its end, by the hands of both producers
    for event in sample("able-moose") {
        let sent = Sent::structured(&event);
        let of_vendor = ALLOWED_TO_VENDOR.iter().any(|kind| sent.routing_key.starts_with(kind));
        if of_vendor { vendor.sends(&sent).await } else { portal.sends(&sent).await }
    }
    loop {
        let delivery = within("the end of the report", heard.next()).await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(&delivery.data).unwrap();
        if event["type"] == "incident_report.status_changed" && event["data"]["to"] == "closed" {
            break;
        }
    }
    vendor.sends(&Sent { routing_key: "agent.surveyed.5.4".into(), body: b"rubbish".to_vec(), ..Sent::default() }).await;
    let dead = within("a dead letter", dead_letters.next()).await.unwrap().unwrap();
    assert_eq!(dead.data, b"rubbish");

    let approval = Sent { routing_key: "remediations.approved.5.4".into(), ..Sent::default() };
    let report = Sent { routing_key: "incident_report.created.5.4".into(), ..Sent::default() };
    // producers: in their own name, what is theirs to say, and nothing to read or to declare
    assert_eq!(code(vendor.publish("remedyd.events", &report, "remedyd-portal").await), 406, "in another's name");
    assert_eq!(code(vendor.publish("remedyd.events", &approval, "remedyd-vendor").await), 403);
    assert_eq!(code(portal.publish("remedyd.events", &report, "remedyd-portal").await), 403);
    for producer in [&vendor, &portal] {
        assert_eq!(code(producer.publish("remedyd.status", &report, producer.user).await), 403);
        assert_eq!(
            code(producer.publish("", &Sent { routing_key: "remedyd.p0.reports".into(), ..Sent::default() }, producer.user).await),
            403
        );
        for queue in ["remedyd.p0.reports", "remedyd.p0.surveys", "remedyd.dead-letters", "remedyd.unrouted", "remedyd-reader.all"] {
            assert_eq!(code(producer.consume(queue).await), 403, "{} reads {queue}", producer.user);
        }
        assert_eq!(code(producer.declare("remedyd-vendor.own").await), 403);
    }
    // readers: their own queues
    assert_eq!(code(reader.publish("remedyd.events", &report, "remedyd-reader").await), 403);
    assert_eq!(code(reader.declare("other.queue").await), 403);
    for queue in ["remedyd.p0.reports", "remedyd.dead-letters", "remedyd.unrouted"] {
        assert_eq!(code(reader.consume(queue).await), 403, "a reader reads {queue}");
    }
    // the service declares nothing, and speaks for nobody
    let itself = installed.login("remedyd").await;
    assert_eq!(code(itself.declare("remedyd.p9.reports").await), 403);
    assert_eq!(code(itself.publish("remedyd.events", &report, "remedyd").await), 403);
    assert_eq!(code(itself.consume("remedyd.dead-letters").await), 403);

    // the operator lays out, the service looks, a producer does neither
    let output = |user: &str, what: &str| installed.remedyd(user, &["topology", what]).output().unwrap();
    for (user, what, well) in [
        ("remedyd-operator", "apply", true),
        ("remedyd-operator", "check", true),
        ("remedyd", "check", true),
        ("remedyd", "apply", false),
        ("remedyd-vendor", "apply", false),
    ] {
        let output = tokio::task::block_in_place(|| output(user, what));
        assert_eq!(output.status.success(), well, "{user}, {what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    service.stop().await;
}

/// Running them again changes no password and no certificate, and what they write is for its owner alone.
#[test]
fn secrets_are_made_once_and_closed() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let make = || {
        check("deploy/rabbitmq/users.sh", [path("users").to_str().unwrap(), "/", "acme"]);
        check("deploy/rabbitmq/tls.sh", [path("tls").to_str().unwrap(), "broker.example", "10.0.0.1"]);
    };
    make();
    let kept = ["users/acme.password", "users/acme-portal.password", "tls/ca.pem", "tls/broker.pem", "tls/broker.key", "tls/remedyd.key"];
    let first: Vec<String> = kept.iter().map(|name| fs::read_to_string(path(name)).unwrap()).collect();
    make();
    for (name, first) in kept.iter().zip(first) {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), first, "{name}");
        let mode = path(name).metadata().unwrap().permissions().mode() & 0o077;
        assert!(mode == 0 || name.ends_with(".pem"), "{name}: {mode:o}");
    }
    let users: Value = serde_json::from_str(&fs::read_to_string(path("users/users.json")).unwrap()).unwrap();
    assert_eq!(users["permissions"][0]["write"], "^(acme\\.status|amq\\.default)$");
    let text = check("openssl", ["x509", "-noout", "-text", "-in", path("tls/broker.pem").to_str().unwrap()]);
    for part in ["DNS:broker.example", "IP Address:10.0.0.1", "TLS Web Server Authentication", "CA:FALSE"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

/// What 4.x knows beyond 3.10 stands only in its own file: 3.10 would refuse it as a whole.
#[test]
fn the_policies_of_both_versions_agree() {
    let of = |version: &str| -> Vec<Value> {
        let file: Value = serde_json::from_str(&read(&format!("deploy/rabbitmq/policies-{version}.json"))).unwrap();
        file["policies"].as_array().unwrap().clone()
    };
    let (old, new) = (of("3.10"), of("4"));
    for policy in &old {
        let same = new.iter().find(|other| other["name"] == policy["name"]).unwrap();
        assert_eq!(same["pattern"], policy["pattern"]);
        for (key, value) in policy["definition"].as_object().unwrap() {
            assert_eq!(&same["definition"][key], value, "{key}");
        }
        assert!(policy["definition"].get("target-group-size").is_none(), "3.10 does not know it");
    }
    assert!(new.iter().all(|policy| policy["apply-to"] == "quorum_queues"), "4.x tells the kinds apart");
}

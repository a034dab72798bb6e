//! The whole service under every fault that a broker, and the network on the way to it, can have.
//!
//! One service goes through what concerns a node as a whole, on a node of its own; three go through what a network
//! does, behind the project's own proxy and on the common node. Each fault comes while events are under way. After
//! each one heals, the service has to be back within ten seconds, measured from outside: an event is sent, and
//! something comes of it. In the end everything has been applied once, every sequence is gapless, and the bytes are
//! those of a replay that knows of no faults.
//!
//! `tests/link.rs` has the same at the link; here nothing is built in but `remedyd serve`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/node.rs"]
mod node;
#[path = "faults/observer.rs"]
mod observer;
#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
#[path = "support/proof.rs"]
mod proof;
#[path = "support/proxy.rs"]
mod proxy;
mod service;
#[path = "service/steps.rs"]
mod steps;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::options::{ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use node::Node;
use observer::Observer;
use process::Process;
use proxy::Proxy;
use serde_json::json;
use service::remedyd;
use tempfile::TempDir;

/// What design and README promise, from the end of a fault to the first thing done.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Pairs of events under way when a fault strikes.
const UNDER_WAY: usize = 10;
/// Services behind proxies, side by side: the slowest faults take half a minute of waiting each.
const SERVICES: usize = 3;

/// In the order of the summary.
const NODE_FAULTS: [&str; 10] = ["restart", "killed", "closed", "memory-alarm", "cancelled", "404", "403", "406", "unroutable", "nacked"];
const NETWORK_FAULTS: [&str; 6] = ["cut", "half-closed", "garbage", "slow", "no-confirm", "half-open"];

/// How often each fault was really injected, and the longest way back from it.
#[derive(Default)]
struct Count(BTreeMap<&'static str, (u64, Duration)>);

impl Count {
    fn add(&mut self, kind: &'static str, took: Duration) {
        assert!(took < RECONNECTED_WITHIN, "{kind}: back only after {took:?}");
        let (times, slowest) = self.0.entry(kind).or_default();
        *times += 1;
        *slowest = took.max(*slowest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn broker_faults() {
    let seed = proof::seed(0xb0c);
    // side by side: what takes long here is waiting
    let mut all = vec![tokio::spawn(node_faults(seed))];
    all.extend((0..SERVICES).map(|number| tokio::spawn(network_faults(number, seed))));
    let (mut count, mut copies, mut sent) = (Count::default(), 0, 0);
    for theirs in join_all(all).await {
        let (theirs, their_copies, their_sent) = theirs.expect("no fault has done harm");
        copies += their_copies;
        sent += their_sent;
        for (kind, (times, slowest)) in theirs.0 {
            let (all, longest) = count.0.entry(kind).or_default();
            *all += times;
            *longest = slowest.max(*longest);
        }
    }
    let times = |kind: &&'static str| {
        let times = count.0.get(kind).map_or(0, |(times, _)| *times);
        assert!(times > 0, "no fault of the kind {kind}");
        format!("{kind}={times}")
    };
    let kinds: Vec<String> = NODE_FAULTS.iter().chain(&NETWORK_FAULTS).map(times).collect();
    let slowest = count.0.values().map(|(_, slowest)| *slowest).max().unwrap();
    let line = format!("broker faults {}, slowest reconnect {:.1} s", kinds.join(" "), slowest.as_secs_f64());
    let figures = json!({
        "seed": seed, "events_sent": sent, "lost": 0, "copies": copies,
        "faults": count.0.iter().map(|(kind, (times, _))| (*kind, *times)).collect::<BTreeMap<_, _>>(),
        "slowest_reconnect_ms": count.0.iter().map(|(kind, (_, slowest))| (*kind, slowest.as_millis() as u64)).collect::<BTreeMap<_, _>>(),
    });
    proof::record("60-broker-faults", &line, &figures);
}

/// A service, and those who watch it.
struct Place {
    service: Process,
    observer: Observer,
    prefix: String,
    admin_url: String,
    _dir: TempDir,
}

impl Place {
    /// The service speaks to the broker by `url`, everybody else by `admin_url`. It only checks the topology, as it
    /// does in production.
    async fn new(name: &str, url: &str, admin_url: &str) -> Self {
        let prefix = format!("faults.{name}.{}", std::process::id());
        let dir = TempDir::new().unwrap();
        apply_topology(&prefix, admin_url);
        let observer = Observer::new(admin_url, &prefix).await;
        let mut command = remedyd(["serve", "--clock", "events", "--store"]);
        command.arg(dir.path()).env("REMEDYD_AMQP_URL", url).env("REMEDYD_AMQP__PREFIX", &prefix);
        let mut service = Process::start(command);
        service.line("ready").await;
        Self { service, observer, prefix, admin_url: admin_url.to_owned(), _dir: dir }
    }

    fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Events are under way from here on.
    async fn busy(&mut self) {
        self.service.read_log();
        self.observer.send(UNDER_WAY).await;
    }

    async fn says(&mut self, parts: &[&str]) {
        self.service.line_with(parts).await;
    }

    /// Both connections are gone. Each notices by itself, a silent end at the pace of its own heartbeats.
    async fn loses_both(&mut self) {
        let mut left = vec!["role=\"consumer\"", "role=\"publisher\""];
        while !left.is_empty() {
            let line = self.service.line_with(&["connection lost"]).await;
            left.retain(|role| !line.contains(role));
        }
    }

    /// Stops the service and judges everything. Returns copies and events sent.
    async fn end(mut self) -> (usize, usize) {
        self.observer.settle().await;
        self.service.signal("TERM");
        let status = self.service.end().await;
        assert_eq!(status.code(), Some(0), "{}", self.service.log.join("\n"));
        let wrong: Vec<&String> = self.service.log.iter().filter(|line| line.contains("panicked")).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let figures = (self.observer.copies(), self.observer.sent());
        let (_connection, channel) = self.observer.channel().await;
        self.observer.check().await;
        for name in ["heard", "p0.reports", "p0.surveys", "unrouted", "dead-letters"] {
            let queue = format!("{}.{name}", self.prefix);
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        }
        for name in ["events", "events.rest", "status", "unrouted"] {
            let exchange = format!("{}.{name}", self.prefix);
            channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
        figures
    }
}

fn apply_topology(prefix: &str, url: &str) {
    let applied = remedyd(["topology", "apply", "--prefix", prefix]).env("REMEDYD_AMQP_URL", url).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// The faults in an order that the seed decides.
fn shuffled<const N: usize>(mut kinds: [&'static str; N], seed: u64) -> [&'static str; N] {
    let mut state = seed;
    for end in (1..N).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        kinds.swap(end, (state >> 33) as usize % (end + 1));
    }
    kinds
}

async fn node_faults(seed: u64) -> (Count, usize, usize) {
    let node = Node::start();
    let (admin_url, mut count) = (node.url(), Count::default());
    node.ctl(&["add_user", "remedyd", "of-the-service"]);
    node.ctl(&["set_permissions", "remedyd", ".*", ".*", ".*"]);
    let url = admin_url.replacen("guest:guest", "remedyd:of-the-service", 1);
    let mut place = Place::new("node", &url, &admin_url).await;
    let (budget, mut done) = (proof::Budget::rounds(3), 0);
    while budget.goes_on(done) {
        for kind in shuffled(NODE_FAULTS, seed + done) {
            let healed = node_fault(kind, &node, &mut place).await;
            count.add(kind, place.observer.recovered(healed).await);
        }
        done += 1;
    }
    let (copies, sent) = place.end().await;
    (count, copies, sent)
}

/// Injects one fault, sees that the service has felt it, and heals it. Returns when it was healed.
async fn node_fault(kind: &str, node: &Node, place: &mut Place) -> Instant {
    match kind {
        "restart" => {
            place.busy().await;
            node.ctl(&["stop_app"]);
            place.says(&["connection lost"]).await;
            node.ctl(&["start_app"]);
            place.observer.disconnect();
        }
        "killed" => {
            place.busy().await;
            node.kill();
            place.says(&["connection lost"]).await;
            node.again();
            node.elect();
            place.observer.disconnect();
        }
        "closed" => {
            place.busy().await;
            node.ctl(&["close_all_connections", "an operator's wish"]);
            place.says(&["connection lost", "an operator's wish"]).await;
            place.observer.disconnect();
        }
        "memory-alarm" => memory_alarm(node, place).await,
        // a queue that is deleted takes its messages along: nothing may be in it
        "cancelled" => {
            let (_connection, channel) = place.observer.channel().await;
            place.service.read_log();
            let queue = place.name("p0.surveys");
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
            place.says(&["the broker cancelled the consumer of queue", &queue]).await;
            place.says(&["ERROR", "the broker refuses us: configuration", &format!("{queue}: absent")]).await;
            place.observer.send(UNDER_WAY).await;
            apply_topology(&place.prefix, &place.admin_url);
        }
        "404" => {
            let (_connection, channel) = place.observer.channel().await;
            place.service.read_log();
            let exchange = place.name("status");
            channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
            place.observer.send(UNDER_WAY).await;
            place.says(&["NOT_FOUND", &exchange]).await;
            place.says(&["ERROR", "the broker refuses us: configuration", &format!("{exchange}: absent")]).await;
            apply_topology(&place.prefix, &place.admin_url);
            place.observer.listen_again().await;
        }
        "403" => {
            node.ctl(&["set_permissions", "remedyd", ".*", "^$", ".*"]);
            place.busy().await;
            // rights are looked at once for each channel
            node.ctl(&["close_all_connections", "other rights"]);
            place.observer.disconnect();
            place.observer.send(UNDER_WAY).await;
            place.says(&["ERROR", "the broker refuses us: configuration", "ACCESS_REFUSED"]).await;
            node.ctl(&["set_permissions", "remedyd", ".*", ".*", ".*"]);
        }
        "406" => {
            let (_connection, channel) = place.observer.channel().await;
            place.observer.send(UNDER_WAY).await;
            place.observer.settle().await;
            let queue = place.name("dead-letters");
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
            place.service.read_log();
            node.ctl(&["close_all_connections", "to look at the topology again"]);
            place.observer.disconnect();
            place.says(&["ERROR", "the broker refuses us: configuration", &queue, "PRECONDITION_FAILED"]).await;
            let (_connection, channel) = place.observer.channel().await;
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
            apply_topology(&place.prefix, &place.admin_url);
        }
        "unroutable" => {
            place.service.read_log();
            place.observer.stop_listening().await;
            place.observer.send(UNDER_WAY).await;
            place.says(&["the broker did not take a message", "returned as unroutable"]).await;
            place.observer.listen_again().await;
            apply_topology(&place.prefix, &place.admin_url);
        }
        "nacked" => {
            let (_connection, channel) = place.observer.channel().await;
            place.service.read_log();
            let (queue, exchange) = (place.name("full"), place.name("status"));
            let mut full = FieldTable::default();
            full.insert("x-max-length".into(), AMQPValue::LongInt(1));
            full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
            channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), full).await.unwrap();
            let binding = channel.queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            binding.await.unwrap();
            place.observer.send(UNDER_WAY).await;
            place.says(&["the broker did not take a message", "nack"]).await;
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        }
        other => panic!("{other} is not a fault of a node"),
    }
    Instant::now()
}

/// Publishing pauses, and consuming and acking go on: the queue runs empty while nothing comes out.
async fn memory_alarm(node: &Node, place: &mut Place) {
    place.service.read_log();
    // nobody else can publish during the alarm: what is to be decided then has to be in the queue before
    place.service.signal("STOP");
    place.observer.send(UNDER_WAY).await;
    node.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    place.service.signal("CONT");
    place.says(&["the broker blocks publishing"]).await;
    let (reports, heard) = (place.name("p0.reports"), place.name("heard"));
    // as often as rabbitmqctl answers
    let drained = (0..20).any(|_| {
        let listed = node.ctl(&["list_queues", "name", "messages"]);
        let messages = |queue: &str| listed.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")).map(str::to_owned));
        assert_eq!(messages(&heard).as_deref(), Some("0"), "published while the broker blocks: {listed}");
        messages(&reports).as_deref() == Some("0")
    });
    assert!(drained, "no acks while the broker blocks");
    assert!(!place.observer.is_settled(), "published while the broker blocks");
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
}

async fn network_faults(number: usize, seed: u64) -> (Count, usize, usize) {
    let (admin_url, mut count) = (outside::broker_url(), Count::default());
    let (credentials, rest) = admin_url.rsplit_once('@').unwrap();
    let (address, vhost) = rest.split_once('/').unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let proxy = Proxy::start((host.to_owned(), port.parse().unwrap()));
    let url = format!("{credentials}@{}/{vhost}", proxy.address);
    let mut place = Place::new(&format!("network{number}"), &url, &admin_url).await;
    let (budget, mut done) = (proof::Budget::rounds(1), 0);
    while budget.goes_on(done) {
        for kind in shuffled(NETWORK_FAULTS, seed + 1_000 * number as u64 + done) {
            let healed = network_fault(kind, number as u64 + done, &proxy, &mut place).await;
            count.add(kind, place.observer.recovered(healed).await);
        }
        done += 1;
    }
    let (copies, sent) = place.end().await;
    (count, copies, sent)
}

/// As [`node_fault`].
async fn network_fault(kind: &str, variant: u64, proxy: &Proxy, place: &mut Place) -> Instant {
    place.busy().await;
    match kind {
        "cut" => {
            proxy.cut();
            place.loses_both().await;
        }
        "half-closed" => {
            proxy.half_close();
            place.loses_both().await;
        }
        "garbage" => {
            match variant % 3 {
                0 => proxy.garble_answers(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
                1 => proxy.garble_requests(&[0xff; 64]),
                // the beginning of a frame of a gigabyte: what follows would all be its payload, heartbeats included
                _ => {
                    proxy.garble_answers(&[3, 0, 1, 0x40, 0, 0, 0]);
                    place.observer.send(UNDER_WAY).await;
                    place.says(&["connection lost", "asking whether the broker still answers"]).await;
                    place.says(&["connection lost", "waiting for publisher confirms"]).await;
                    return Instant::now();
                }
            }
            place.says(&["connection lost"]).await;
        }
        "slow" => {
            proxy.slow_down();
            place.observer.send(UNDER_WAY).await;
            place.observer.settle().await;
            assert!(proxy.speed_up() > 0, "nothing passed slowly");
            place.service.read_log();
        }
        "no-confirm" => {
            let copies = place.observer.copies();
            let withheld = proxy.keep_confirms_back();
            place.observer.send(UNDER_WAY).await;
            place.says(&["connection lost", "waiting for publisher confirms: no answer within 30 s"]).await;
            assert!(withheld() > 0, "no confirm was kept back");
            let healed = Instant::now();
            place.observer.recovered(healed).await;
            assert!(place.observer.copies() > copies, "what was not confirmed has not been published again");
            return healed;
        }
        "half-open" => {
            let given_up = proxy.forget();
            place.loses_both().await;
            // a queue has one consumer at a time: the new one waits until the broker, too, has missed its heartbeats
            tokio::task::block_in_place(|| given_up(process::PATIENCE));
        }
        other => panic!("{other} is not a fault of a network"),
    }
    Instant::now()
}

//! One partition that knows a million agents of ten thousand tenants: what that costs on disk, in memory and at a start.
//!
//! `cargo bench --bench scale` (`AGENTS=100000` for fewer, `CACHE_MIB=64` for another page cache than the default). Every agent
//! surveys once, as it does for the first time, and a fifth of them again, in an order that no cache likes; the store is the
//! service's own. The start is measured in a process of its own, as an operator would see it. The goals stand beside the
//! figures; nothing fails here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use remedyd::agent::simulated::Model;
use remedyd::broker::{Lane, Message, Token};
use remedyd::config::Settings;
use remedyd::machine::policy::Policy;
use remedyd::model::time::{after, days, system_now};
use remedyd::pipeline::clock::Clock;
use remedyd::pipeline::partition::{Partition, PartitionSettings};
use remedyd::pipeline::{recovery, rows};
use remedyd::store::Store;
use remedyd::store::journal::JournalStore;
use remedyd::store::sled::SledSettings;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANTS: u64 = 10_000;
const EVENTS_A_BATCH: u64 = 256;
const MIB: u64 = 1024 * 1024;
/// A prime, so that the steps come to each agent once; not near to a round number of agents, so that they do not creep.
const STRIDE: u64 = 611_953;
const START: &str = "REMEDYD_BENCH_START";

fn main() {
    if let Some(dir) = std::env::var_os(START) {
        return start(Path::new(&dir));
    }
    let agents: u64 = std::env::var("AGENTS").ok().map_or(1_000_000, |text| text.parse().expect("AGENTS is a number"));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("p0");
    let before = resident_mib();
    let (mut partition, opened) = open(&store);
    println!("{agents} agents of {TENANTS} tenants, {} MiB of page cache, one core and no broker", cache_bytes() / MIB);
    take_surveys(&mut partition, &opened, "the first of each", 0..agents);
    take_surveys(&mut partition, &opened, "of a fifth again", (1..=agents / 5).map(|step| step * STRIDE % agents));
    opened.checkpoint().unwrap();
    println!("resident          {:6.0} MiB   (goal: at most 512; {before:.0} before)", resident_mib());
    drop((partition, opened));
    println!("disk              {:6.0} bytes an agent (goal: at most 1024)", disk_bytes(&store) as f64 / agents as f64);
    let child = Command::new(std::env::current_exe().unwrap()).env(START, &store).status().unwrap();
    assert!(child.success());
}

fn take_surveys(partition: &mut Partition<JournalStore>, store: &JournalStore, which: &str, of: impl Iterator<Item = u64>) {
    let (began, mut taken) = (Instant::now(), 0);
    for n in of {
        let message = survey(n);
        let decoded = rows::decode(&message);
        taken += 1;
        partition.take_delivery(Token { epoch: 1, lane: Lane::Surveys, tag: taken }, message, decoded).unwrap();
        if taken % EVENTS_A_BATCH == 0 {
            commit(partition, store);
        }
    }
    commit(partition, store);
    println!("{which:18}{:6.0} surveys/s", taken as f64 / began.elapsed().as_secs_f64());
}

/// A start over what the first process has left.
fn start(store: &Path) {
    let began = Instant::now();
    let (partition, _opened) = open(store);
    println!("start             {:6.1} s     (goal: at most 5)", began.elapsed().as_secs_f64());
    println!("resident after it {:6.0} MiB", resident_mib());
    assert!(partition.next_due().is_some(), "every agent has a timer");
}

fn open(dir: &Path) -> (Partition<JournalStore>, Arc<JournalStore>) {
    let settings = SledSettings { cache_bytes: cache_bytes(), ..SledSettings::default() };
    let store = Arc::new(JournalStore::open(dir, settings).unwrap());
    let settings = PartitionSettings {
        clock: Clock::System,
        policy: Policy { surveys_caught_up: false, ..Policy::default() },
        model: Model::Steady,
        dead_letter_queue: "dead".into(),
        status_exchange: "status".into(),
        audit_kept: days(400),
    };
    let (partition, outbox) = recovery::open(Arc::clone(&store), settings).unwrap();
    assert!(outbox.is_empty());
    (partition, store)
}

fn cache_bytes() -> u64 {
    let given = std::env::var("CACHE_MIB").ok().map(|text| text.parse().expect("CACHE_MIB is a number"));
    given.unwrap_or_else(|| Settings::default().store.cache_mib) * MIB
}

fn commit(partition: &mut Partition<JournalStore>, store: &JournalStore) {
    while let Some(sealed) = partition.seal().unwrap() {
        store.commit(&sealed.batch).unwrap();
        partition.committed(&sealed);
        let numbers: Vec<u64> = sealed.followers.outbox.iter().map(|(number, _)| *number).collect();
        partition.confirmed(&numbers);
    }
}

fn survey(n: u64) -> Message {
    let time = after(system_now(), -remedyd::model::time::minutes(1));
    let event = serde_json::json!({ "specversion": "1.0", "id": format!("s-{n}"), "source": "agents", "type": "agent.surveyed",
        "time": time.to_string(), "tenantid": format!("1.{}", n % TENANTS + 1), "data": { "agent_id": n / TENANTS + 1,
        "surveyed_at": time.to_string(), "hostname": format!("host-{n}"), "platform": "windows", "agent_version": "0.14.7" } });
    Message { body: event.to_string().into_bytes(), content_type: Some("application/cloudevents+json".into()), ..Message::default() }
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4.0 / 1024.0
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { disk_bytes(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}

//! kill -9 of the real service, at each crash point and at random, SIGTERM at random, too little memory, and kill -9
//! of the real broker. An external ledger (kills/ledger.rs) keeps what was published and confirmed and what came
//! back, and is judged (kills/judge.rs) without a look into the store.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and the feature `crash-points`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "kills/judge.rs"]
mod judge;
#[path = "kills/ledger.rs"]
mod ledger;
#[path = "kills/load.rs"]
mod load;
#[path = "support/node.rs"]
mod node;
#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
#[path = "support/proof.rs"]
mod proof;
mod service;
#[path = "kills/story.rs"]
mod story;

use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use judge::{Verdict, judge};
use load::Load;
use node::Node;
use outside::broker_url;
use process::{PATIENCE, Process, within};
use proof::Budget;
use remedyd::crash::{self, Point};
use serde_json::{Value, json};
use service::remedyd;
use story::Dice;
use tempfile::TempDir;
use tokio::time::timeout;

/// Publications under way at a time: few, so that the bound on copies means something.
const WINDOW: usize = 16;
/// A checkpoint after some tens of events, so that a life of a second has several.
const CHECKPOINT_BYTES: u64 = 64 * 1024;
/// Floods of 100 messages of 200 KiB after which a service without memory must have ended.
const FLOODS: usize = 12;
/// Stops in the long form, at the least.
const LONG_STOPS: u64 = 200;
/// Kills of one installation in the long form. A store that grows for ever would slow the test, not prove more.
const KILLS_A_CAMPAIGN: u64 = 100;

/// What the service takes for the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    System,
    /// Timers are ours to fire, and identities' stories can be told.
    Events,
}

/// An installation under load.
struct Run {
    url: String,
    prefix: String,
    dir: TempDir,
    clock: Clock,
    load: Load,
}

impl Run {
    async fn begin(test: &str, url: &str, clock: Clock, seed: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("kills.{test}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let applied = remedyd(["topology", "apply", "--prefix", &prefix]).env("REMEDYD_AMQP_URL", url).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let dir = TempDir::new().unwrap();
        let load = Load::start(url, &prefix, &dir.path().join("ledger"), seed, clock == Clock::Events).await;
        Self { url: url.into(), prefix, dir, clock, load }
    }

    fn serve(&self) -> Command {
        let clock = match self.clock {
            Clock::System => "system",
            Clock::Events => "events",
        };
        let mut command = remedyd(["serve", "--clock", clock, "--store"]);
        command.arg(self.dir.path().join("store")).env("REMEDYD_AMQP_URL", &self.url).env("REMEDYD_AMQP__PREFIX", &self.prefix);
        command.env("REMEDYD_AMQP__PUBLISH_WINDOW", WINDOW.to_string());
        // stories date their surveys ten times as far apart
        command.env("REMEDYD_AGENTS__SURVEY_INTERVAL_MINUTES", "1");
        command.env("REMEDYD_CHECKPOINT_BYTES", CHECKPOINT_BYTES.to_string());
        // several batches on their way, whatever the machine
        command.env("REMEDYD_LIMITS__BATCH_EVENTS", "8").env("REMEDYD_AMQP__PREFETCH_REPORTS", "64");
        command
    }

    async fn ready(&self) -> Process {
        let mut service = Process::start(self.serve());
        service.line("ready").await;
        service
    }

    /// Waits for the end of a process, which must come by itself.
    async fn ended(&mut self, service: &mut Process, what: &str) -> ExitStatus {
        let (ended, heard) = (timeout(PATIENCE, service.ended()), self.load.heard());
        let ended = tokio::select! {
            ended = ended => ended,
            never = self.load.broken() => never,
        };
        let Ok(status) = ended else {
            let (more, told, log) = (self.load.heard() - heard, self.load.tell().await, service.read_log().join("\n"));
            panic!("{what}: it has not ended within {PATIENCE:?}, and has published {more} events meanwhile:\n{log}\n{told}");
        };
        status
    }

    /// A life that ends at `point`.
    async fn die_at(&mut self, point: Point, hits: u64) {
        let what = format!("{} ({}), hit {hits}", point.code(), point.place());
        let mut command = self.serve();
        command.env("REMEDYD_CRASH_AT", format!("{}:{hits}", point.code()));
        let mut service = Process::start(command);
        if matches!(point, Point::ConsumersCancelled | Point::FinalFlush) {
            service.line("ready").await;
            self.load.hears(20).await;
            service.signal("TERM");
        }
        let status = self.ended(&mut service, &what).await;
        let reached = format!("crash point {} reached", point.code());
        assert!(service.log.iter().any(|line| line.starts_with(&reached)), "{what} was not reached:\n{}", service.log.join("\n"));
        assert_eq!(status.code(), None, "{what}: it was not ended by the signal");
        self.load.crashed(what);
    }

    /// Lets everything settle, stops the service in order, and judges.
    async fn judge(self, service: Process) -> (Verdict, Duration) {
        let settled = self.load.finish().await;
        service.stop().await;
        self.load.end().await;
        let verdict = judge(&ledger::read(&self.dir.path().join("ledger")), WINDOW);
        if !verdict.lost.is_empty() || !verdict.wrong.is_empty() {
            let kept = self.dir.keep();
            let (lost, wrong) = (verdict.lost.join("\n"), verdict.wrong.join("\n"));
            panic!(
                "lost {}, wrong {}, ledger and store are in {}\n{lost}\n{wrong}",
                verdict.lost.len(),
                verdict.wrong.len(),
                kept.display()
            );
        }
        assert!(
            verdict.closed > 0 && verdict.attempts > 0 && verdict.refused > 0 && verdict.duplicates_in > 0,
            "nothing was shown: {verdict:?}"
        );
        (verdict, settled)
    }
}

/// The figures of several verdicts.
#[derive(Default)]
struct Sum {
    verdict: Verdict,
    settled: Duration,
    runs: usize,
}

impl Sum {
    fn add(&mut self, (verdict, settled): (Verdict, Duration)) {
        let sum = &mut self.verdict;
        sum.applied += verdict.applied;
        sum.observed += verdict.observed;
        sum.refused += verdict.refused;
        sum.duplicates_in += verdict.duplicates_in;
        sum.outbound += verdict.outbound;
        sum.dead_letters += verdict.dead_letters;
        sum.copies += verdict.copies;
        sum.crashes += verdict.crashes;
        sum.closed += verdict.closed;
        sum.attempts += verdict.attempts;
        self.settled = self.settled.max(settled);
        self.runs += 1;
    }

    fn bound(&self) -> usize {
        WINDOW * self.verdict.crashes
    }

    fn figures(&self, seed: u64, more: Value) -> Value {
        let sum = &self.verdict;
        let mut figures = json!({
            "seed": seed, "installations": self.runs, "crashes": sum.crashes, "lost": 0, "wrong": 0,
            "published": sum.applied + sum.observed + sum.refused + sum.duplicates_in,
            "applied": sum.applied, "surveys": sum.observed, "dead_lettered": sum.refused, "duplicates_in": sum.duplicates_in,
            "outbound": sum.outbound, "dead_letters": sum.dead_letters, "copies": sum.copies, "copies_bound": self.bound(),
            "publish_window": WINDOW, "reports_closed": sum.closed,
            "attempts": sum.attempts, "slowest_settling_ms": self.settled.as_millis() as u64,
        });
        figures.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        figures
    }
}

/// Points that every start comes to once; the others are come to again and again.
fn at_start(point: Point) -> bool {
    matches!(
        point,
        Point::Creating
            | Point::Locked
            | Point::Opening
            | Point::DatabaseOpen
            | Point::Opened
            | Point::JournalRead
            | Point::Recovered
            | Point::OutboxRead
    )
}

fn at_stop(point: Point) -> bool {
    matches!(point, Point::ConsumersCancelled | Point::FinalFlush)
}

/// Each point, three times, under load, each life on the store that the one before left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_crash_point() {
    let seed = proof::seed(1);
    let (budget, mut dice) = (Budget::rounds(1), Dice::new(seed));
    let (mut sum, mut rounds, mut points) = (Sum::default(), 0, std::collections::BTreeMap::<String, u64>::new());
    while budget.goes_on(rounds) {
        let mut run = Run::begin("points", &broker_url(), Clock::Events, seed.wrapping_add(rounds)).await;
        // a store can only be created where there is none
        let mut lives: Vec<Point> =
            crash::ALL.iter().copied().filter(|point| *point != Point::Creating).flat_map(|point| [point; 3]).collect();
        for place in (1..lives.len()).rev() {
            lives.swap(place, dice.roll(place as u64 + 1) as usize);
        }
        lives.splice(0..0, [Point::Creating; 3]);
        for point in lives {
            match point {
                // a row is there for certain when its message was on its way
                Point::OutboxRead => run.die_at(Point::Published, 1).await,
                // ids are old after a week; what is under way then has to be through before
                Point::InboxSwept => {
                    let service = run.ready().await;
                    run.load.finish().await;
                    service.stop().await;
                    run.load.jump(9);
                    run.load.resume();
                }
                _ => {}
            }
            let hits = if at_start(point) || at_stop(point) { 1 } else { 1 + dice.roll(6) };
            run.die_at(point, hits).await;
            *points.entry(point.code()).or_default() += 1;
        }
        let service = run.ready().await;
        sum.add(run.judge(service).await);
        rounds += 1;
    }
    let reached = crash::ALL.iter().filter(|point| points.get(&point.code()).is_some_and(|times| *times >= 3)).count();
    assert_eq!(reached, crash::ALL.len(), "{points:?}");
    let line = format!("crash points {reached}/{}", crash::ALL.len());
    proof::record("10-crash-points", &line, &sum.figures(seed, json!({ "points": points, "rounds": rounds })));
}

/// kill -9 at any moment: while it starts, while it works, while it recovers from the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills() {
    let seed = proof::seed(2);
    let (budget, mut dice) = (Budget::rounds(40), Dice::new(seed));
    let (mut sum, mut kills) = (Sum::default(), 0);
    while budget.goes_on(kills) {
        let clock = if sum.runs % 2 == 0 { Clock::System } else { Clock::Events };
        let mut run = Run::begin("random", &broker_url(), clock, seed.wrapping_add(kills)).await;
        let campaign = if budget.is_long() { KILLS_A_CAMPAIGN } else { 20 };
        for _ in 0..campaign {
            let mut service = Process::start(run.serve());
            if dice.percent(50) {
                run.load.hears(1).await;
            }
            // the kill is at a time, not after anything that happens; an end before it is a failure of the service
            let moment = Duration::from_millis(dice.roll(400));
            let early = timeout(moment, run.ended(&mut service, "a life")).await;
            assert!(early.is_err(), "it has ended by itself: {early:?}\n{}", service.log.join("\n"));
            service.kill().await;
            run.load.crashed(format!("after {moment:?}"));
            kills += 1;
        }
        let service = run.ready().await;
        sum.add(run.judge(service).await);
    }
    let line = format!("kills {kills}, lost 0, wrong 0, duplicates {} (bound {})", sum.verdict.copies, sum.bound());
    proof::record("30-kills", &line, &sum.figures(seed, json!({ "kills": kills })));
}

/// SIGTERM at any moment: everything that was begun is finished, and nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_at_random_moments() {
    let seed = proof::seed(3);
    let (budget, mut dice) = (Budget::rounds(20), Dice::new(seed));
    let mut run = Run::begin("stops", &broker_url(), Clock::System, seed).await;
    let (mut stops, mut starting, mut slowest) = (0, 0, Duration::ZERO);
    while budget.goes_on(stops) || (budget.is_long() && stops < LONG_STOPS) {
        // some while it starts: from the line on that comes before its store is opened
        let early = dice.percent(25);
        let mut service = if early { Process::watched(run.serve()).await.0 } else { run.ready().await };
        let moment = Duration::from_millis(dice.roll(if early { 50 } else { 500 }));
        let ended = timeout(moment, run.ended(&mut service, "a life")).await;
        assert!(ended.is_err(), "it has ended by itself: {ended:?}\n{}", service.log.join("\n"));
        starting += u64::from(!service.read_log().iter().any(|line| line.ends_with("ready")));
        let asked = Instant::now();
        service.stop().await;
        slowest = slowest.max(asked.elapsed());
        stops += 1;
    }
    let service = run.ready().await;
    let mut sum = Sum::default();
    sum.add(run.judge(service).await);
    assert_eq!(sum.verdict.copies, 0, "published twice without a crash");
    let line = format!(
        "stops {stops} by SIGTERM ({starting} before it was ready), exit 0 each, slowest {:.1} s, lost 0, wrong 0, duplicates 0",
        slowest.as_secs_f64()
    );
    let more = json!({ "stops": stops, "before_it_was_ready": starting, "slowest_stop_ms": slowest.as_millis() as u64 });
    proof::record("40-stops", &line, &sum.figures(seed, more));
}

/// Where memory ends, an allocation fails: the process dies or says why it ends, and the next one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    let seed = proof::seed(4);
    let mut run = Run::begin("memory", &broker_url(), Clock::System, seed).await;
    let (mut deaths, mut said) = (0, Vec::new());
    for spare_kib in [0_u64, 128, 512] {
        let mut command = run.serve();
        // else the allocator has a gigabyte committed from the start, and no limit is met
        command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
        let mut service = Process::start(command);
        service.line("ready").await;
        run.load.hears(50).await;
        service.limit_memory(spare_kib);
        // what was freed since the last flood may be enough for the next one, but not for ever
        let mut status = None;
        for _ in 0..FLOODS {
            run.load.flood(100);
            status = timeout(Duration::from_secs(5), run.ended(&mut service, "a life")).await.ok();
            if status.is_some() {
                break;
            }
        }
        let status = status.unwrap_or_else(|| panic!("{spare_kib} KiB to spare were enough:\n{}", service.log.join("\n")));
        assert_ne!(status.code(), Some(0), "{}", service.log.join("\n"));
        // the last where it was the stack of a new thread
        let clear = ["memory allocation of", "failed to allocate", "Cannot allocate memory", "Resource temporarily unavailable"];
        let line = service.log.iter().rev().find(|line| clear.iter().any(|text| line.contains(text)));
        said.push(line.unwrap_or_else(|| panic!("{status}, and no line says why:\n{}", service.log.join("\n"))).clone());
        run.load.crashed(format!("no memory: {status}"));
        deaths += 1;
    }
    let service = run.ready().await;
    let mut sum = Sum::default();
    sum.add(run.judge(service).await);
    let line = format!("out of memory {deaths}, each ended with a clear line, lost 0, wrong 0");
    proof::record("45-out-of-memory", &line, &sum.figures(seed, json!({ "deaths": deaths, "said": said })));
}

/// kill -9 of the broker under load, and its restart on what it had on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_kills() {
    let seed = proof::seed(5);
    let budget = Budget::rounds(3);
    let node = Node::start();
    let mut run = Run::begin("broker", &node.url(), Clock::System, seed).await;
    let mut service = run.ready().await;
    let (mut kills, mut slowest, mut led) = (0, Duration::ZERO, Vec::new());
    while budget.goes_on(kills) {
        run.load.hears(200).await;
        run.load.broker_is_there(false);
        node.kill();
        let gone = Instant::now();
        run.load.crashed("the broker was killed");
        service.line_with(&["the connection to the broker is lost"]).await;
        node.again();
        let (back, outage) = (Instant::now(), gone.elapsed());
        led.extend(node.elect());
        run.load.broker_is_there(true);
        service.line_with(&["connected again"]).await;
        // a node that has just started may leave one call without an answer, which is given up after 10 s; the pause
        // before the next connection is about half of the outage; the rest is for a machine that does other things
        let most = Duration::from_secs(15) + outage / 2;
        assert!(back.elapsed() < most, "reconnected {:?} after an outage of {outage:?}", back.elapsed());
        slowest = slowest.max(back.elapsed());
        run.load.hears(50).await;
        kills += 1;
    }
    let mut sum = Sum::default();
    sum.add(run.judge(service).await);
    let slowest_s = slowest.as_secs_f64();
    let line = format!(
        "broker kills {kills}, lost 0, wrong 0, duplicates {} (bound {}), slowest reconnect {slowest_s:.1} s",
        sum.verdict.copies,
        sum.bound()
    );
    proof::record(
        "60-broker-kills",
        &line,
        &sum.figures(
            seed,
            json!({ "broker_kills": kills, "slowest_reconnect_ms": slowest.as_millis() as u64, "elections_by_hand": led.len() }),
        ),
    );
}

/// A second signal does not wait for what the first one has begun: the broker is silent, and the drain has seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_at_once() {
    let node = Node::start();
    let mut run = Run::begin("twice", &node.url(), Clock::System, proof::seed(6)).await;
    let mut service = run.ready().await;
    // so many that some of everything that the judge asks for is among them
    run.load.hears(400).await;
    node.freeze();
    service.signal("TERM");
    service.line_with(&["stopping: taking no more"]).await;
    let asked = Instant::now();
    service.signal("TERM");
    let status = within("its end", service.ended()).await;
    assert_eq!(status.code(), Some(1), "{}", service.log.join("\n"));
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
    assert!(service.log.iter().any(|line| line.contains("asked twice")), "{}", service.log.join("\n"));
    node.thaw();
    run.load.crashed("stopped at once");
    let service = run.ready().await;
    run.judge(service).await;
}

//! The world of one seed: lets things happen to one process after the other, first in bad weather (safety), then in
//! good (liveness), and hears the judge.
//!
//! One thread, paused time: what happens next is decided by the dice and the order of tasks alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use remedyd::agent::simulated::Model;
use remedyd::broker::Lane;
use remedyd::config::{Publishers, Users};
use remedyd::machine::policy::Policy;
use remedyd::model::time::{Span, after, days};
use remedyd::pipeline::clock::Clock;
use remedyd::pipeline::engine::Limits;
use remedyd::pipeline::partition::PartitionSettings;
use remedyd::pipeline::{self, Pipeline, Recovered, Settings};
use remedyd::store::StoreError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::broker::ModelLink;
use super::dice::Dice;
use super::disk::{DiskHandle, commit_in_virtual_time};
use super::facts::{Facts, Kind};
use super::judge::ToldOf;
use super::people::{People, TENANT_COUNT, reuse_of};
use super::scene::{Faults, Scene, Weather};

/// After the faults have healed: how long until nothing waits for an ack, a confirm or an outcome. A lost confirm takes
/// 30 s, a refused publication pauses for up to 30 s, a hung commit takes 10 s and a restart.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
/// And how many surveys, 15 minutes apart, until no task moves by itself any more: five attempts are 15 intervals, and
/// three ranks of them may wait for each other.
const SURVEYS: u32 = 60;
/// No more days off after this: an event is known again for seven days, and all is to be heard again at the end.
const LONGEST_SAFETY: Duration = Duration::from_secs(3 * 86_400);
const SURVEY_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// How a seed is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub steps: u64,
    /// The control: a disk that says durable when it is not.
    pub disk_lies: bool,
}

/// What has come of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub hash: u64,
    pub violations: Vec<String>,
    pub unsettled: Vec<String>,
    pub tail: Vec<String>,
    pub faults: Faults,
    pub lives: u64,
    pub events: u64,
    pub messages: u64,
    pub copies: u64,
    pub counts: std::collections::BTreeMap<&'static str, u64>,
    pub slowest_to_settle: Duration,
    pub virtual_time: Duration,
}

impl Outcome {
    pub fn failed(&self) -> bool {
        !self.violations.is_empty() || !self.unsettled.is_empty()
    }
}

/// A process.
struct Process {
    life: u64,
    pipeline: Pipeline,
    engine: JoinHandle<()>,
}

struct World {
    scene: Arc<Scene>,
    dice: Dice,
    people: People,
    seed: u64,
    lives: u64,
    process: Option<Process>,
    publish_window: usize,
    batch_events: usize,
    outbox_rows: usize,
    weather: Weather,
    /// Events on their way: the step in which they arrive.
    delayed: Vec<(u64, usize)>,
    queued: BTreeSet<usize>,
    slowest_to_settle: Duration,
}

/// Plays one seed, on a runtime of its own.
pub fn play(seed: u64, options: Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed, options);
        world.safety(options.steps).await;
        let mut unsettled = Vec::new();
        if world.is_good() {
            unsettled = world.liveness().await;
        }
        if world.is_good() && unsettled.is_empty() {
            world.nothing_more().await;
        }
        world.outcome(unsettled)
    })
}

/// How a seed is played whose weather is good: what is asked here is not whether anything is lost.
fn in_good_weather<T>(seed: u64, play: impl AsyncFnOnce(World) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed, Options::default());
        (world.weather, world.batch_events, world.outbox_rows) = (Weather::default(), 4, 10_000);
        world.scene.lock().weather = Weather::default();
        play(world).await
    })
}

/// What became of a burst of one tenant with some events of others behind it.
pub struct Flood {
    /// Bytes of the burst that were decided before the last event of each other tenant, and that tenant's own.
    pub served: Vec<(usize, usize)>,
    /// All of the burst.
    pub bytes: usize,
    pub violations: Vec<String>,
}

/// A tenant sends `burst` reports at once, and then every other tenant `few`, while a commit takes seconds. All have been
/// handed out by the broker before the second batch is decided.
pub fn flood(seed: u64, burst: usize, few: usize) -> Flood {
    in_good_weather(seed, async |mut world| {
        {
            let mut state = world.scene.lock();
            state.weather.slow_commit = 1_000;
            state.broker.prefetch = burst + few * TENANT_COUNT;
        }
        let greedy = world.dice.between(0, TENANT_COUNT as u64 - 1) as usize;
        world.start(false);
        let now = world.scene.now();
        let mut all: Vec<(usize, Facts)> = world.people.reports(greedy, burst, now).into_iter().map(|facts| (greedy, facts)).collect();
        for other in (0..TENANT_COUNT).filter(|other| *other != greedy) {
            all.extend(world.people.reports(other, few, now).into_iter().map(|facts| (other, facts)));
        }
        let cost = |facts: &Facts| facts.message.body.len();
        let sent: BTreeMap<usize, (usize, usize)> = all
            .into_iter()
            .map(|(tenant, facts)| (tenant, cost(&facts), facts))
            .map(|(tenant, cost, facts)| (world.send(facts), (tenant, cost)))
            .collect();
        let began = Instant::now();
        while world.scene.lock().judge.decided.len() < sent.len() && began.elapsed() < Duration::from_secs(3_600) {
            world.pass(Duration::from_secs(10)).await;
        }
        let decided = world.scene.lock().judge.decided.clone();
        let of = |tenant: usize, numbers: &[usize]| -> usize {
            numbers.iter().filter_map(|number| sent.get(number)).filter(|(of, _)| *of == tenant).map(|(_, cost)| cost).sum()
        };
        let served = (0..TENANT_COUNT).filter(|other| *other != greedy).map(|other| {
            let last = decided.iter().rposition(|number| sent.get(number).is_some_and(|(of, _)| *of == other)).unwrap_or(decided.len());
            (of(greedy, &decided[..last]), of(other, &decided))
        });
        Flood { served: served.collect(), bytes: of(greedy, &decided), violations: world.outcome(Vec::new()).violations }
    })
}

/// What is told, by tenant and subject, when events of different agents come in another order each `shuffle`; 0 is the one
/// in which they were made. Those of one agent stay in their order, and each is through before the next comes: so that
/// whatever differs is the order's doing.
pub fn told_in_an_order_of(seed: u64, shuffle: u64, events: usize) -> (ToldOf, Vec<String>) {
    in_good_weather(seed, async |mut world| {
        let mut lines: BTreeMap<(&str, u64), VecDeque<Facts>> = BTreeMap::new();
        let mut order = Vec::new();
        let mut agents = BTreeMap::new();
        let mut now = world.scene.now();
        while order.len() < events {
            now = after(now, Span::from_secs(30));
            let facts = world.people.act(now);
            let of_new =
                || serde_json::from_slice::<serde_json::Value>(&facts.message.body).ok()?["data"]["incident_report"]["agent_id"].as_u64();
            if let (Kind::Created, Some(report), Some(agent)) = (facts.kind, facts.report, of_new()) {
                agents.insert((facts.tenant, report), agent);
            }
            // where no agent surveys, and of what is not known yet, time decides as well
            let agent = facts.agent.or_else(|| agents.get(&(facts.tenant, facts.report?)).copied());
            let Some(agent) = agent.filter(|_| !matches!(facts.kind, Kind::Rubbish | Kind::Organization)) else { continue };
            order.push((facts.tenant, agent));
            lines.entry((facts.tenant, agent)).or_default().push_back(facts);
        }
        let mut dice = Dice::new(seed, 100 + shuffle);
        for place in (1..order.len()).rev().filter(|_| shuffle != 0) {
            order.swap(place, dice.between(0, place as u64) as usize);
        }
        world.start(false);
        for line in order {
            let Some(facts) = lines.get_mut(&line).and_then(VecDeque::pop_front) else { continue };
            world.send(facts);
            world.pass(Duration::from_millis(100)).await;
            if let Some(process) = &world.process {
                process.pipeline.quiesced().await;
            }
        }
        let told = std::mem::take(&mut world.scene.lock().judge.told);
        (told, world.outcome(Vec::new()).violations)
    })
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let scene = Scene::new(seed);
        let mut dice = Dice::new(seed, 1);
        // some seeds are calm in this or that
        let mut share = |most: u64| if dice.permille(600) { dice.between(0, most) } else { 0 };
        let weather = Weather {
            nack: share(100),
            give_back: share(100),
            lose: share(40),
            lose_confirm: share(60),
            slow_confirm: share(100),
            slow_commit: share(60),
            fail_commit: share(15),
            hang_commit: share(8),
        };
        {
            let mut state = scene.lock();
            state.weather = weather;
            state.disk.lies = options.disk_lies;
            state.broker.prefetch = *dice.pick(&[1, 4, 16, 64]);
        }
        Self {
            publish_window: *dice.pick(&[1, 4, 32]),
            batch_events: *dice.pick(&[1, 4, 64]),
            outbox_rows: *dice.pick(&[8, 100, 10_000]),
            people: People::new(seed),
            scene,
            dice,
            seed,
            lives: 0,
            process: None,
            weather,
            delayed: Vec::new(),
            queued: BTreeSet::new(),
            slowest_to_settle: Duration::ZERO,
        }
    }

    fn is_good(&self) -> bool {
        self.scene.lock().judge.violations.is_empty()
    }

    fn violation(&self, what: String) {
        self.scene.lock().judge.violation(what);
    }

    /// Begins a life: recovery from what is durable, and the real engine over it.
    fn start(&mut self, fragile: bool) {
        self.lives += 1;
        let life = self.lives;
        {
            let mut state = self.scene.lock();
            state.life = life;
            state.note(format_args!("life {life} begins"));
            let ms = state.ms;
            state.judge.begin_life(ms);
            state.connect(true);
            if fragile && self.dice.permille(150) {
                state.fault("crash soon after a start");
                state.fuse = Some(self.dice.between(0, 12));
            }
        }
        let settings = Settings {
            partition: PartitionSettings {
                audit_kept: days(400),
                clock: Clock::Runtime { epoch: Scene::epoch(), since: self.scene.began },
                policy: Policy::default(),
                model: Model::Seeded { seed: self.seed },
                dead_letter_queue: "remedyd.dead-letters".into(),
                status_exchange: "remedyd.status".into(),
            },
            limits: Limits {
                batch_events: self.batch_events,
                outbox_rows: self.outbox_rows,
                drain: Duration::from_secs(10),
                repeats: usize::MAX,
            },
            users: Arc::new(Publishers::new(Users::Anyone)),
            publish_window: self.publish_window,
        };
        let store = Arc::new(DiskHandle { scene: Arc::clone(&self.scene), life });
        let link = Arc::new(ModelLink { scene: Arc::clone(&self.scene), life });
        match Recovered::read(store, settings) {
            Ok(recovered) => {
                let (pipeline, engine) = pipeline::assemble(recovered, link, commit_in_virtual_time);
                self.process = Some(Process { life, pipeline, engine: tokio::spawn(engine) });
            }
            Err(error) => {
                self.violation(format!("13: the store cannot be taken up again: {error}"));
                self.scene.end_life("cannot start");
            }
        }
    }

    /// The process is no more, however that came.
    fn bury(&mut self, why: &'static str) {
        self.scene.end_life(why);
        if let Some(process) = self.process.take() {
            process.engine.abort();
        }
    }

    /// Lets time pass. A process that dies or ends meanwhile has a successor some time later.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let Some(process) = &mut self.process else {
                let pause = Duration::from_millis(self.dice.between(0, 3_000));
                sleep_until((Instant::now() + pause).min(until)).await;
                self.start(true);
                if self.process.is_none() {
                    return;
                }
                continue;
            };
            let ended = tokio::select! {
                biased;
                () = self.scene.over(process.life) => None,
                ended = process.pipeline.ended() => Some(ended),
                () = sleep_until(until) => return,
            };
            self.has_ended(ended);
        }
    }

    fn has_ended(&mut self, ended: Option<Result<(), StoreError>>) {
        let Some(life) = self.process.as_ref().map(|process| process.life) else { return };
        match ended {
            None => self.bury("died"),
            Some(ended) => {
                let expected = { self.scene.lock().judge.has_failed(life) };
                if !expected || ended.is_ok() {
                    self.violation(format!("the engine has ended by itself: {ended:?}"));
                }
                self.bury("storage error");
            }
        }
    }

    fn send(&mut self, facts: Facts) -> usize {
        let number = self.scene.lock().judge.sent(facts);
        self.queue(number);
        number
    }

    fn queue(&mut self, number: usize) {
        let mut state = self.scene.lock();
        let (lane, line) = {
            let facts = state.judge.facts(number);
            (facts.kind.lane(), format!("sent event {number} {:?} {} {} {:?}", facts.kind, facts.tenant, facts.id, facts.report))
        };
        state.note(format_args!("{line}"));
        state.enqueue(lane, number);
        self.queued.insert(number);
    }

    async fn safety(&mut self, steps: u64) {
        let settings = self.people.settings(self.scene.now());
        self.send(settings);
        for step in 0..steps {
            let due: Vec<usize> = self.delayed.extract_if(.., |(at, _)| *at <= step).map(|(_, number)| number).collect();
            due.into_iter().for_each(|number| self.queue(number));
            self.step(step).await;
            if !self.is_good() {
                return;
            }
            let pause = match self.dice.between(0, 999) {
                0..450 => Duration::ZERO,
                450..750 => Duration::from_millis(self.dice.between(1, 40)),
                750..870 => Duration::from_millis(self.dice.between(1_000, 30_000)),
                870..992 => Duration::from_secs(self.dice.between(60, 600)),
                // a weekend, if the week has room for it
                992..994 if self.scene.began.elapsed() < LONGEST_SAFETY => Duration::from_secs(self.dice.between(86_400, 2 * 86_400)),
                _ => Duration::from_secs(self.dice.between(3_600, 6 * 3_600)),
            };
            self.pass(pause).await;
        }
    }

    async fn step(&mut self, step: u64) {
        match self.dice.between(0, 999) {
            0..840 => {
                let facts = self.somebody_acts();
                if facts.kind != Kind::Survey && self.dice.permille(40) {
                    self.scene.lock().fault("event delayed");
                    let number = self.scene.lock().judge.sent(facts);
                    self.delayed.push((step + self.dice.between(1, 20), number));
                    return;
                }
                let reused = !matches!(facts.kind, Kind::Survey | Kind::Rubbish) && self.dice.permille(10);
                let other = reused.then(|| reuse_of(&facts));
                let facts = if reused { Facts { may_die_of: &["id_reused", "orphan"], ..facts } } else { facts };
                self.send(facts);
                if let Some(other) = other {
                    self.send(other);
                }
            }
            840..880 => {
                let known = self.queued.len() as u64;
                let back = self.dice.between(1, known.min(40));
                let number = self.queued.iter().rev().nth(back as usize - 1).copied();
                if let Some(number) = number {
                    self.scene.lock().fault("event duplicated");
                    self.queue(number);
                }
            }
            880..895 => {
                if self.people.come_or_go() {
                    self.scene.lock().fault("agent vanished");
                }
            }
            895..910 => {
                let wait = Duration::from_millis(self.dice.between(0, 30));
                self.pass(wait).await;
                if self.process.is_some() {
                    self.scene.lock().fault("crash");
                    self.bury("crash");
                }
            }
            910..935 => self.scene.lock().fuse = Some(self.dice.between(0, 40)),
            935..945 => self.drain().await,
            945..960 => {
                let mut state = self.scene.lock();
                if state.broker.up {
                    state.fault("connection lost");
                    state.broker.up = self.dice.permille(500);
                    state.disconnect();
                }
                state.connect(false);
            }
            960..972 => {
                let mut state = self.scene.lock();
                let blocked = state.broker.blocked;
                state.set_blocked(!blocked);
            }
            972..985 => {
                let mut state = self.scene.lock();
                state.broker.up = true;
                state.connect(false);
                if state.broker.blocked {
                    state.set_blocked(false);
                }
            }
            _ => {
                let lane = *self.dice.pick(&[Lane::Reports, Lane::Surveys]);
                let until = Instant::now() + Duration::from_secs(self.dice.between(1, 900));
                self.scene.lock().stall(lane, until);
            }
        }
    }

    /// A task is with its agent for seconds: who cancels at random would hardly ever find it there.
    fn somebody_acts(&mut self) -> Facts {
        let now = self.scene.now();
        let delivered = self.scene.lock().judge.story.delivered();
        if !delivered.is_empty() && self.dice.permille(300) {
            let (tenant, report, item) = self.dice.pick(&delivered);
            if let Some(facts) = self.people.take_back(tenant, *report, *item, now) {
                return facts;
            }
        }
        self.people.act(now)
    }

    /// A drain in order (SIGTERM); it may be cut short by a crash, or end by a storage error.
    async fn drain(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.scene.lock().fault("drain");
        self.scene.lock().note(format_args!("drain"));
        let Process { life, pipeline, engine } = process;
        let began = Instant::now();
        let drained = tokio::select! {
            biased;
            () = self.scene.over(life) => None,
            drained = pipeline.drain() => Some(drained),
        };
        let failed = self.scene.lock().judge.has_failed(life);
        match drained {
            Some(Err(error)) if !failed => self.violation(format!("a drain has failed: {error}")),
            // 10 s for the drain, and up to as much for the commit under way
            Some(Ok(())) if began.elapsed() > Duration::from_secs(21) => {
                self.violation(format!("a drain has taken {:?}", began.elapsed()));
            }
            _ => {}
        }
        self.scene.end_life("drained");
        engine.abort();
    }

    /// The faults heal. Gives what has not settled in time.
    async fn liveness(&mut self) -> Vec<String> {
        {
            let mut state = self.scene.lock();
            state.note(format_args!("all faults heal"));
            state.weather = Weather::default();
            state.broker.up = true;
            state.fuse = None;
            state.clear_stalls();
            if state.broker.blocked {
                state.set_blocked(false);
            }
            state.connect(false);
        }
        for (_, number) in std::mem::take(&mut self.delayed) {
            self.queue(number);
        }
        self.people.all_come_back();
        self.weather = Weather::default();
        let mut open = self.settle().await;
        for _ in 0..SURVEYS {
            if !open.is_empty() || !self.is_good() {
                return open;
            }
            self.pass(SURVEY_INTERVAL).await;
            for facts in self.people.round(self.scene.now()) {
                self.send(facts);
            }
            open = self.settle().await;
            let state = self.scene.lock();
            if open.is_empty() && state.judge.story.under_way().is_empty() && state.judge.unsettled().is_empty() {
                break;
            }
        }
        let state = self.scene.lock();
        open.extend(state.judge.unsettled());
        open.extend(state.judge.story.under_way());
        open
    }

    /// Waits until nothing is left to ack, to confirm or to run, in the time stated.
    async fn settle(&mut self) -> Vec<String> {
        let began = Instant::now();
        loop {
            let open: Vec<String> = {
                let state = self.scene.lock();
                let open = state.judge.unsettled();
                // parked events wait for 15 minutes by design
                let mut open: Vec<String> = open.into_iter().filter(|what| !what.ends_with("parked events")).collect();
                if !state.broker.is_empty() {
                    open.push("deliveries without an ack".into());
                }
                open
            };
            if open.is_empty() || began.elapsed() > SETTLES_WITHIN || !self.is_good() {
                self.slowest_to_settle = self.slowest_to_settle.max(began.elapsed());
                return open;
            }
            self.pass(Duration::from_millis(500)).await;
        }
    }

    /// All is quiet: the books balance, and neither starting again nor hearing everything again changes anything.
    async fn nothing_more(&mut self) {
        if let Some(process) = &self.process {
            let quiet = tokio::time::timeout(SETTLES_WITHIN, process.pipeline.quiesced()).await;
            let count = process.pipeline.counters().count();
            if quiet.is_err() {
                self.violation("18: the pipeline does not come to rest".into());
            }
            if !count.balances() {
                self.violation(format!("the ledger does not balance: {count:?}"));
            }
        }
        {
            let mut state = self.scene.lock();
            let queued = self.queued.clone();
            state.judge.close(&queued);
        }
        // 13
        let (mut rows, mut messages) = self.told();
        for _ in 0..2 {
            self.bury("once more");
            self.start(false);
            self.pass(Duration::from_secs(2)).await;
            let fired = self.process.as_ref().is_some_and(|process| process.pipeline.counters().count().timers_fired > 0);
            let now = self.told();
            if !fired && (&now.0, now.1) != (&rows, messages) {
                self.violation("13: a second recovery has changed something".into());
            }
            // a timer may have
            (rows, messages) = now;
        }
        if self.seed.is_multiple_of(4) {
            self.hear_all_again().await;
        }
    }

    fn told(&self) -> (super::disk::Rows, u64) {
        let state = self.scene.lock();
        (state.judge.rows().clone(), state.judge.messages)
    }

    /// 13: everything that has had its effect, once more.
    async fn hear_all_again(&mut self) {
        let (_, messages) = self.told();
        let fired = |world: &Self| world.process.as_ref().map_or(0, |process| process.pipeline.counters().count().timers_fired);
        let before = fired(self);
        let all: Vec<usize> = self.queued.iter().copied().collect();
        for number in all {
            let lives = self.scene.lock().judge.lives_on(number);
            if lives {
                self.queue(number);
            }
        }
        let open = self.settle().await;
        let (_, after) = self.told();
        if !open.is_empty() || (after != messages && fired(self) == before) {
            self.violation(format!("13: hearing everything again has told {} things more; open: {open:?}", after - messages));
        }
    }

    fn outcome(mut self, unsettled: Vec<String>) -> Outcome {
        self.bury("the end");
        let state = self.scene.lock();
        Outcome {
            seed: self.seed,
            hash: state.trace.hash(),
            violations: state.judge.violations.clone(),
            unsettled,
            tail: state.trace.tail(),
            faults: state.trace.faults.clone(),
            lives: self.lives,
            events: state.judge.sent_count() as u64,
            messages: state.judge.messages,
            copies: state.judge.copies,
            counts: state.judge.story.counts.clone(),
            slowest_to_settle: self.slowest_to_settle,
            virtual_time: self.scene.began.elapsed(),
        }
    }
}

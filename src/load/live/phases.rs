//! The phases: so many seconds at saturation, at a rate, or until a backlog is done. Each leaves every report at its
//! end, so that the next begins with an idle service. Never here: which phases there are.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;

use super::beat::Beat;
use super::child::Child;
use super::figures::{Cpu, Phase, Point, jain};
use super::host;
use super::rig::{Depth, Rig, TURN, WATER};
use super::world::{NOISE_FACTOR, NOISY_TENANT};
use crate::model::time::system_now;

/// A saturated window is measured once it has been full for a while: a quarter of the phase, at most this.
const LONGEST_RAMP_US: u64 = 3_000_000;
/// Below this fan-out consuming alone tells what is done.
const LITTLE_FAN_OUT: f64 = 0.05;
/// Two points of a curve are at least so far apart.
const POINT_EVERY_US: u64 = 250_000;

/// A service or a relay under load, and the processes whose time is told.
pub struct Stage {
    pub rig: Rig,
    /// `None`: it was there before us.
    pub worker: Option<Child>,
    pub broker_pid: Option<u32>,
    pub bar: ProgressBar,
    /// Of the bare relay, which answers nothing: reports cannot be brought to an end.
    pub relays: bool,
}

/// A phase and the events sent in it, by their places in the books.
pub struct Measured {
    pub phase: Phase,
    pub sent: std::ops::Range<usize>,
}

/// The beginning or the end of what is measured.
#[derive(Clone, Copy)]
struct Mark {
    depth: Depth,
    cpu: Cpu,
}

impl Stage {
    /// As fast as the service takes it.
    pub async fn saturate(&mut self, name: &str, seconds: f64) -> anyhow::Result<Measured> {
        let before = self.begin(name, seconds);
        let began_us = self.rig.now_us();
        let whole_us = (seconds * 1e6) as u64;
        let ramp_us = (whole_us / 4).min(LONGEST_RAMP_US);
        let began = self.rig.reading().await?;
        let mut depth = began;
        let mut from: Option<Mark> = None;
        let to = loop {
            // what was sent since the reading is taken for waiting: the next reading will tell
            let since = ((self.rig.books().sent().len() - before.sent) as u64).saturating_sub(depth.confirmed - began.confirmed);
            let budget = window(began, depth).saturating_sub(depth.waiting + since);
            if budget >= TURN as u64 {
                let now_us = self.rig.now_us();
                let now = system_now();
                let turn = (0..TURN).map(|_| (self.rig.world.next(now_us, now), now_us)).collect();
                self.rig.send(turn).await?;
                depth = self.rig.depth();
            } else {
                depth = self.rig.reading().await?;
                self.alive()?;
            }
            match from {
                None if depth.at_us >= began_us + ramp_us => from = Some(self.mark(depth)),
                Some(mark) if depth.at_us >= mark.depth.at_us + whole_us => break self.mark(depth),
                _ => {}
            }
            self.show(began_us, depth);
        };
        let sent = before.sent..self.rig.books().sent().len();
        self.end().await?;
        let mut phase = self.measure(name, &before, from.unwrap_or(to), to);
        // what is published beside surveys alone is about what was there before, and says nothing of how many were done
        if !self.rig.world.sends_surveys_alone() && phase.fan_out >= LITTLE_FAN_OUT {
            phase.events_per_s = phase.consumed_per_s.min(phase.outbound_per_s / phase.fan_out);
        }
        Ok(Measured { phase, sent })
    }

    /// At the times at which a steady rate wants them.
    pub async fn pace(&mut self, name: &str, per_s: f64, seconds: f64) -> anyhow::Result<Measured> {
        let before = self.begin(name, seconds);
        let from = self.rig.reading().await?;
        let from = self.mark(from);
        let began_us = self.rig.now_us();
        let (mut beat, mut late_us) = (Beat::new(began_us, per_s, seconds), 0);
        while let Some(next_us) = beat.next_us() {
            let now_us = self.rig.now_us();
            if next_us <= now_us {
                late_us = late_us.max(now_us - next_us);
                let turn = beat.due(now_us).into_iter().map(|at_us| (self.rig.world.next(at_us, system_now()), at_us)).collect();
                self.rig.send(turn).await?;
            } else {
                self.rig.pause(Duration::from_micros((next_us - now_us).max(1_000))).await?;
                self.alive()?;
                self.show(began_us, self.rig.depth());
            }
        }
        let to = self.rig.reading().await?;
        let to = self.mark(to);
        let sent = before.sent..self.rig.books().sent().len();
        self.end().await?;
        let mut phase = self.measure(name, &before, from, to);
        phase.target_per_s = Some(per_s);
        phase.generator_late_ms = late_us as f64 / 1_000.0;
        Ok(Measured { phase, sent })
    }

    /// A backlog in which one tenant has a hundred times as many reports as any other, in the order in which they would
    /// have come; the service is held until it is complete. Jain's index over what has been served, when half of it was, to the tenants that still waited then;
    /// and how many those were.
    pub async fn backlog(&mut self, name: &str, tenants: u32, per_tenant: u32) -> anyhow::Result<(Option<f64>, usize)> {
        let before = self.begin(name, 1.0);
        let now = system_now();
        let mut events = Vec::new();
        let others = tenants.saturating_sub(1).max(1);
        for _ in 0..per_tenant {
            let mut noise = 0;
            for other in 1..tenants {
                events.push(self.rig.world.informational(other, now));
                while noise < u64::from(NOISE_FACTOR) * u64::from(other) / u64::from(others) {
                    events.push(self.rig.world.informational(NOISY_TENANT, now));
                    noise += 1;
                }
            }
        }
        // it has to stand before it is served: what is served while the rest is still on its way was no backlog
        if let Some(service) = &self.worker {
            service.pause()?;
        }
        let queued = self.rig.send_all(events).await;
        if let Some(service) = &self.worker {
            service.go_on()?;
        }
        queued?;
        let sent = before.sent..self.rig.books().sent().len();
        self.end().await?;
        let books = self.rig.books();
        let sent = &books.sent()[sent];
        let mut answers: Vec<u64> = sent.iter().map(|sent| sent.answered_us).collect();
        answers.sort_unstable();
        let half_us = answers.get(answers.len() / 2).copied().unwrap_or(0);
        let mut shares: BTreeMap<u32, (u64, bool)> = BTreeMap::new();
        for sent in sent {
            let (served, waits) = shares.entry(sent.tenant).or_default();
            *served += u64::from(sent.answered_us <= half_us);
            *waits |= sent.answered_us > half_us && sent.intended_us <= half_us;
        }
        let shares: Vec<f64> = shares.values().filter(|(_, waits)| *waits).map(|(served, _)| *served as f64).collect();
        Ok((jain(&shares), shares.len()))
    }

    fn begin(&mut self, name: &str, seconds: f64) -> Before {
        self.rig.world.restart_mix();
        self.bar.reset();
        self.bar.set_length((seconds * 1_000.0) as u64);
        self.bar.set_prefix(name.to_owned());
        if self.bar.is_hidden() {
            eprintln!("{name} …");
        }
        let books = self.rig.books();
        Before { sent: books.sent().len(), outbound: books.outbound().0 }
    }

    /// Leaves nothing for the next phase.
    async fn end(&mut self) -> anyhow::Result<()> {
        self.bar.set_message("settling");
        self.rig.take_dead_letters(true);
        if self.relays {
            self.rig.world.forget_steps();
            self.rig.drained().await
        } else {
            self.rig.settle().await
        }
    }

    fn measure(&self, name: &str, before: &Before, from: Mark, to: Mark) -> Phase {
        let seconds = (to.depth.at_us - from.depth.at_us) as f64 / 1e6;
        let taken = |depth: &Depth| depth.confirmed.saturating_sub(depth.waiting) as f64;
        let consumed_per_s = (taken(&to.depth) - taken(&from.depth)) / seconds.max(0.001);
        let outbound_per_s = (to.depth.outbound - from.depth.outbound) as f64 / seconds.max(0.001);
        let cpu = |of: fn(&Cpu) -> Option<f64>| Some((of(&to.cpu)? - of(&from.cpu)?) / seconds.max(0.001));
        let books = self.rig.books();
        let sent = books.sent().len() - before.sent;
        Phase {
            name: name.to_owned(),
            seconds,
            target_per_s: None,
            events_per_s: consumed_per_s,
            consumed_per_s,
            outbound_per_s,
            fan_out: (books.outbound().0 - before.outbound) as f64 / sent.max(1) as f64,
            generator_late_ms: 0.0,
            cpu: Cpu { generator: cpu(|cpu| cpu.generator), worker: cpu(|cpu| cpu.worker), broker: cpu(|cpu| cpu.broker) },
            series: series(&self.rig.readings(), from.depth.at_us, to.depth.at_us),
        }
    }

    fn mark(&self, depth: Depth) -> Mark {
        let worker = self.worker.as_ref().and_then(|worker| host::cpu_seconds(worker.pid()));
        let broker = self.broker_pid.and_then(host::cpu_seconds);
        Mark { depth, cpu: Cpu { generator: host::cpu_seconds(std::process::id()), worker, broker } }
    }

    fn alive(&mut self) -> anyhow::Result<()> {
        self.worker.as_mut().map_or(Ok(()), Child::check)
    }

    fn show(&self, began_us: u64, depth: Depth) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_position(self.rig.now_us().saturating_sub(began_us) / 1_000);
        self.bar.set_message(format!("{} sent, {} waiting, {} published", depth.confirmed, depth.waiting, depth.outbound));
    }
}

/// How much is kept waiting: half a second's work, so that a slow service has no minutes of it before it.
fn window(began: Depth, now: Depth) -> u64 {
    let taken = now.confirmed.saturating_sub(now.waiting).saturating_sub(began.confirmed.saturating_sub(began.waiting));
    let half_second = taken * 500_000 / now.at_us.saturating_sub(began.at_us).max(1);
    half_second.clamp(*WATER.start(), *WATER.end())
}

/// The state of the books before a phase.
struct Before {
    sent: usize,
    outbound: u64,
}

/// What was taken and published between two readings, and what waited.
fn series(readings: &[Depth], from_us: u64, to_us: u64) -> Vec<Point> {
    let mut points = Vec::new();
    let mut last: Option<&Depth> = None;
    for depth in readings.iter().filter(|depth| (from_us..=to_us).contains(&depth.at_us)) {
        let Some(before) = last else {
            last = Some(depth);
            continue;
        };
        if depth.at_us < before.at_us + POINT_EVERY_US {
            continue;
        }
        let seconds = (depth.at_us - before.at_us) as f64 / 1e6;
        let taken = depth.confirmed.saturating_sub(depth.waiting).saturating_sub(before.confirmed.saturating_sub(before.waiting));
        points.push(Point {
            at_s: (depth.at_us - from_us) as f64 / 1e6,
            events_per_s: taken as f64 / seconds,
            outbound_per_s: (depth.outbound - before.outbound) as f64 / seconds,
            waiting: depth.waiting,
            unanswered: depth.unanswered,
        });
        last = Some(depth);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_second_is_kept_waiting_within_bounds() {
        let at = |at_us, confirmed, waiting| Depth { at_us, confirmed, waiting, ..Depth::default() };
        assert_eq!(window(at(0, 0, 0), at(0, 0, 0)), 500);
        assert_eq!(window(at(0, 0, 0), at(1_000_000, 9_000, 1_000)), 4_000);
        assert_eq!(window(at(0, 0, 0), at(1_000_000, 90_000, 1_000)), 6_000);
    }

    #[test]
    fn a_curve_tells_what_was_taken_between_two_points() {
        let reading = |at_us, confirmed, waiting, outbound| Depth { at_us, confirmed, waiting, outbound, unanswered: 0 };
        let readings =
            [reading(0, 0, 0, 0), reading(1_000_000, 1_000, 400, 50), reading(1_100_000, 0, 0, 0), reading(2_000_000, 2_000, 400, 150)];
        let points = series(&readings, 1_000_000, 3_000_000);
        assert_eq!(points, [Point { at_s: 1.0, events_per_s: 1_000.0, outbound_per_s: 100.0, waiting: 400, unanswered: 0 }]);
    }
}

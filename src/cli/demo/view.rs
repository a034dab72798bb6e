//! The running view: on a terminal a few lines redrawn in place, elsewhere a line every virtual half hour.
//! Never here: a figure of its own.

use std::io::Write as _;

use super::tally::{Tally, grouped, listed};
use crate::model::time::{Span, Timestamp, system_now};
use crate::ops::inspect::text::wrap;
use crate::pipeline::counters::Count;

/// Often enough to look alive.
const REDRAW_EVERY: Span = Span::from_millis(100);
/// Between two lines where nothing can be redrawn.
const LINE_EVERY_MINUTES: u32 = 30;
/// A longer line would wrap, and then be redrawn in the wrong place.
const WIDTH: usize = 79;
const INDENT: usize = 15;
/// Of the bar that grows with virtual time.
const BAR: usize = 40;

pub struct View {
    terminal: bool,
    minutes: u32,
    began: Timestamp,
    drawn_at: Option<Timestamp>,
    /// Lines on the screen.
    drawn: usize,
    /// Events of the part before this one.
    before: Option<u64>,
}

impl View {
    pub fn new(terminal: bool, minutes: u32) -> Self {
        Self { terminal, minutes, began: system_now(), drawn_at: None, drawn: 0, before: None }
    }

    pub fn show(&mut self, minute: u32, virtual_time: Timestamp, tally: &Tally, count: &Count) {
        let now = system_now();
        let before = *self.before.get_or_insert(count.events_in);
        let time = virtual_time.strftime("%H:%M");
        let per_second = (count.events_in - before) as f64 / now.duration_since(self.began).as_secs_f64().max(0.001);
        if !self.terminal {
            if minute.is_multiple_of(LINE_EVERY_MINUTES) {
                println!(
                    "  {time}  {} events, {} attempts, {} resolutions refused; open: {}; {per_second:.0} events/s",
                    grouped(count.events_in),
                    grouped(tally.attempts()),
                    grouped(tally.resolutions_refused()),
                    listed(&tally.reports(true)),
                );
            }
            return;
        }
        if self.drawn_at.is_some_and(|at| now.duration_since(at) < REDRAW_EVERY) && minute < self.minutes {
            return;
        }
        self.drawn_at = Some(now);
        let done = BAR * minute as usize / self.minutes.max(1) as usize;
        let mut lines = Vec::new();
        let mut line = |name: &str, what: String| {
            let mut name = name;
            for part in wrap(&what, WIDTH - INDENT) {
                lines.push(format!("{name:INDENT$}{part}"));
                name = "";
            }
        };
        line("virtual time", format!("{time} [{}{}]", "#".repeat(done), ".".repeat(BAR - done.min(BAR))));
        line("events", format!("{}, {per_second:.0}/s; {} published", grouped(count.events_in), grouped(tally.received())));
        line("reports open", listed(&tally.reports(true)));
        line("reports ended", listed(&tally.reports(false)));
        line("tasks", listed(&tally.tasks()));
        line("attempts", format!("{}, {} of them retries", grouped(tally.attempts()), grouped(tally.retries())));
        let (resolutions, requests, parked) = (tally.resolutions_refused(), count.refused, count.parked);
        line("refused", format!("{} resolutions, {} other requests", grouped(resolutions), grouped(requests)));
        line("parked", grouped(parked));
        self.draw(&lines);
    }

    /// Takes the lines off the screen: what follows says it all.
    pub fn clear(&mut self) {
        self.draw(&[]);
    }

    fn draw(&mut self, lines: &[String]) {
        let mut screen = String::new();
        if self.drawn > 0 {
            // up to the first of our lines, and clear from there
            screen.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        for line in lines {
            screen.push_str(line);
            screen.push('\n');
        }
        self.drawn = lines.len();
        let mut stdout = std::io::stdout().lock();
        // a terminal that is gone ends the command at its next line of text
        let _ = stdout.write_all(screen.as_bytes()).and_then(|()| stdout.flush());
    }
}

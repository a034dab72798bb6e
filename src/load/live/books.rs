//! The books of a run: every event sent with its intended time, and what has come back for it. The audit at the end
//! is read off them.
//!
//! Never here: the broker, a clock, or the service's word for anything but what it publishes. Some 32 bytes an event
//! and some 150 a report: a run of ten million events has 500 MB of books. A malformed message is one more byte.

use std::borrow::Cow;

use serde::Deserialize;

use super::bodies;
use super::sequences::Sequences;
use super::world::{Kind, Run, Standing};

/// What our own rubbish begins with: it marks the end of a lane.
pub const MARKER: &str = "marker ";

/// An event that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// By the clock of the run, microseconds.
    pub intended_us: u64,
    pub tenant: u32,
    pub kind: Kind,
    /// When the first event that it caused came back; 0 for never.
    pub answered_us: u64,
    /// When the page that it caused came back; 0 for never.
    pub paged_us: u64,
    pub dead_lettered: bool,
}

impl Sent {
    /// Whether something must have come back.
    fn is_owed(&self) -> bool {
        let page = matches!(self.kind, Kind::Report { critical: true }) && self.paged_us == 0;
        !self.dead_lettered && self.kind != Kind::Survey && (self.answered_us == 0 || page)
    }
}

/// What came back, as far as the books care.
#[derive(Deserialize)]
struct Published<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    tenantid: Cow<'a, str>,
    #[serde(borrow, default)]
    subject: Cow<'a, str>,
    #[serde(borrow, default)]
    sequence: Cow<'a, str>,
    #[serde(borrow, default)]
    causationid: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Details<'a>,
}

#[derive(Default, Deserialize)]
struct Details<'a> {
    incident_report_id: Option<u64>,
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
}

pub struct Books {
    run: Run,
    sent: Vec<Sent>,
    standings: Vec<Standing>,
    sequences: Sequences,
    outbound: u64,
    outbound_bytes: u64,
    answers: u64,
    /// Events that must be answered.
    owed: u64,
    dead_letters: u64,
    first_dead_letter: Option<String>,
    /// How many dead letters have come of each malformed message.
    malformed: Vec<u8>,
    markers: Vec<String>,
}

/// What has become of the malformed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buried {
    /// Each counted once.
    pub dead_lettered: u64,
    pub lost: u64,
    pub duplicates: u64,
}

/// What the audit found. All but the first four must be 0; duplicates are what "at least once" allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Audit {
    pub sent: u64,
    /// Reports and decisions to which the service has published something.
    pub answered: u64,
    /// Surveys: they need no answer. That none was passed over is judged by `surveys_behind`.
    pub surveys: u64,
    pub duplicates: u64,
    /// Reports and decisions without an answer, critical reports without a page, what the broker still has, and malformed
    /// messages without a dead letter.
    pub lost: u64,
    pub gaps: u64,
    pub late: u64,
    pub changed: u64,
    /// Reports that are not where the story of each ends.
    pub misplaced: u64,
    /// Events of ours that the service refused to read; malformed messages are not counted, they are meant to be refused.
    pub dead_letters: u64,
    /// Agents whose last survey the store does not know. `None`: the store was not looked into.
    pub surveys_behind: Option<u64>,
    /// sent = answered + surveys + lost + dead letters, all of them of events
    pub balances: bool,
}

impl Audit {
    pub fn is_clean(&self) -> bool {
        let wrong = [self.lost, self.gaps, self.late, self.changed, self.misplaced, self.dead_letters, self.surveys_behind.unwrap_or(0)];
        self.balances && wrong.iter().all(|count| *count == 0)
    }
}

impl Books {
    pub fn new(run: Run) -> Self {
        Self {
            run,
            sent: Vec::new(),
            standings: Vec::new(),
            sequences: Sequences::default(),
            outbound: 0,
            outbound_bytes: 0,
            answers: 0,
            owed: 0,
            dead_letters: 0,
            first_dead_letter: None,
            malformed: Vec::new(),
            markers: Vec::new(),
        }
    }

    /// The next event of the world is about to be sent. In the world's order: its number is its place here.
    pub fn note(&mut self, tenant: u32, kind: Kind, intended_us: u64) {
        if let Kind::Report { .. } = kind {
            self.standings.push(Standing::Unheard);
        }
        self.owed += u64::from(kind != Kind::Survey);
        self.sent.push(Sent { intended_us, tenant, kind, answered_us: 0, paged_us: 0, dead_lettered: false });
    }

    /// A malformed message is about to be sent: its number, and its id.
    pub fn note_malformed(&mut self) -> (usize, String) {
        let number = self.malformed.len();
        self.malformed.push(0);
        (number, self.run.malformed_id(number))
    }

    /// Something was published.
    pub fn published(&mut self, body: &[u8], now_us: u64) {
        self.outbound += 1;
        self.outbound_bytes += body.len() as u64;
        let Ok(event) = serde_json::from_slice::<Published<'_>>(body) else { return };
        if !self.is_ours(&event.subject) {
            return;
        }
        self.sequences.take(&event.tenantid, &event.subject, &event.sequence, body);
        let number = self.run.number(&event.causationid);
        if let Some(cause) = number.and_then(|number| self.sent.get_mut(number)) {
            if cause.answered_us == 0 {
                cause.answered_us = now_us.max(1);
                self.answers += u64::from(cause.kind != Kind::Survey);
            }
            if cause.paged_us == 0 && event.kind == "on_call.paged" {
                cause.paged_us = now_us.max(1);
            }
        }
        let told = match event.kind.as_ref() {
            "incident_report.status_changed" => event.data.phase.as_deref().or(event.data.to.as_deref()),
            "incident_report.phase_changed" => event.data.to.as_deref(),
            _ => None,
        };
        let report = event.data.incident_report_id.and_then(|id| self.run.index(id));
        if let (Some(told), Some(standing)) = (told, report.and_then(|index| self.standings.get_mut(index))) {
            *standing = standing_of(told);
        }
    }

    /// A dead letter has come: a marker of ours, a malformed message, or an event that was not understood.
    pub fn dead_lettered(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        if let Some(marker) = text.strip_prefix(MARKER) {
            self.markers.push(marker.to_owned());
            return;
        }
        let id = bodies::id_of(body).unwrap_or_default();
        if let Some(letters) = self.run.malformed_number(id).and_then(|number| self.malformed.get_mut(number)) {
            *letters = letters.saturating_add(1);
            return;
        }
        self.dead_letters += 1;
        self.first_dead_letter.get_or_insert_with(|| text.chars().take(300).collect());
        if let Some(sent) = self.run.number(id).and_then(|number| self.sent.get_mut(number)) {
            sent.dead_lettered = true;
        }
    }

    pub fn has_marker(&self, marker: &str) -> bool {
        self.markers.iter().any(|known| known == marker)
    }

    pub fn first_dead_letter(&self) -> Option<&str> {
        self.first_dead_letter.as_deref()
    }

    /// Reports and decisions that wait for an answer.
    pub fn unanswered(&self) -> u64 {
        self.owed - self.answers
    }

    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// Events published, and their bytes.
    pub fn outbound(&self) -> (u64, u64) {
        (self.outbound, self.outbound_bytes)
    }

    pub fn buried(&self) -> Buried {
        let dead_lettered = self.malformed.iter().filter(|letters| **letters > 0).count() as u64;
        let letters: u64 = self.malformed.iter().map(|letters| u64::from(*letters)).sum();
        Buried { dead_lettered, lost: self.malformed.len() as u64 - dead_lettered, duplicates: letters - dead_lettered }
    }

    /// `misplaced` is the world's count; `left` what the broker still holds of a service that has stopped.
    pub fn audit(&self, misplaced: u64, left: u64, surveys_behind: Option<u64>) -> Audit {
        let count = |of: &dyn Fn(&Sent) -> bool| self.sent.iter().filter(|sent| of(sent)).count() as u64;
        let sent = self.sent.len() as u64;
        let owed = count(&|sent| sent.is_owed());
        let surveys = count(&|sent| sent.kind == Kind::Survey && !sent.dead_lettered);
        let answered = count(&|sent| sent.kind != Kind::Survey && !sent.dead_lettered && !sent.is_owed());
        let dead = count(&|sent| sent.dead_lettered);
        let buried = self.buried();
        Audit {
            sent,
            answered,
            surveys,
            duplicates: self.sequences.duplicates + buried.duplicates,
            lost: owed + left + buried.lost,
            gaps: self.sequences.gaps() + self.sequences.unnumbered,
            late: self.sequences.late,
            changed: self.sequences.changed,
            misplaced,
            dead_letters: self.dead_letters,
            surveys_behind,
            balances: sent == answered + surveys + owed + dead && dead == self.dead_letters,
        }
    }

    /// Whether a subject is of this run: `<kind>/<id>`.
    fn is_ours(&self, subject: &str) -> bool {
        let id = subject.split_once('/').and_then(|(_, id)| id.parse().ok());
        id.is_some_and(|id| self.run.index(id).is_some())
    }
}

fn standing_of(told: &str) -> Standing {
    match told {
        "awaiting_approval" => Standing::AwaitingApproval,
        "blocked" => Standing::Blocked,
        "remediating" => Standing::Remediating,
        "ready" => Standing::Ready,
        "closed" => Standing::Closed,
        _ => Standing::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    const CRITICAL: Kind = Kind::Report { critical: true };

    struct Told {
        books: Books,
        run: Run,
    }

    impl Told {
        /// One critical report, a decision on it, a survey.
        fn new() -> Self {
            let now: Timestamp = "2026-11-23T10:00:00Z".parse().expect("time");
            let run = Run::new(now);
            let mut books = Books::new(run.clone());
            for (at_us, kind) in [(10, CRITICAL), (20, Kind::Decision), (30, Kind::Survey)] {
                books.note(1, kind, at_us);
            }
            Self { books, run }
        }

        fn event(&self, cause: usize, sequence: u64, kind: &str, data: &str) -> Vec<u8> {
            let id = self.run.id(0);
            format!(
                r#"{{"type":"{kind}","tenantid":"700.2","subject":"incident_reports/{id}","sequence":"{sequence}","causationid":"{}{cause}",
                "data":{{"incident_report_id":{id},{data}}}}}"#,
                self.run.token
            )
            .into_bytes()
        }

        /// Everything that a good service publishes.
        fn story(&self) -> Vec<Vec<u8>> {
            vec![
                self.event(0, 1, "incident_report.status_changed", r#""to":"sent","phase":"awaiting_approval""#),
                self.event(0, 2, "on_call.paged", r#""reason":"new""#),
                self.event(1, 3, "incident_report.status_changed", r#""to":"closed","phase":null"#),
            ]
        }

        fn judge(mut self, published: &[Vec<u8>]) -> (Audit, Standing) {
            for (at, body) in published.iter().enumerate() {
                self.books.published(body, 100 + at as u64);
            }
            (self.books.audit(0, 0, Some(0)), self.books.standings()[0])
        }
    }

    #[test]
    fn a_good_run_is_clean() {
        let told = Told::new();
        let story = told.story();
        let (audit, standing) = told.judge(&story);
        assert!(audit.is_clean(), "{audit:?}");
        assert_eq!((audit.sent, audit.answered, audit.surveys, standing), (3, 2, 1, Standing::Closed));
    }

    #[test]
    fn a_lost_answer_and_a_lost_page_are_noticed() {
        let told = Told::new();
        let story = told.story();
        let (audit, standing) = told.judge(&story[..2]);
        assert!(!audit.is_clean());
        assert_eq!((audit.lost, audit.gaps, standing), (1, 0, Standing::AwaitingApproval));
        let told = Told::new();
        let (audit, _) = told.judge(&[story[0].clone(), story[2].clone()]);
        assert!(!audit.is_clean());
        assert_eq!((audit.lost, audit.gaps), (1, 1));
    }

    #[test]
    fn a_repeated_and_a_changed_message_are_noticed() {
        let told = Told::new();
        let mut story = told.story();
        story.push(story[2].clone());
        let (audit, _) = told.judge(&story);
        assert!(audit.is_clean(), "a copy is allowed, and counted");
        assert_eq!(audit.duplicates, 1);
        let told = Told::new();
        let last = story.len() - 1;
        story[last] = told.event(1, 3, "incident_report.status_changed", r#""to":"dismissed","phase":null"#);
        let (audit, _) = told.judge(&story);
        assert!(!audit.is_clean());
        assert_eq!((audit.duplicates, audit.changed), (0, 1));
    }

    #[test]
    fn dead_letters_are_in_the_balance_and_markers_are_not() {
        let mut told = Told::new();
        told.books.dead_lettered(b"marker 1 surveys");
        assert!(told.books.has_marker("1 surveys") && !told.books.has_marker("1 reports"));
        let id = format!("{}1", told.run.token);
        told.books.dead_lettered(format!(r#"{{"specversion":"1.0","id":"{id}"}}"#).as_bytes());
        let audit = told.books.audit(0, 0, None);
        assert!(audit.balances && !audit.is_clean());
        assert_eq!((audit.dead_letters, audit.lost), (1, 1));
        // one that cannot be told from anything sent
        told.books.dead_lettered(b"{}");
        assert!(!told.books.audit(0, 0, None).balances);
    }

    #[test]
    fn a_malformed_message_must_be_a_dead_letter_and_no_event() {
        let told = Told::new();
        let story = told.story();
        let mut books = told.books;
        story.iter().for_each(|body| books.published(body, 100));
        let bodies: Vec<String> = (0..3).map(|_| format!(r#"{{"specversion":"1.0","id":"{}","#, books.note_malformed().1)).collect();
        for body in &bodies[1..] {
            books.dead_lettered(body.as_bytes());
        }
        let audit = books.audit(0, 0, Some(0));
        assert_eq!((audit.sent, audit.lost, audit.dead_letters, audit.duplicates), (3, 1, 0, 0));
        assert!(audit.balances && !audit.is_clean());
        for body in &bodies[..2] {
            books.dead_lettered(body.as_bytes());
        }
        assert_eq!(books.buried(), Buried { dead_lettered: 3, lost: 0, duplicates: 1 });
        assert!(books.audit(0, 0, Some(0)).is_clean(), "a copy is allowed, and counted");
        books.dead_lettered(format!(r#"{{"specversion":"1.0","id":"{}m3","#, told.run.token).as_bytes());
        assert_eq!(books.audit(0, 0, Some(0)).dead_letters, 1, "one that was never sent");
    }

    #[test]
    fn what_the_broker_or_the_store_says_counts() {
        let told = Told::new();
        let story = told.story();
        let mut books = told.books;
        story.iter().for_each(|body| books.published(body, 100));
        assert!(books.audit(0, 0, None).is_clean());
        assert!(!books.audit(1, 0, None).is_clean() && !books.audit(0, 1, None).is_clean() && !books.audit(0, 0, Some(1)).is_clean());
    }

    #[test]
    fn what_others_publish_is_none_of_ours() {
        let mut told = Told::new();
        told.books.published(br#"{"type":"x","tenantid":"5.4","subject":"agents/12","sequence":"9","causationid":"c","data":{}}"#, 1);
        assert_eq!(told.books.audit(0, 0, None).gaps, 0);
        assert_eq!(told.books.outbound().0, 1);
    }
}

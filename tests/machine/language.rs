//! The language of the tables, line by line. Strict: a word that is not of the language stops the test at its line.
//!
//! ```text
//! # a comment
//! ## R6 T2, against T2m: what the scenario shows (the row ids before the colon are counted)
//! day 2                       the lines below are of that day (a scenario begins on day 1, Monday 2026-11-23)
//! policy SETTINGS             the organization has always had these
//! given 09:00 SENTENCE        happens, has to have an effect, and what it publishes is not compared
//! 09:05 SENTENCE              happens; the `>` lines below are all that it publishes, in order
//!       more of the sentence  (an indented line goes on with the one above)
//! 09:12 (of 09:05) SENTENCE   arrives at 09:12 and bears the time 09:05
//! > what is published
//! ```
//!
//! Sentences (`[ ]` may be left out; ROLE is an actor's role; IDS are numbers):
//! ```text
//! soc creates report 1 low|high|critical on agent 12 | on identity 7 "name" | on nothing
//!     [host "name"] [attack KIND] [sent_at 08:00] [revision 1] [simulated] [isolate]: ITEMS
//! soc revises report 1 to revision 2: ITEMS
//! soc updates report 1 [severity S] [subject "text"] [updated_at 08:00]
//! soc comments on report 1 "text"
//! ROLE approves report 1 revision 1 [only IDS]
//! ROLE rejects report 1 revision 1 "comment" [only IDS]
//! soc dismisses report 1 | soc closes report 1 [updated_at 08:00]
//! ROLE completes | uncompletes | retries | cancels | waives 2 of report 1 ["reason"]
//! ROLE resolves | dismisses | reopens report 1 ["reason"]
//! ROLE calls the soc on report 1
//! ROLE isolates | releases agent 12 [force] ["reason"]
//! agent 12 surveys [as of 09:05] [host "name"] [boot ID] [isolated | free] [sees nothing | sees fh-1 fh-2]
//! agent 12 is removed
//! organization sets SETTINGS
//! organization counts 2026-11: 1000 events 100 signals 10 investigated
//! organization is deleted
//! attempt g1/a1 of 1 of report 1 [revision 1] ends CODE [after 3 tries]
//! the same again              the event of the line above arrives once more
//! service restarts
//! surveys fall behind | surveys catch up      whether those that waited at the start have been taken
//! time passes
//! ```
//! SETTINGS, with commas between: `time_zone ZONE`, `hours 09:00 to 17:00 on 1 2 3 4 5` (Monday is 1),
//! `unresponsive_after_days N`, `sla CRITICAL WARNING HIGH LOW` (minutes), and with `on` or `off`: `managed_low`,
//! `managed_high`, `managed_critical`, `release_on_resolve`, `auto_close_when_footholds_cleared`,
//! `close_on_agent_removed`, `resolve_when_unblocked`.
//!
//! ITEMS, with commas between: `no remediations` or `1 assisted|manual|containment "Action" [on "parameter"]
//! [simulate CODE CODE ... | silent]` (silent: its attempts end only by an `attempt` line), then
//! `foothold fh-1 [of IDS]`. A revision without footholds keeps the known ones; `no footholds` clears them.

use jiff::Span;
use jiff::civil::{Date, DateTime, Time, date};
use jiff::tz::TimeZone;

use remedyd::machine::event::{
    AgentRequest, AttemptEnd, Event, EventKind, FunnelCount, NewReport, Payload, PlanDecision, PlanItem, ReportRequest, ReportUpdate,
    Revision, SettingsChange, TaskRequest,
};
use remedyd::model::actor::{Actor, Role};
use remedyd::model::agent::Survey;
use remedyd::model::ids::{AgentId, IdentityId, RemediationId, ReportId};
use remedyd::model::organization::SlaSettings;
use remedyd::model::remediation::{ActionName, OutcomeCode, Parameters, RemediationType};
use remedyd::model::report::{AttackKind, Foothold, Identity, ReportText, Severity};
use remedyd::model::time::Timestamp;

use super::world::TENANT;

pub const FIRST_DAY: i64 = 1;
const DAY_ONE: Date = date(2026, 11, 23);

/// The number of the day and the time on it, to the millisecond, in the tables' spelling.
pub fn day_and_time(at: Timestamp) -> (i64, String) {
    let at = at.to_zoned_datetime(TimeZone::UTC).datetime();
    let day = DAY_ONE.until(at.date()).expect("a span between dates").get_days();
    let full = at.time().to_string();
    (i64::from(day) + FIRST_DAY, full.strip_suffix(":00").filter(|short| short.len() == 5).unwrap_or(&full).to_owned())
}

/// What a line of a table asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// Blank or a comment.
    Prose,
    /// A new scenario: rows shown, rows shown against their guard.
    Heading {
        title: String,
        shown: Vec<String>,
        against: Vec<String>,
    },
    /// What the organization has always had.
    Settings(Box<SettingsChange>),
    When {
        at: Timestamp,
        given: bool,
        happening: Happening,
    },
    Then(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// The second part: items whose attempts nobody answers for.
    Event(Box<Event>, Vec<(ReportId, RemediationId)>),
    Again,
    Restart,
    /// Whether the surveys that waited at the start have been taken.
    CaughtUp(bool),
    TimePasses,
}

/// A parsed line, with its number (from 1) and how many lines of the file it takes up.
pub struct Parsed {
    pub number: usize,
    pub height: usize,
    pub line: Line,
}

/// A file, line by line. Panics with file and line at the first word that is not understood.
pub fn parse(file: &str, text: &str) -> Vec<Parsed> {
    let mut day = FIRST_DAY;
    let mut parsed = Vec::new();
    let raw: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < raw.len() {
        let number = at + 1;
        let mut whole = raw[at].to_owned();
        at += 1;
        while !whole.trim().is_empty() && at < raw.len() && raw[at].starts_with(' ') {
            whole.push_str(raw[at]);
            at += 1;
        }
        let line = line(&whole, &mut day, number).unwrap_or_else(|why| panic!("{file}:{number}: {why}\n    {whole}"));
        parsed.push(Parsed { number, height: at + 1 - number, line });
    }
    parsed
}

type Answer<T> = Result<T, String>;

fn line(text: &str, day: &mut i64, number: usize) -> Answer<Line> {
    if let Some(title) = text.strip_prefix("## ") {
        *day = FIRST_DAY;
        return heading(title);
    }
    if let Some(then) = text.strip_prefix("> ") {
        return Ok(Line::Then(then.trim_end().to_owned()));
    }
    if text.trim().is_empty() || text.starts_with("# ") {
        return Ok(Line::Prose);
    }
    let mut words = Words { tokens: tokens(text)?, next: 0, day: *day };
    if words.take("day") {
        *day = words.number()? as i64;
        words.end()?;
        return Ok(Line::Prose);
    }
    if words.take("policy") {
        let settings = settings(&mut words)?;
        words.end()?;
        return Ok(Line::Settings(Box::new(settings)));
    }
    let given = words.take("given");
    let at = words.time()?;
    let event_time = if words.take("(of") { words.time()? } else { at };
    let happening = happening(&mut words, event_time, number)?;
    words.end()?;
    Ok(Line::When { at, given, happening })
}

/// `R6 T2, against T2m: title`
fn heading(text: &str) -> Answer<Line> {
    let (rows, title) = text.split_once(": ").ok_or("a heading is `## ROW ROW, against ROW: title`")?;
    let (mut shown, mut against) = (Vec::new(), Vec::new());
    for part in rows.split(", ") {
        let (list, ids) = match part.strip_prefix("against ") {
            Some(ids) => (&mut against, ids),
            None => (&mut shown, part),
        };
        list.extend(ids.split(' ').map(str::to_owned));
    }
    Ok(Line::Heading { title: title.to_owned(), shown, against })
}

fn happening(words: &mut Words, time: Timestamp, number: usize) -> Answer<Happening> {
    let mut silent = Vec::new();
    let first = words.word()?;
    let kind = match first.as_str() {
        "time" => return words.expect("passes").map(|()| Happening::TimePasses),
        "service" => return words.expect("restarts").map(|()| Happening::Restart),
        "the" => return words.expect("same").and_then(|()| words.expect("again")).map(|()| Happening::Again),
        "surveys" => {
            let caught_up = words.take("catch");
            if !caught_up {
                words.expect("fall")?;
            }
            return words.expect(if caught_up { "up" } else { "behind" }).map(|()| Happening::CaughtUp(caught_up));
        }
        "soc" => soc(words, time, &mut silent)?,
        "organization" => organization(words)?,
        "agent" => {
            let agent = AgentId(words.number()?);
            if words.take("is") {
                words.expect("removed")?;
                EventKind::AgentRemoved { agent, reason: None }
            } else {
                EventKind::Surveyed(survey(words, agent, time)?)
            }
        }
        "attempt" => EventKind::AttemptEnded(attempt_end(words)?),
        role => person(words, actor(role)?)?,
    };
    let event = Event { id: format!("line-{number}"), tenant: TENANT, time, traceparent: None, kind };
    Ok(Happening::Event(Box::new(event), silent))
}

fn soc(words: &mut Words, time: Timestamp, silent: &mut Vec<(ReportId, RemediationId)>) -> Answer<EventKind> {
    match words.word()?.as_str() {
        "creates" => new_report(words, time, silent),
        "revises" => {
            let report = words.report()?;
            words.expect("to")?;
            words.expect("revision")?;
            let plan_revision = words.number()?;
            let (items, footholds) = plan(words, report, silent)?;
            Ok(EventKind::ReportRevised(Box::new(Revision { report, plan_revision, items, footholds, comment: None })))
        }
        "updates" => {
            let report = words.report()?;
            let mut update = ReportUpdate {
                report,
                updated_at: time,
                severity: None,
                subject: None,
                summary: None,
                body: None,
                data: Payload(format!("{{\"incident_report_id\":{report}}}")),
            };
            while !words.at_end() {
                match words.word()?.as_str() {
                    "severity" => update.severity = Some(severity(&words.word()?)?),
                    "subject" => update.subject = Some(words.text()?),
                    "updated_at" => update.updated_at = words.time()?,
                    other => return Err(format!("an update of {other:?}?")),
                }
            }
            Ok(EventKind::ReportUpdated(Box::new(update)))
        }
        "comments" => {
            words.expect("on")?;
            let report = words.report()?;
            Ok(EventKind::CommentAdded { report, data: Payload(format!("{:?}", words.text()?)) })
        }
        "dismisses" => Ok(EventKind::ReportDismissed { report: words.report()?, reason: None }),
        "closes" => {
            let report = words.report()?;
            let status_updated_at = if words.take("updated_at") { words.time()? } else { time };
            Ok(EventKind::ReportClosed { report, status_updated_at })
        }
        other => Err(format!("the SOC {other:?}?")),
    }
}

fn organization(words: &mut Words) -> Answer<EventKind> {
    match words.word()?.as_str() {
        "sets" => Ok(EventKind::OrganizationUpdated(Box::new(settings(words)?))),
        "counts" => {
            let period = words.word()?;
            words.expect(":")?;
            let mut counted = |of: &str| {
                let n = words.number()?;
                words.expect(of).map(|()| n)
            };
            Ok(EventKind::FunnelCounted(FunnelCount {
                period,
                events_analysed: counted("events")?,
                signals: counted("signals")?,
                signals_investigated: counted("investigated")?,
            }))
        }
        "is" => words.expect("deleted").map(|()| EventKind::OrganizationDeleted),
        other => Err(format!("the organization {other:?}?")),
    }
}

fn settings(words: &mut Words) -> Answer<SettingsChange> {
    let mut change = SettingsChange::default();
    loop {
        let name = words.word()?;
        match name.as_str() {
            "time_zone" => change.time_zone = Some(words.word()?),
            "hours" => {
                let opens = words.minute_of_day()?;
                words.expect("to")?;
                let closes = words.minute_of_day()?;
                words.expect("on")?;
                let mut days = [false; 7];
                while words.is_word() {
                    let day = words.number()?;
                    *days.get_mut(day as usize - 1).ok_or("a week has seven days")? = true;
                }
                change.business_hours = Some((opens, closes, days));
            }
            "unresponsive_after_days" => change.unresponsive_after_days = Some(words.number()? as u16),
            "sla" => {
                change.sla = Some(SlaSettings {
                    critical_minutes: words.number()? as u16,
                    high_warning_minutes: words.number()? as u16,
                    high_minutes: words.number()? as u16,
                    low_business_minutes: words.number()? as u16,
                });
            }
            switch => {
                let setting = match switch {
                    "managed_low" => &mut change.managed_low,
                    "managed_high" => &mut change.managed_high,
                    "managed_critical" => &mut change.managed_critical,
                    "release_on_resolve" => &mut change.release_on_resolve,
                    "auto_close_when_footholds_cleared" => &mut change.auto_close_when_footholds_cleared,
                    "close_on_agent_removed" => &mut change.close_on_agent_removed,
                    "resolve_when_unblocked" => &mut change.resolve_when_unblocked,
                    other => return Err(format!("no setting is {other:?}")),
                };
                *setting = Some(match words.word()?.as_str() {
                    "on" => true,
                    "off" => false,
                    other => return Err(format!("on or off, not {other:?}")),
                });
            }
        }
        if !words.take(",") {
            return Ok(change);
        }
    }
}

fn new_report(words: &mut Words, time: Timestamp, silent: &mut Vec<(ReportId, RemediationId)>) -> Answer<EventKind> {
    let id = words.report()?;
    let mut new = NewReport {
        id,
        agent_id: None,
        identity: None,
        platform: "windows".into(),
        hostname: None,
        severity: severity(&words.word()?)?,
        attack_kind: AttackKind::MalwarePersistence,
        text: ReportText { subject: format!("report {id}"), ..ReportText::default() }.into(),
        body: String::new(),
        simulated: false,
        isolate_host: false,
        plan_revision: 1,
        items: Vec::new(),
        footholds: Vec::new(),
        sent_at: time,
        updated_at: time,
        status_updated_at: time,
    };
    words.expect("on")?;
    match words.word()?.as_str() {
        "agent" => new.agent_id = Some(AgentId(words.number()?)),
        "identity" => new.identity = Some(Identity { id: IdentityId(words.number()?), name: words.text()? }),
        "nothing" => {}
        other => return Err(format!("on {other:?}?")),
    }
    while !words.is_next(":") {
        match words.word()?.as_str() {
            "host" => new.hostname = Some(words.text()?),
            "attack" => new.attack_kind = attack(&words.word()?)?,
            "sent_at" => new.sent_at = words.time()?,
            "revision" => new.plan_revision = words.number()?,
            "simulated" => new.simulated = true,
            "isolate" => new.isolate_host = true,
            other => return Err(format!("a report with {other:?}?")),
        }
    }
    let (items, footholds) = plan(words, id, silent)?;
    new.items = items;
    new.footholds = footholds.unwrap_or_default();
    Ok(EventKind::ReportCreated(Box::new(new)))
}

/// `: ITEMS`
fn plan(
    words: &mut Words,
    report: ReportId,
    silent: &mut Vec<(ReportId, RemediationId)>,
) -> Answer<(Vec<PlanItem>, Option<Vec<Foothold>>)> {
    words.expect(":")?;
    let mut items = Vec::new();
    let mut footholds = None;
    loop {
        if words.take("foothold") {
            let mut foothold = Foothold { id: words.word()?, kind: "file".into(), description: String::new(), remediation_ids: Vec::new() };
            if words.take("of") {
                foothold.remediation_ids = words.remediations()?;
            }
            footholds.get_or_insert_with(Vec::new).push(foothold);
        } else if words.take("no") {
            match words.word()?.as_str() {
                "remediations" => {}
                "footholds" => footholds = Some(Vec::new()),
                other => return Err(format!("no {other:?}?")),
            }
        } else {
            let item = plan_item(words)?;
            if words.take("silent") {
                silent.push((report, item.id));
            }
            items.push(item);
        }
        if !words.take(",") {
            return Ok((items, footholds));
        }
    }
}

fn plan_item(words: &mut Words) -> Answer<PlanItem> {
    let id = RemediationId(words.number()?);
    let kind = match words.word()?.as_str() {
        "assisted" => RemediationType::Assisted,
        "manual" => RemediationType::Manual,
        "containment" => RemediationType::Containment,
        other => return Err(format!("no type of remediation is {other:?}")),
    };
    let action = ActionName::new(words.text()?);
    let parameters = if words.take("on") { Parameters::Text(words.text()?) } else { Parameters::None };
    let mut simulate = Vec::new();
    if words.take("simulate") {
        while words.is_word() {
            simulate.push(OutcomeCode::new(words.word()?));
        }
    }
    Ok(PlanItem { id, kind, action, parameters: parameters.into(), simulate: simulate.into() })
}

fn person(words: &mut Words, actor: Actor) -> Answer<EventKind> {
    let verb = words.word()?;
    match verb.as_str() {
        "approves" => Ok(EventKind::Approved(plan_decision(words, actor, None)?)),
        "rejects" => {
            let mut comment = String::new();
            let decision = plan_decision(words, actor, Some(&mut comment))?;
            Ok(EventKind::Rejected { decision, comment })
        }
        "resolves" | "dismisses" | "reopens" => {
            let request = ReportRequest { report: words.report()?, reason: words.optional_text()?, actor };
            Ok(match verb.as_str() {
                "resolves" => EventKind::ResolutionRequested(request),
                "dismisses" => EventKind::DismissalRequested(request),
                _ => EventKind::ReopenRequested(request),
            })
        }
        "calls" => {
            words.expect("the")?;
            words.expect("soc")?;
            words.expect("on")?;
            let report = words.report()?;
            let data = Payload("{\"channel\":\"callback\"}".into());
            let request = ReportRequest { report, reason: Some("other".into()), actor };
            Ok(EventKind::SocSupportRequested { request, data })
        }
        "isolates" | "releases" => {
            words.expect("agent")?;
            let request =
                AgentRequest { agent: AgentId(words.number()?), force: words.take("force"), reason: words.optional_text()?, actor };
            Ok(match verb.as_str() {
                "isolates" => EventKind::IsolationRequested(request),
                _ => EventKind::ReleaseRequested(request),
            })
        }
        "completes" | "uncompletes" | "retries" | "cancels" | "waives" => {
            let remediation = RemediationId(words.number()?);
            words.expect("of")?;
            let request = TaskRequest { report: words.report()?, remediation, reason: words.optional_text()?, actor };
            Ok(match verb.as_str() {
                "waives" => EventKind::Waived(request),
                "completes" => EventKind::ManualCompleted(request),
                "uncompletes" => EventKind::ManualUncompleted(request),
                "retries" => EventKind::RetryRequested(request),
                _ => EventKind::CancelRequested(request),
            })
        }
        other => Err(format!("a person {other:?}?")),
    }
}

fn plan_decision(words: &mut Words, actor: Actor, comment: Option<&mut String>) -> Answer<PlanDecision> {
    let report = words.report()?;
    words.expect("revision")?;
    let plan_revision = words.number()?;
    if let Some(comment) = comment {
        *comment = words.text()?;
    }
    let remediations = if words.take("only") { Some(words.remediations()?) } else { None };
    Ok(PlanDecision { report, plan_revision, remediations, actor })
}

fn survey(words: &mut Words, agent_id: AgentId, time: Timestamp) -> Answer<Survey> {
    let mut survey = Survey {
        agent_id,
        surveyed_at: time,
        hostname: None,
        platform: None,
        agent_version: None,
        boot_id: None,
        footholds_present: None,
        isolated: None,
    };
    words.expect("surveys")?;
    while !words.at_end() {
        match words.word()?.as_str() {
            "as" => {
                words.expect("of")?;
                survey.surveyed_at = words.time()?;
            }
            "host" => survey.hostname = Some(words.text()?),
            "boot" => survey.boot_id = Some(words.word()?),
            "isolated" => survey.isolated = Some(true),
            "free" => survey.isolated = Some(false),
            "sees" => {
                let mut seen = Vec::new();
                if !words.take("nothing") {
                    while words.is_word() {
                        seen.push(words.word()?);
                    }
                }
                survey.footholds_present = Some(seen);
            }
            other => return Err(format!("a survey with {other:?}?")),
        }
    }
    Ok(survey)
}

fn attempt_end(words: &mut Words) -> Answer<AttemptEnd> {
    let number = words.word()?;
    words.expect("of")?;
    let remediation = RemediationId(words.number()?);
    words.expect("of")?;
    let report = words.report()?;
    let revision = if words.take("revision") { words.number()? } else { 1 };
    words.expect("ends")?;
    let code = OutcomeCode::new(words.word()?);
    let mut tries = 1;
    if words.take("after") {
        tries = words.number()? as u32;
        words.expect("tries")?;
    }
    let attempt_id = format!("{TENANT}/{report}/{revision}/{remediation}/{number}");
    Ok(AttemptEnd { report, revision, remediation, attempt_id, code, tries })
}

fn actor(role: &str) -> Answer<Actor> {
    let role = Role::ALL.into_iter().find(|known| known.as_str() == role).ok_or(format!("nobody is called {role:?}"))?;
    Ok(Actor { id: 31, name: None, email: None, role })
}

fn severity(word: &str) -> Answer<Severity> {
    let all = [Severity::Low, Severity::High, Severity::Critical];
    all.into_iter().find(|known| known.as_str() == word).ok_or(format!("no severity is {word:?}"))
}

fn attack(word: &str) -> Answer<AttackKind> {
    let all = [AttackKind::Phishing, AttackKind::MalwarePersistence, AttackKind::IdentityCompromise, AttackKind::Unknown];
    all.into_iter().find(|known| known.as_str() == word).ok_or(format!("no attack kind is {word:?}"))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
}

/// Words, texts in double quotes, and `:` and `,` at the end of either as words of their own.
fn tokens(text: &str) -> Answer<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let (quoted, behind) = rest[1..].split_once('"').ok_or("a text without its closing quote")?;
            tokens.push(Token::Text(quoted.to_owned()));
            rest = behind;
        } else {
            let (word, behind) = rest.split_at(rest.find([' ', '"']).unwrap_or(rest.len()));
            let bare = word.trim_end_matches([':', ',', ')']);
            if !bare.is_empty() {
                tokens.push(Token::Word(bare.to_owned()));
            }
            tokens.extend(word[bare.len()..].chars().filter(|mark| *mark != ')').map(|mark| Token::Word(mark.to_string())));
            rest = behind;
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

struct Words {
    tokens: Vec<Token>,
    next: usize,
    day: i64,
}

impl Words {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn at_end(&self) -> bool {
        self.peek().is_none()
    }

    fn is_next(&self, word: &str) -> bool {
        self.peek() == Some(&Token::Word(word.to_owned()))
    }

    /// A word that is not a mark.
    fn is_word(&self) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word != "," && word != ":")
    }

    fn take(&mut self, word: &str) -> bool {
        let is_it = self.is_next(word);
        self.next += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, word: &str) -> Answer<()> {
        if self.take(word) { Ok(()) } else { Err(format!("{word:?} was expected, not {:?}", self.peek())) }
    }

    fn end(&self) -> Answer<()> {
        self.peek().map_or(Ok(()), |more| Err(format!("{more:?} is too much")))
    }

    fn word(&mut self) -> Answer<String> {
        match self.peek().cloned() {
            Some(Token::Word(word)) if self.is_word() => {
                self.next += 1;
                Ok(word)
            }
            other => Err(format!("a word was expected, not {other:?}")),
        }
    }

    fn text(&mut self) -> Answer<String> {
        match self.peek().cloned() {
            Some(Token::Text(text)) => {
                self.next += 1;
                Ok(text)
            }
            other => Err(format!("a text in quotes was expected, not {other:?}")),
        }
    }

    fn optional_text(&mut self) -> Answer<Option<String>> {
        match self.peek() {
            Some(Token::Text(_)) => self.text().map(Some),
            Some(Token::Word(_)) | None => Ok(None),
        }
    }

    /// `09:00`
    fn minute_of_day(&mut self) -> Answer<u16> {
        let word = self.word()?;
        let (hours, minutes) = word.split_once(':').ok_or("hours and minutes were expected")?;
        let number = |text: &str| text.parse::<u16>().map_err(|error| error.to_string());
        Ok(number(hours)? * 60 + number(minutes)?)
    }

    fn number(&mut self) -> Answer<u64> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("a number was expected, not {word:?}"))
    }

    fn report(&mut self) -> Answer<ReportId> {
        self.expect("report")?;
        Ok(ReportId(self.number()?))
    }

    fn remediations(&mut self) -> Answer<Vec<RemediationId>> {
        let mut ids = vec![RemediationId(self.number()?)];
        while self.is_word() {
            ids.push(RemediationId(self.number()?));
        }
        Ok(ids)
    }

    /// `09:05` or `09:05:30.250`, on the day of the line.
    fn time(&mut self) -> Answer<Timestamp> {
        let word = self.word()?;
        let full = if word.len() == 5 { format!("{word}:00") } else { word.clone() };
        let time: Time = full.parse().map_err(|_| format!("a time was expected, not {word:?}"))?;
        let date = DAY_ONE.checked_add(Span::new().days(self.day - FIRST_DAY)).map_err(|error| error.to_string())?;
        let zoned = DateTime::from_parts(date, time).to_zoned_datetime(TimeZone::UTC).map_err(|error| error.to_string())?;
        Ok(zoned.timestamp())
    }
}

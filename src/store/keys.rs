//! Keys: how rows are named and ordered in a partition's store. Nothing else builds or takes apart a key.
//!
//! Keys are text, numbers that order are 16 hexadecimal digits:
//!
//! | key | row |
//! |---|---|
//! | `s/<tenant>/<subject>` | a subject: its agent, and which of its reports are live |
//! | `r/<tenant>/<report>` | a report; it names its subject, and so is the index from report to subject |
//! | `n/<tenant>/<report>` | the narrative of a report, if it has one: its `body`, written when that changes |
//! | `i/<tenant>/<id hash>` | inbox: an event applied within the dedupe window |
//! | `o/<n>` | outbox: an event to publish, in order |
//! | `t/<due>/<tenant>/<subject>` | a subject's timer |
//! | `x/<tenant>/<subject>` | the subject has attempts in the field |
//! | `p/<tenant>/<report>/<n>` | a parked event |
//! | `g/<tenant>` | an organization: its settings, its funnel |
//! | `a/<tenant>/<time>/<n>` | audit: a decision of a person or a policy |
//! | `z/<due>/<tenant>/<report>` | a report that is over is archived then |
//! | `d/<tenant>/<n>` | a dead letter (`-` where no tenant could be read) |
//! | `m/<name>` | the partition itself: its clock |

use crate::model::ids::{AgentId, IdentityId, ReportId, SubjectKey, TenantId};
use crate::model::time::Timestamp;

/// The longest key is a timer's with the longest numbers: 92 bytes.
const LONGEST: usize = 96;

/// A key that is being written, on the stack until it is whole: each row of a batch has one, and to format it would take longer
/// than some decisions.
struct Key {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Key {
    fn of(kind: &[u8]) -> Self {
        let mut key = Self { bytes: [0; LONGEST], length: 0 };
        key.text(kind);
        key
    }

    fn text(&mut self, text: &[u8]) -> &mut Self {
        let end = self.length + text.len();
        self.bytes[self.length..end].copy_from_slice(text);
        self.length = end;
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.text(itoa::Buffer::new().format(number).as_bytes())
    }

    /// A number that keys are in the order of.
    fn digits(&mut self, number: u64) -> &mut Self {
        let end = self.length + 16;
        #[expect(clippy::expect_used, reason = "the slice is twice as long as the number")]
        hex::encode_to_slice(number.to_be_bytes(), &mut self.bytes[self.length..end]).expect("two digits a byte");
        self.length = end;
        self
    }

    /// Milliseconds before 1970 do not occur: event times are checked at the edge.
    fn time(&mut self, at: Timestamp) -> &mut Self {
        self.digits(u64::try_from(at.as_millisecond()).unwrap_or(0))
    }

    fn slash(&mut self) -> &mut Self {
        self.text(b"/")
    }

    fn tenant(&mut self, tenant: TenantId) -> &mut Self {
        self.number(tenant.account).text(b".").number(tenant.organization)
    }

    fn subject(&mut self, subject: SubjectKey) -> &mut Self {
        let (kind, id) = subject.parts();
        self.text(kind.as_bytes()).slash().number(id)
    }

    fn end(&self) -> Vec<u8> {
        self.bytes[..self.length].to_vec()
    }
}

pub const OUTBOX: &[u8] = b"o/";
pub const TIMERS: &[u8] = b"t/";
pub const OPEN_ATTEMPTS: &[u8] = b"x/";
pub const PARKED: &[u8] = b"p/";
pub const DEAD_LETTERS: &[u8] = b"d/";
pub const REPORTS: &[u8] = b"r/";
pub const NARRATIVES: &[u8] = b"n/";
pub const SUBJECTS: &[u8] = b"s/";
pub const INBOX: &[u8] = b"i/";
pub const ORGANIZATIONS: &[u8] = b"g/";
pub const AUDIT: &[u8] = b"a/";
pub const ENDED: &[u8] = b"z/";
pub const CLOCK: &[u8] = b"m/clock";

/// Whether a row of this key is put only where there is none: an outbox row has a number above all that there are, and a
/// subject has one timer and is in the field or not. When it is removed soon after, a store need not know of it any more.
pub fn is_never_overwritten(key: &[u8]) -> bool {
    [OUTBOX, TIMERS, OPEN_ATTEMPTS].iter().any(|prefix| key.starts_with(prefix))
}

pub fn subject(tenant: TenantId, key: SubjectKey) -> Vec<u8> {
    Key::of(SUBJECTS).tenant(tenant).slash().subject(key).end()
}

pub fn report(tenant: TenantId, report: ReportId) -> Vec<u8> {
    Key::of(REPORTS).tenant(tenant).slash().number(report.0).end()
}

pub fn narrative(tenant: TenantId, report: ReportId) -> Vec<u8> {
    Key::of(NARRATIVES).tenant(tenant).slash().number(report.0).end()
}

pub fn organization(tenant: TenantId) -> Vec<u8> {
    Key::of(ORGANIZATIONS).tenant(tenant).end()
}

/// The subjects of one tenant.
pub fn subjects_of(tenant: TenantId) -> Vec<u8> {
    Key::of(SUBJECTS).tenant(tenant).slash().end()
}

/// The subject in a subject key.
pub fn subject_of(key: &[u8]) -> Option<SubjectKey> {
    subject_parts(key).map(|(_, subject)| subject)
}

/// Whose subject, and which, a subject key names.
pub fn subject_parts(key: &[u8]) -> Option<(TenantId, SubjectKey)> {
    tenant_and_subject(std::str::from_utf8(key.strip_prefix(SUBJECTS)?).ok()?)
}

pub fn audit_of(tenant: TenantId) -> Vec<u8> {
    Key::of(AUDIT).tenant(tenant).slash().end()
}

/// `n` tells decisions of one millisecond apart.
pub fn audit(tenant: TenantId, at: Timestamp, n: u64) -> Vec<u8> {
    Key::of(AUDIT).tenant(tenant).slash().time(at).slash().digits(n).end()
}

/// Whose audit a key belongs to, and the time in it.
pub fn audit_parts(key: &[u8]) -> Option<(TenantId, Timestamp)> {
    let mut parts = std::str::from_utf8(key.strip_prefix(AUDIT)?).ok()?.split('/');
    let (tenant, at) = (parts.next()?, parts.next()?);
    Some((tenant.parse().ok()?, instant(at)?))
}

pub fn ended(due: Timestamp, tenant: TenantId, report: ReportId) -> Vec<u8> {
    Key::of(ENDED).time(due).slash().tenant(tenant).slash().number(report.0).end()
}

/// What an `ended` key says.
pub fn ended_parts(key: &[u8]) -> Option<(Timestamp, TenantId, ReportId)> {
    let mut parts = std::str::from_utf8(key.strip_prefix(ENDED)?).ok()?.split('/');
    let (due, tenant, report) = (parts.next()?, parts.next()?, parts.next()?);
    Some((instant(due)?, tenant.parse().ok()?, ReportId(report.parse().ok()?)))
}

pub fn reports_of(tenant: TenantId) -> Vec<u8> {
    Key::of(REPORTS).tenant(tenant).slash().end()
}

/// Whose report, and which, a report key names.
pub fn report_parts(key: &[u8]) -> Option<(TenantId, ReportId)> {
    tenant_and_report(key.strip_prefix(REPORTS)?)
}

/// Whose report, and which, a narrative is of.
pub fn narrative_parts(key: &[u8]) -> Option<(TenantId, ReportId)> {
    tenant_and_report(key.strip_prefix(NARRATIVES)?)
}

fn tenant_and_report(text: &[u8]) -> Option<(TenantId, ReportId)> {
    let (tenant, report) = std::str::from_utf8(text).ok()?.split_once('/')?;
    Some((tenant.parse().ok()?, ReportId(report.parse().ok()?)))
}

pub fn inbox(tenant: TenantId, id_hash: &[u8; 16]) -> Vec<u8> {
    Key::of(INBOX).tenant(tenant).slash().text(id_hash).end()
}

pub fn outbox(n: u64) -> Vec<u8> {
    Key::of(OUTBOX).digits(n).end()
}

/// The number in an outbox key.
pub fn outbox_number(key: &[u8]) -> Option<u64> {
    number(key.strip_prefix(OUTBOX)?)
}

pub fn timer(due: Timestamp, tenant: TenantId, subject: SubjectKey) -> Vec<u8> {
    Key::of(TIMERS).time(due).slash().tenant(tenant).slash().subject(subject).end()
}

/// What a timer key says.
pub fn timer_parts(key: &[u8]) -> Option<(Timestamp, TenantId, SubjectKey)> {
    let text = std::str::from_utf8(key.strip_prefix(TIMERS)?).ok()?;
    let (due, rest) = text.split_once('/')?;
    let due = instant(due)?;
    let (tenant, subject) = tenant_and_subject(rest)?;
    Some((due, tenant, subject))
}

pub fn open_attempts(tenant: TenantId, subject: SubjectKey) -> Vec<u8> {
    Key::of(OPEN_ATTEMPTS).tenant(tenant).slash().subject(subject).end()
}

pub fn open_attempts_parts(key: &[u8]) -> Option<(TenantId, SubjectKey)> {
    tenant_and_subject(std::str::from_utf8(key.strip_prefix(OPEN_ATTEMPTS)?).ok()?)
}

pub fn parked(tenant: TenantId, report: ReportId, n: u64) -> Vec<u8> {
    Key::of(PARKED).tenant(tenant).slash().number(report.0).slash().digits(n).end()
}

/// Tenant, report and number of a parked row.
pub fn parked_parts(key: &[u8]) -> Option<(TenantId, ReportId, u64)> {
    let text = std::str::from_utf8(key.strip_prefix(PARKED)?).ok()?;
    let mut parts = text.split('/');
    let (tenant, report, n) = (parts.next()?, parts.next()?, parts.next()?);
    Some((tenant.parse().ok()?, ReportId(report.parse().ok()?), number(n.as_bytes())?))
}

pub fn dead_letter(tenant: Option<TenantId>, n: u64) -> Vec<u8> {
    let mut key = Key::of(DEAD_LETTERS);
    match tenant {
        Some(tenant) => key.tenant(tenant),
        None => key.text(b"-"),
    };
    key.slash().digits(n).end()
}

pub fn dead_letters_of(tenant: TenantId) -> Vec<u8> {
    Key::of(DEAD_LETTERS).tenant(tenant).slash().end()
}

/// Tenant and number of a dead letter row.
pub fn dead_letter_parts(key: &[u8]) -> Option<(Option<TenantId>, u64)> {
    let text = std::str::from_utf8(key.strip_prefix(DEAD_LETTERS)?).ok()?;
    let (tenant, n) = text.split_once('/')?;
    let tenant = if tenant == "-" { None } else { Some(tenant.parse().ok()?) };
    Some((tenant, number(n.as_bytes())?))
}

fn number(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The digits of a time in a key.
fn instant(digits: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::from_str_radix(digits, 16).ok()?).ok()
}

fn tenant_and_subject(text: &str) -> Option<(TenantId, SubjectKey)> {
    let (tenant, subject) = text.split_once('/')?;
    let (kind, id) = subject.split_once('/')?;
    let id = id.parse().ok()?;
    let subject = match kind {
        "agents" => SubjectKey::Agent(AgentId(id)),
        "identities" => SubjectKey::Identity(IdentityId(id)),
        "reports" => SubjectKey::Report(ReportId(id)),
        _ => return None,
    };
    Some((tenant.parse().ok()?, subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId { account: 5, organization: 4 };

    #[test]
    fn keys_can_be_taken_apart() {
        let due = Timestamp::from_millisecond(1_795_425_600_123).expect("in range");
        for subject in [SubjectKey::Agent(AgentId(12)), SubjectKey::Identity(IdentityId(7)), SubjectKey::Report(ReportId(9))] {
            assert_eq!(timer_parts(&timer(due, TENANT, subject)), Some((due, TENANT, subject)));
            assert_eq!(open_attempts_parts(&open_attempts(TENANT, subject)), Some((TENANT, subject)));
        }
        assert_eq!(audit_parts(&audit(TENANT, due, 3)), Some((TENANT, due)));
        assert_eq!(ended_parts(&ended(due, TENANT, ReportId(9))), Some((due, TENANT, ReportId(9))));
        assert_eq!(report_parts(&report(TENANT, ReportId(9))), Some((TENANT, ReportId(9))));
        assert_eq!(narrative_parts(&narrative(TENANT, ReportId(9))), Some((TENANT, ReportId(9))));
        assert_eq!(parked_parts(&parked(TENANT, ReportId(1), 2)), Some((TENANT, ReportId(1), 2)));
        assert_eq!(dead_letter_parts(&dead_letter(None, 3)), Some((None, 3)));
        assert_eq!(dead_letter_parts(&dead_letter(Some(TENANT), 3)), Some((Some(TENANT), 3)));
        assert_eq!(outbox_number(&outbox(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn keys_are_as_the_table_says_however_long_their_numbers() {
        let tenant = TenantId { account: u64::MAX, organization: u64::MAX };
        let (report, n) = (ReportId(u64::MAX), u64::MAX);
        let text = |key: Vec<u8>| String::from_utf8(key).expect("text");
        for subject in [SubjectKey::Agent(AgentId(n)), SubjectKey::Identity(IdentityId(n)), SubjectKey::Report(report)] {
            assert_eq!(text(super::subject(tenant, subject)), format!("s/{tenant}/{subject}"));
            assert_eq!(text(open_attempts(tenant, subject)), format!("x/{tenant}/{subject}"));
            assert_eq!(
                text(timer(Timestamp::MAX, tenant, subject)),
                format!("t/{:016x}/{tenant}/{subject}", Timestamp::MAX.as_millisecond())
            );
        }
        assert_eq!(text(super::report(tenant, report)), format!("r/{tenant}/{report}"));
        assert_eq!(text(parked(tenant, report, n)), format!("p/{tenant}/{report}/{n:016x}"));
        assert_eq!(text(audit(tenant, Timestamp::MIN, 0x1f)), format!("a/{tenant}/0000000000000000/000000000000001f"));
        assert_eq!(text(ended(Timestamp::MAX, tenant, report)), format!("z/{:016x}/{tenant}/{report}", Timestamp::MAX.as_millisecond()));
        assert_eq!(text(dead_letter(None, 0xabc)), "d/-/0000000000000abc");
        assert_eq!(text(dead_letter(Some(TENANT), 3)), "d/5.4/0000000000000003");
        assert_eq!(inbox(TENANT, b"0123456789/.-abc"), b"i/5.4/0123456789/.-abc");
    }

    #[test]
    fn outbox_and_timer_keys_order_as_their_numbers() {
        assert!(outbox(9) < outbox(10) && outbox(255) < outbox(256));
        let at = |ms| timer(Timestamp::from_millisecond(ms).expect("in range"), TENANT, SubjectKey::Report(ReportId(1)));
        assert!(at(999) < at(1_000) && at(1_000) < at(1_700_000_000_000));
    }
}

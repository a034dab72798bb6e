//! An event as a sentence. Reads nothing but the event, so it tells a stranger's as well as ours; what it has no
//! words for is told by its fields.
//!
//! Never here: what ought to have happened, or anything that a terminal would obey.

use serde_json::Value;

use crate::ops::inspect::text::harmless;

/// Fields shown of an event that there are no words for.
const MAX_FIELDS: usize = 6;

/// A line; a refusal has one more for each blocker.
pub fn narrate(event: &Value) -> String {
    let fields = Fields(event.get("data").unwrap_or(&Value::Null));
    // only what we publish is numbered; some types are passed on under the name that they came in by
    let published = event.get("sequence").is_some();
    let kind = event.get("type").and_then(Value::as_str).unwrap_or("an event without a type");
    let line = match (kind, published) {
        ("incident_report.status_changed", _) => status_changed(&fields),
        ("incident_report.triaged", _) => triaged(&fields),
        ("incident_report.phase_changed", _) => format!("the report is now {} (was {})", fields.text("to"), fields.text("from")),
        ("incident_report.resolution_refused", _) => resolution_refused(&fields),
        ("incident_report.resolution_unblocked", _) => "nothing is in the way of the refused resolution any more".into(),
        ("remediation.status_changed", _) => format!("{} {}", item(&fields), task_changed(&fields)),
        ("remediation.verified", _) => format!("#{}: verified, the survey no longer sees it", fields.text("remediation_id")),
        ("incident_report.reopened", _) => format!("the report is OPEN AGAIN: {}", fields.text("cause")),
        ("incident_report.residual_cleared", _) => "the last task that was still running has ended".into(),
        ("agent.isolation_changed", _) => {
            format!("agent {}: isolation is {} (was {})", fields.text("agent_id"), fields.text("to"), fields.text("from"))
        }
        ("agent.isolation_drifted", _) => format!("agent {} says that it is not isolated: isolated again", fields.text("agent_id")),
        ("sla.warning", _) => format!("nobody has acted yet, respond by {}", clock(&fields.text("respond_by"))),
        ("sla.breached", _) => format!("nobody has acted in time, it was due at {}", clock(&fields.text("respond_by"))),
        ("request.refused", _) => format!("REFUSED {} ({}): {}", fields.text("request_type"), fields.text("code"), fields.text("message")),
        ("agent.status_changed", _) => {
            let before = if fields.has("from") { format!(" (was {})", fields.text("from")) } else { String::new() };
            format!("agent {} is {}{before}", fields.text("agent_id"), fields.text("to"))
        }
        ("on_call.paged", _) => format!("PAGED: {}, respond by {}", fields.text("reason"), clock(&fields.text("respond_by"))),
        ("incident_report.created", _) => created(&Fields(fields.get("incident_report"))),
        ("incident_report.revised", _) => format!("the SOC issues the plan again, revision {}", fields.text("plan_revision")),
        ("incident_report.comment_added", false) => format!("the SOC says: {}", fields.text("comment")),
        ("remediations.approved", _) => format!("{} approves the plan, revision {}", actor(&fields), fields.text("plan_revision")),
        ("remediations.rejected", _) => format!("{} rejects the plan: {}", actor(&fields), fields.text("comment")),
        ("remediation.completed", _) => format!("{} marks step #{} as done", actor(&fields), fields.text("remediation_id")),
        ("remediation.uncompleted", _) => format!("{} marks step #{} as not done", actor(&fields), fields.text("remediation_id")),
        ("remediation.retry_requested", _) => format!("{} wants #{} tried again", actor(&fields), fields.text("remediation_id")),
        ("remediation.cancel_requested", _) => format!("{} cancels #{}", actor(&fields), fields.text("remediation_id")),
        ("incident_report.resolution_requested", _) => format!("{} wants the report closed: \"{}\"", actor(&fields), fields.text("reason")),
        ("agent.surveyed", _) => format!("agent {} on {} surveys", fields.text("agent_id"), fields.text("hostname")),
        (other, _) => by_its_fields(other, &fields),
    };
    line.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

/// The time of day in an RFC 3339 text.
pub fn clock(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

/// `data`, read leniently: what is not there reads as "?".
struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> &'a Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    fn has(&self, name: &str) -> bool {
        !self.get(name).is_null()
    }

    fn text(&self, name: &str) -> String {
        match self.get(name) {
            Value::Null => "?".into(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    fn number(&self, name: &str) -> u64 {
        self.get(name).as_u64().unwrap_or(0)
    }

    fn list(&self, name: &str) -> Vec<Fields<'a>> {
        self.get(name).as_array().into_iter().flatten().map(Fields).collect()
    }

    fn texts(&self, name: &str) -> Vec<&'a str> {
        self.get(name).as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

fn actor(fields: &Fields<'_>) -> String {
    let actor = Fields(fields.get("actor"));
    match actor.has("name") {
        true => format!("{} ({})", actor.text("name"), actor.text("role")),
        false => format!("somebody ({})", actor.text("role")),
    }
}

fn item(fields: &Fields<'_>) -> String {
    format!("#{} {}:", fields.text("remediation_id"), fields.text("action"))
}

fn created(report: &Fields<'_>) -> String {
    let items = Fields(report.get("remediations")).list("items").len();
    format!("the SOC reports: {} ({items} remediations)", report.text("subject"))
}

fn status_changed(fields: &Fields<'_>) -> String {
    let counts = Fields(fields.get("counts"));
    let some = |name: &str| counts.number(name);
    if !fields.has("from") {
        return format!(
            "the report is {} ({}): {} to review, {} footholds",
            fields.text("to"),
            fields.text("phase"),
            some("unapproved"),
            some("footholds_remaining")
        );
    }
    let by = if fields.has("actor") { format!(" by {}", actor(fields)) } else { String::new() };
    let (status, cause) = (fields.text("to").to_uppercase(), fields.text("cause"));
    let left = match some("footholds_remaining") {
        0 => "no foothold left".to_owned(),
        n => format!("{n} footholds remain"),
    };
    format!(
        "the report is {status} ({cause}){by}: {} completed, {} failed, {} cancelled; {left}",
        some("completed"),
        some("failed"),
        some("cancelled")
    )
}

fn triaged(fields: &Fields<'_>) -> String {
    let finding = Fields(fields.get("finding"));
    let tonight = match fields.text("urgency").as_str() {
        "page_now" => "page the on-call senior now".to_owned(),
        "within_hour" => "act within the hour".to_owned(),
        "business_day" => "working-day work".to_owned(),
        other => other.replace('_', " "),
    };
    let found: Vec<String> = finding.list("footholds").iter().map(|foothold| foothold.text("kind").replace('_', " ")).collect();
    let places = [finding.texts("hosts"), finding.texts("identities")].concat();
    let isolated = match fields.get("isolation").as_str() {
        Some("Enabled") => "not isolated".to_owned(),
        Some(other) => other.to_lowercase(),
        None => "no host involved".to_owned(),
    };
    format!(
        "triage: {} - {tonight}, by {}; {} ({}) on {}; plan: {}; {isolated}; next: {}",
        fields.text("severity").to_uppercase(),
        clock(&fields.text("respond_by")),
        finding.text("attack_kind").replace('_', " "),
        found.join(", "),
        places.join(", "),
        fields.text("plan_shape"),
        fields.text("next_action").replace('_', " "),
    )
}

fn resolution_refused(fields: &Fields<'_>) -> String {
    let blockers = fields.list("blockers");
    let mut lines = vec![format!("REFUSED to close the report, {} in the way:", blockers.len())];
    for blocker in blockers {
        let mut line = blocker.text("code");
        if blocker.has("remediation_id") {
            line = format!("{} {line}", item(&blocker));
        }
        if blocker.number("attempt") > 0 {
            line += &format!(", attempt {} of {}", blocker.text("attempt"), blocker.text("max_attempts"));
        }
        if blocker.has("reason") {
            line += &format!(", {}", blocker.text("reason"));
        }
        if blocker.has("next_attempt_at") {
            line += &format!(", next try {}", clock(&blocker.text("next_attempt_at")));
        }
        lines.push(format!("{line}; cleared by {}", blocker.text("clears_by")));
    }
    lines.join("\n")
}

/// What the state that was reached means, as far as the state that was left changes it.
fn task_changed(fields: &Fields<'_>) -> String {
    let (from, to) = (fields.text("from"), fields.text("to"));
    let reason = if fields.has("reason") { fields.text("reason") } else { String::new() };
    let attempt = format!("attempt {} of {}", fields.text("attempt"), fields.text("max_attempts"));
    let tries = match fields.number("tries") {
        1 => "1 try".to_owned(),
        n => format!("{n} tries"),
    };
    match (from.as_str(), to.as_str()) {
        ("?", "unapproved") => format!("{}, to be reviewed", fields.text("type")),
        ("?", "completed") => format!("already done under the old plan ({reason})"),
        ("unapproved", "queued") => format!("approved; waits for the agent's next survey, until {}", fields.text("deliver_by")),
        ("unapproved", "awaiting_human") => "approved; waits for people".into(),
        ("queued", "held") => "has to wait for another task of the plan".into(),
        ("held", "queued") => "its turn has come".into(),
        ("retry_wait", "queued") => format!("is tried again ({reason} before)"),
        ("failed" | "expired" | "cancelled", "queued") => "queued again, attempts count anew".into(),
        (_, "delivered") => format!("{attempt} begins"),
        (_, "retry_wait") => format!("{attempt}: {reason} after {tries}; next attempt at {}", clock(&fields.text("next_attempt_at"))),
        ("delivered", "completed") => format!("DONE on {attempt}, after {tries}"),
        ("awaiting_human", "completed") if reason == "acknowledged" => "counts as acknowledged".into(),
        ("awaiting_human", "completed") => "done by hand".into(),
        (_, "failed") => format!("FAILED on {attempt}: {reason}"),
        (_, "cancelled") => format!("cancelled ({reason})"),
        (from, to) if reason.is_empty() => format!("{from} -> {to}"),
        (from, to) => format!("{from} -> {to} ({reason})"),
    }
}

fn by_its_fields(kind: &str, fields: &Fields<'_>) -> String {
    let shown = fields.0.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null() && !value.is_object() && !value.is_array());
    let shown: Vec<String> = shown.take(MAX_FIELDS).map(|(name, _)| format!("{name} {}", fields.text(name))).collect();
    format!("{kind}: {}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(kind: &str, data: Value, line: &str) {
        assert_eq!(narrate(&json!({ "type": kind, "sequence": "1", "data": data })), line);
    }

    #[test]
    fn what_is_said_is_in_the_event() {
        let task = json!({ "remediation_id": 2, "action": "Quarantine File", "from": "delivered", "to": "retry_wait", "attempt": 1,
            "max_attempts": 5, "tries": 3, "reason": "file_in_use", "next_attempt_at": "2026-11-23T09:18:47.253Z" });
        check(
            "remediation.status_changed",
            task,
            "#2 Quarantine File: attempt 1 of 5: file_in_use after 3 tries; next attempt at 09:18:47",
        );
        let blocker = json!({ "code": "task_pending", "remediation_id": 2, "action": "Quarantine File", "attempt": 1, "max_attempts": 5,
            "reason": "file_in_use", "next_attempt_at": "2026-11-23T09:18:47Z", "clears_by": "the agent" });
        check(
            "incident_report.resolution_refused",
            json!({ "blockers": [blocker] }),
            "REFUSED to close the report, 1 in the way:\n#2 Quarantine File: task_pending, attempt 1 of 5, file_in_use, next try 09:18:47; cleared by the agent",
        );
        check("some.new.type", json!({ "severity": "high", "actor": null }), "some.new.type: severity high");
        check("agent.status_changed", json!({}), "agent ? is ?");
    }

    #[test]
    fn no_event_moves_the_cursor() {
        check("request.refused", json!({ "code": "\u{1b}[2J", "request_type": "x" }), "REFUSED x (?[2J): ?");
        assert_eq!(narrate(&json!(null)), "an event without a type: ");
    }
}

//! The status page: the service at a glance, for people, made here and read by any browser. No script; it loads itself
//! again by a meta tag.
//!
//! Never here: a text that is not escaped. Subjects and host names are often an attacker's.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use crate::broker::LinkState;
use crate::model::ids::{ReportId, TenantId};
use crate::model::report::Severity;
use crate::model::time::Timestamp;
use crate::pipeline::census::{Census, Open, OpenReport, Standing};
use crate::pipeline::histogram::Distribution;
use crate::pipeline::reading;
use crate::store::{Store, StoreError};

use super::facts::{Facts, Figures, Running};
use super::inspect::blockers::blockers;
use super::inspect::text::harmless;
use super::watched::Watched;

pub const STYLE: &str = include_str!("style.css");

/// Reports that are listed: one screen, and so many reads of the store.
const LISTED: usize = 20;
/// Characters of a text that somebody else has written.
const MAX_TEXT: usize = 160;
const REFRESH_SECONDS: u32 = 10;

/// A report that needs people, with what is in its way.
#[derive(Debug)]
pub struct Urgent {
    tenant: TenantId,
    id: ReportId,
    open: Open,
    subject: String,
    host: Option<String>,
    /// Code, task, and who or what clears it; none where nothing is in the way.
    blocker: Option<(String, &'static str)>,
    more: usize,
    next_try: Option<Timestamp>,
}

/// The most urgent open reports of all partitions. Reads three rows of a store for each.
pub fn urgent<S: Store>(watched: &Watched<S>) -> Result<Vec<Urgent>, StoreError> {
    let mut open: Vec<OpenReport> = Vec::new();
    let mut stores: HashMap<(TenantId, ReportId), &S> = HashMap::new();
    for (_, partition) in watched.partitions() {
        let here = partition.view.census.most_urgent(LISTED);
        stores.extend(here.iter().map(|(tenant, id, _)| ((*tenant, *id), partition.view.store.as_ref())));
        open.extend(here);
    }
    Census::by_urgency(&mut open);
    open.truncate(LISTED);
    let mut listed = Vec::new();
    for (tenant, id, open) in open {
        let Some(store) = stores.get(&(tenant, id)) else { continue };
        let Some(stored) = reading::report(*store, tenant, id)? else { continue };
        let blockers = blockers(&stored);
        let first = blockers.first().map(|blocker| {
            let task =
                blocker.task.as_ref().map_or_else(String::new, |task| format!(" · #{} {}", task.remediation_id, task.action.original()));
            (format!("{}{task}", blocker.code.as_str()), blocker.clears_by())
        });
        listed.push(Urgent {
            tenant,
            id,
            open,
            next_try: stored.report.remediations.iter().filter_map(|item| item.next_attempt_at).min(),
            subject: stored.report.text.subject.clone(),
            host: stored.report.hostname,
            blocker: first,
            more: blockers.len().saturating_sub(1),
        });
    }
    Ok(listed)
}

/// The page. `urgent`: what could be read of the store for it.
pub fn html(facts: &Facts, urgent: &Result<Vec<Urgent>, StoreError>) -> String {
    let mut page = String::with_capacity(16 * 1024);
    // writing to a String cannot fail
    let _ = whole(&mut page, facts, urgent);
    page
}

fn whole(page: &mut String, facts: &Facts, urgent: &Result<Vec<Urgent>, StoreError>) -> fmt::Result {
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>remedyd: {title}</title>\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body>\n",
        title = if !facts.not_live.is_empty() {
            "not live"
        } else if facts.not_ready.is_empty() {
            "ready"
        } else {
            "not ready"
        },
    )?;
    header(page, facts)?;
    page.write_str("<main>\n")?;
    for (class, why) in [("bad", &facts.not_live), ("warn", &facts.not_ready)] {
        for why in why {
            writeln!(page, "<p class=\"notice {class}\">{}</p>", text(why))?;
        }
    }
    match &facts.running {
        Some(running) => {
            tiles(page, running)?;
            ledger(page, running)?;
            partitions(page, running)?;
            page.write_str("<div class=\"columns\">\n")?;
            standings(page, running)?;
            tenants(page, running)?;
            dead_letters(page, running)?;
            page.write_str("</div>\n")?;
            waiting(page, running, urgent)?;
            page.write_str("<div class=\"columns\">\n")?;
            times(page, running)?;
            process(page, facts, running)?;
            page.write_str("</div>\n")?;
        }
        None => page.write_str("<section><p class=\"none\">The store is being read. Figures come when it has been.</p></section>\n")?,
    }
    write!(
        page,
        "</main>\n<footer><a href=\"/metrics\">metrics</a><a href=\"/api/v1/blockers?format=table\">all blockers</a>\
         <a href=\"/api/v1/dead-letters?format=table\">dead letters</a><a href=\"/readyz\">readyz</a><a href=\"/livez\">livez</a>\
         <span>Read-only. Loads itself again every {REFRESH_SECONDS} s.</span></footer></body></html>\n"
    )
}

fn header(page: &mut String, facts: &Facts) -> fmt::Result {
    let badge = |good: bool, yes: &'static str, no: &'static str| if good { ("good", yes) } else { ("bad", no) };
    let mut badges = vec![badge(facts.not_live.is_empty(), "live", "not live")];
    badges.push(if facts.not_ready.is_empty() { ("good", "ready") } else { ("warn", facts.stage_word()) });
    if let Some(running) = &facts.running {
        badges.push(match running.link {
            LinkState::Ready { .. } => ("good", "broker connected"),
            LinkState::Connecting => ("warn", "broker: connecting"),
            LinkState::Blocked { .. } => ("warn", "broker: blocks publishing"),
            LinkState::Closed => ("plain", "broker: closed"),
        });
    }
    page.write_str("<header><h1>remedyd</h1>")?;
    for (class, word) in badges {
        write!(page, "<span class=\"badge {class}\">{word}</span>")?;
    }
    writeln!(page, "<span class=\"when\">version {} · as of {}</span></header>", env!("CARGO_PKG_VERSION"), moment(facts.at))
}

impl Facts {
    fn stage_word(&self) -> &'static str {
        match self.stage {
            super::health::Stage::Running => "not ready",
            stage => stage.as_str(),
        }
    }
}

fn tiles(page: &mut String, running: &Running) -> fmt::Result {
    let census = &running.census;
    let count = |wanted: &dyn Fn(Standing, Severity) -> bool| -> u64 {
        census.by_standing.iter().filter(|((standing, severity), _)| wanted(*standing, *severity)).map(|(_, count)| count).sum()
    };
    page.write_str("<div class=\"tiles\">")?;
    for (name, value, alert) in [
        ("open reports", census.open, false),
        ("critical", count(&|_, severity| severity == Severity::Critical), true),
        ("blocked", count(&|standing, _| standing == Standing::Blocked), true),
        ("await approval", count(&|standing, _| standing == Standing::AwaitingApproval), false),
        ("retries waiting", census.retries, false),
        ("events in flight", running.ledger.in_flight, false),
        ("outbox rows", sum(running, |one| one.outbox_rows), running.each.iter().any(Figures::outbox_is_full)),
        ("dead letters", running.ledger.dead_lettered, true),
    ] {
        let class = if alert && value > 0 { "tile alert" } else { "tile" };
        write!(page, "<div class=\"{class}\"><b>{}</b><span>{name}</span></div>", number(value))?;
    }
    page.write_str("</div>\n")
}

fn ledger(page: &mut String, running: &Running) -> fmt::Result {
    let ledger = running.ledger;
    let off = |one: &Figures| match one.ledger.imbalance {
        0 => None,
        missing @ 1.. => Some(format!("{} missing", number(missing.unsigned_abs()))),
        extra => Some(format!("{} too many", number(extra.unsigned_abs()))),
    };
    let off: Vec<String> = running.each.iter().flat_map(|one| one.whose.all(off(one).into_iter().collect())).collect();
    page.write_str("<section id=\"ledger\"><h2>Where every event has gone <small>since the start</small>")?;
    if off.is_empty() {
        page.write_str(" <span class=\"badge good\">balanced</span>")?;
    }
    for off in off {
        write!(page, " <span class=\"badge bad\">{off}</span>")?;
    }
    page.write_str("</h2><div class=\"ledger\">")?;
    for (sign, name, value) in [
        ("", "events in", ledger.events_in),
        ("=", "applied", ledger.applied),
        ("+", "duplicate", ledger.duplicate),
        ("+", "refused", ledger.refused),
        ("+", "parked", ledger.parked),
        ("+", "dead-lettered", ledger.dead_lettered),
        ("+", "in flight", ledger.in_flight),
    ] {
        if !sign.is_empty() {
            write!(page, "<i>{sign}</i>")?;
        }
        write!(page, "<div><b>{}</b><span>{name}</span></div>", number(value))?;
    }
    page.write_str("</div></section>\n")
}

/// Each of several, by what tells that it is ill.
fn partitions(page: &mut String, running: &Running) -> fmt::Result {
    if running.each.len() < 2 {
        return Ok(());
    }
    page.write_str("<section id=\"partitions\"><h2>Partitions <small>since the start</small></h2><table><tr><th></th>")?;
    for name in ["events in", "in flight", "commits", "outbox rows", "connected again"] {
        write!(page, "<th class=\"number\">{name}</th>")?;
    }
    page.write_str("</tr>")?;
    for one in &running.each {
        let full = if one.outbox_is_full() { " <span class=\"badge bad\">outbox full</span>" } else { "" };
        write!(page, "<tr><td>partition {}{full}</td>", one.number)?;
        for count in [one.ledger.events_in, one.ledger.in_flight, one.commits, one.outbox_rows, one.reconnects] {
            cell(page, count)?;
        }
        page.write_str("</tr>")?;
    }
    page.write_str("</table></section>\n")
}

fn waiting(page: &mut String, running: &Running, urgent: &Result<Vec<Urgent>, StoreError>) -> fmt::Result {
    let open = running.census.open;
    let shown = urgent.as_ref().map_or(0, Vec::len);
    let of = if running.census.complete { format!("{shown} of {}", number(open)) } else { "still being counted".to_owned() };
    write!(page, "<section id=\"reports\"><h2>What needs people <small>{of} open reports, the most urgent first</small></h2>")?;
    match urgent {
        Err(error) => write!(page, "<p class=\"notice bad\">{}</p>", text(&error.to_string()))?,
        Ok(urgent) if urgent.is_empty() => page.write_str("<p class=\"none\">Nothing is open.</p>")?,
        Ok(urgent) => {
            page.write_str(
                "<table><tr><th>report</th><th>severity</th><th>phase</th><th>what it is</th><th>in the way</th><th>cleared by</th></tr>",
            )?;
            for report in urgent {
                row(page, report)?;
            }
            page.write_str("</table>")?;
        }
    }
    page.write_str("</section>\n")
}

fn row(page: &mut String, report: &Urgent) -> fmt::Result {
    let Urgent { tenant, id, open, subject, host, blocker, more, next_try } = report;
    let severity = match open.severity {
        Severity::Critical => "bad",
        Severity::High => "warn",
        Severity::Low => "plain",
    };
    write!(
        page,
        "<tr><td class=\"nowrap\"><a href=\"/api/v1/reports/{tenant}/{id}?format=card\">{id}</a><br><span class=\"quiet\">tenant {tenant}</span></td>\
         <td><span class=\"badge {severity}\">{}</span></td><td class=\"nowrap\">{}</td><td class=\"subject\">{}",
        open.severity.as_str(),
        words(open.standing.as_str()),
        text(subject),
    )?;
    if let Some(host) = host {
        write!(page, "<br><span class=\"quiet\">{}</span>", text(host))?;
    }
    match blocker {
        Some((code, clears_by)) => {
            write!(page, "</td><td>{}", text(&words(code)))?;
            let more = (*more > 0).then(|| format!("and {more} more"));
            let next_try = next_try.map(|at| format!("next try {}", at.strftime("%d %b %H:%M UTC")));
            let also: Vec<String> = more.into_iter().chain(next_try).collect();
            if !also.is_empty() {
                write!(page, "<br><span class=\"quiet\">{}</span>", also.join(" · "))?;
            }
            write!(page, "</td><td>{}</td>", text(clears_by))?;
        }
        None => page.write_str("</td><td class=\"quiet\">nothing</td><td></td>")?,
    }
    page.write_str("</tr>\n")
}

fn standings(page: &mut String, running: &Running) -> fmt::Result {
    const SEVERITIES: [Severity; 3] = [Severity::Critical, Severity::High, Severity::Low];
    page.write_str("<section><h2>Open reports <small>by phase and severity</small></h2><table><tr><th></th>")?;
    for severity in SEVERITIES {
        write!(page, "<th class=\"number\">{}</th>", severity.as_str())?;
    }
    page.write_str("</tr>")?;
    for standing in Standing::ALL {
        write!(page, "<tr><td>{}</td>", words(standing.as_str()))?;
        for severity in SEVERITIES {
            cell(page, running.census.by_standing.get(&(standing, severity)).copied().unwrap_or(0))?;
        }
        page.write_str("</tr>")?;
    }
    page.write_str("</table></section>\n")
}

fn tenants(page: &mut String, running: &Running) -> fmt::Result {
    let census = &running.census;
    write!(page, "<section><h2>Tenants <small>{} with open reports</small></h2>", number(census.tenants))?;
    if census.top_tenants.is_empty() {
        page.write_str("<p class=\"none\">None.</p>")?;
    } else {
        page.write_str("<table><tr><th>tenant</th><th></th><th class=\"number\">open reports</th></tr>")?;
        for (tenant, open) in &census.top_tenants {
            write!(page, "<tr><td>{tenant}</td><td><a href=\"/api/v1/blockers?tenant={tenant}&amp;format=table\">blockers</a></td>")?;
            cell(page, *open)?;
            page.write_str("</tr>")?;
        }
        if census.other_tenants > 0 {
            page.write_str("<tr><td>all others</td><td></td>")?;
            cell(page, census.other_tenants)?;
            page.write_str("</tr>")?;
        }
        page.write_str("</table>")?;
    }
    page.write_str("</section>\n")
}

fn dead_letters(page: &mut String, running: &Running) -> fmt::Result {
    page.write_str("<section><h2>Dead letters <small>by reason, since the start</small></h2>")?;
    let some: Vec<_> = running.by_reason.iter().filter(|(_, count)| *count > 0).collect();
    if some.is_empty() {
        page.write_str("<p class=\"none\">None.</p>")?;
    } else {
        page.write_str("<table><tr><th>reason</th><th class=\"number\">events</th></tr>")?;
        for (reason, count) in some {
            write!(page, "<tr><td>{}</td>", words(reason))?;
            cell(page, *count)?;
            page.write_str("</tr>")?;
        }
        page.write_str("</table>")?;
    }
    page.write_str("</section>\n")
}

fn times(page: &mut String, running: &Running) -> fmt::Result {
    page.write_str(
        "<section><h2>How long it takes <small>at most</small></h2><table><tr><th></th><th class=\"number\">half</th><th class=\"number\">99 in 100</th></tr>",
    )?;
    for (name, taken) in [("decide and commit", &running.decision), ("commit", &running.commit), ("publish a page", &running.page)] {
        write!(
            page,
            "<tr><td>{name}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            time(taken, 0.5),
            time(taken, 0.99)
        )?;
    }
    let events = running.batch.sum.checked_div(running.batch.count()).map_or_else(|| "–".to_owned(), number);
    writeln!(page, "<tr><td>events of a batch, on average</td><td class=\"number\">{events}</td><td></td></tr></table></section>")
}

fn process(page: &mut String, facts: &Facts, running: &Running) -> fmt::Result {
    let unknown = || "–".to_owned();
    page.write_str("<section><h2>Process</h2><table>")?;
    for (name, value) in [
        ("running since", moment(facts.started_at)),
        ("partitions", running.partitions.clone()),
        ("memory", facts.process.resident_bytes.map_or_else(unknown, bytes)),
        ("processor time", facts.process.cpu_seconds.map_or_else(unknown, |seconds| format!("{seconds:.1} s"))),
        ("open files", facts.process.open_fds.map_or_else(unknown, number)),
        ("store", running.store_bytes.map_or_else(unknown, bytes)),
        ("connected again", format!("{} times", number(sum(running, |one| one.reconnects)))),
        ("timers set", number(running.timers)),
        ("events parked", number(running.ledger.parked)),
    ] {
        write!(page, "<tr><td>{name}</td><td class=\"number\">{value}</td></tr>")?;
    }
    page.write_str("</table></section>\n")
}

fn sum(running: &Running, figure: impl Fn(&Figures) -> u64) -> u64 {
    running.each.iter().map(figure).sum()
}

fn cell(page: &mut String, count: u64) -> fmt::Result {
    let class = if count == 0 { "number zero" } else { "number" };
    write!(page, "<td class=\"{class}\">{}</td>", number(count))
}

/// Somebody else's text: bounded, without what a terminal or a reader would obey, and escaped.
fn text(raw: &str) -> String {
    let mut short: String = raw.chars().take(MAX_TEXT).collect();
    if short.len() < raw.len() {
        short.push('…');
    }
    let mut escaped = String::with_capacity(short.len());
    for c in harmless(&short).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// `awaiting_approval` for people.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// With a thin gap between thousands.
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn bytes(value: u64) -> String {
    format!("{:.1} MiB", value as f64 / (1024.0 * 1024.0))
}

fn moment(at: Timestamp) -> String {
    at.strftime("%d %b %Y %H:%M:%S UTC").to_string()
}

/// The bound under which this share of the times is.
fn time(taken: &Distribution, share: f64) -> String {
    match (taken.count(), taken.quantile(share)) {
        (0, _) => "–".to_owned(),
        (_, None) => "&gt; 100 s".to_owned(),
        (_, Some(micros @ ..1_000)) => format!("{micros} µs"),
        (_, Some(micros @ ..1_000_000)) => format!("{} ms", micros as f64 / 1e3),
        (_, Some(micros)) => format!("{} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::facts::tests::of_partitions;
    use crate::pipeline::counters::Ledger;

    #[test]
    fn one_partition_that_is_ill_is_seen_and_named() {
        let off_by = |imbalance| Ledger { imbalance, ..Ledger::default() };
        let page = |each: &[(Ledger, u64, u64)]| html(&of_partitions(each), &Ok(Vec::new()));
        let (alert, full) = ("<div class=\"tile alert\"><b>100</b><span>outbox rows", "partition 1 <span class=\"badge bad\">outbox full");
        let ill = page(&[(off_by(-2), 0, 0), (off_by(2), 100, 0), (off_by(0), 0, 0)]);
        for part in [alert, full, "bad\">partition 0: 2 too many<", "bad\">partition 1: 2 missing<"] {
            assert!(ill.contains(part), "{part} is not in {ill}");
        }
        assert!(!ill.contains("balanced"), "{ill}");
        let well = page(&[(off_by(0), 50, 0), (off_by(0), 50, 0)]);
        assert!(well.contains("balanced") && !well.contains(alert) && !well.contains("outbox full"), "{well}");
        // of the only one it need not be said whose it is
        let alone = page(&[(off_by(3), 100, 0)]);
        assert!(alone.contains("bad\">3 missing<") && alone.contains(alert) && !alone.contains("partition 0"), "{alone}");
    }

    #[test]
    fn nothing_of_a_text_is_obeyed() {
        let hostile = "<script>alert('x')</script> & \"quoted\" \u{202e}\u{7}";
        assert_eq!(text(hostile), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quoted&quot; ??");
        assert_eq!(text(&"é".repeat(MAX_TEXT + 1)), format!("{}…", "é".repeat(MAX_TEXT)));
    }

    #[test]
    fn numbers_are_grouped() {
        let grouped = [0, 999, 1_000, 1_234_567].map(|value| number(value).replace('\u{202f}', " "));
        assert_eq!(grouped, ["0", "999", "1 000", "1 234 567"]);
    }
}

//! An explanation: sentences for somebody at a helpdesk: what a report is, why it is where it is, what happens
//! next by itself and what somebody has to do.
//!
//! Every sentence follows from a record (report, agent, organization, audit). Never here: a rule, a time that no
//! record holds, or a name that the audit does not give.

mod history;
mod next;
mod what;
mod why;

use super::inspect::Inspected;
use super::inspect::stores::Stores;
use super::inspect::text::wrap;
use crate::model::ids::{ReportId, TenantId};
use crate::store::Store;

use self::history::History;

const WIDTH: usize = 80;
const INDENT: usize = 2;

/// What is explained: the report as it stands, and who has decided what about it.
struct Case {
    inspected: Inspected,
    history: History,
}

/// The page about a report; `None` if the tenant has none by this id.
pub fn page<S: Store>(stores: &Stores<S>, tenant: TenantId, id: ReportId) -> anyhow::Result<Option<String>> {
    let Some(stored) = stores.report(tenant, id)? else { return Ok(None) };
    let history = History::of(&stored.report, stores.audit(tenant, None).map(|read| read.map(|(_, row)| row)))?;
    let case = Case { inspected: Inspected::of(stored), history };
    let mut page = Page(String::new());
    page.line(0, &format!("Report {id} of tenant {tenant}"));
    page.line(0, &case.inspected.stored.report.text.subject);
    page.part("What it is", &what::it_is(&case));
    page.part("Why it is where it is", &why::it_is_there(&case));
    page.part("What happens next by itself", &next::by_itself(&case));
    page.part("What somebody has to do", &next::by_people(&case));
    Ok(Some(page.0))
}

struct Page(String);

impl Page {
    /// One paragraph per entry.
    fn part(&mut self, title: &str, paragraphs: &[String]) {
        self.0.push('\n');
        self.line(0, title);
        for paragraph in paragraphs {
            self.line(INDENT, paragraph);
        }
    }

    /// A list entry (`- …`) hangs.
    fn line(&mut self, indent: usize, text: &str) {
        let hanging = if text.starts_with("- ") { indent + 2 } else { indent };
        for (number, line) in wrap(text, WIDTH - hanging).iter().enumerate() {
            let blanks = if number == 0 { indent } else { hanging };
            self.0.extend(std::iter::repeat_n(' ', blanks));
            self.0.push_str(line);
            self.0.push('\n');
        }
    }
}

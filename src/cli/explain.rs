//! `remedyd explain`: sentences for somebody at a helpdesk: what a report is, why it is where it is, what happens
//! next by itself and what somebody has to do.
//!
//! Every sentence follows from a record (report, agent, organization, audit). Never here: a rule, a time that no
//! record holds, or a name that the audit does not give.

mod history;
mod next;
mod what;
mod why;

use std::process::ExitCode;

use clap::Args;

use super::inspect::stores::Stores;
use super::inspect::text::wrap;
use super::inspect::{Inspected, StoreArgs, print, unknown};
use crate::model::ids::{ReportId, TenantId};

use self::history::History;

const WIDTH: usize = 80;
const INDENT: usize = 2;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// The incident report
    #[arg(value_name = "REPORT")]
    report: u64,
    #[command(flatten)]
    at: StoreArgs,
}

/// What is explained: the report as it stands, and who has decided what about it.
struct Case {
    inspected: Inspected,
    history: History,
}

pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let stores = Stores::open(&args.at.store)?;
    let Some(stored) = stores.report(args.tenant, ReportId(args.report))? else {
        return Ok(unknown(args.tenant, &format!("report {}", args.report), &args.at));
    };
    let history = History::of(&stored.report, stores.audit(args.tenant))?;
    let case = Case { inspected: Inspected::of(stored), history };
    let mut page = Page(String::new());
    page.line(0, &format!("Report {} of tenant {}", args.report, args.tenant));
    page.line(0, &case.inspected.stored.report.text.subject);
    page.part("What it is", &what::it_is(&case));
    page.part("Why it is where it is", &why::it_is_there(&case));
    page.part("What happens next by itself", &next::by_itself(&case));
    page.part("What somebody has to do", &next::by_people(&case));
    print(&page.0)
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

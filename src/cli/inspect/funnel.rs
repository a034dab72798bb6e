//! `inspect funnel`: what the month was worth, from everything analysed down to the incidents reported.

use std::process::ExitCode;

use serde::Serialize;

use super::stores::Stores;
use super::text::columns;
use super::{Format, FunnelArgs, print, unknown};
use crate::model::ids::TenantId;
use crate::model::organization::FunnelMonth;

const WIDTHS: [usize; 5] = [8, 16, 10, 21, 19];

#[derive(Serialize)]
struct FunnelForm<'a> {
    tenantid: TenantId,
    months: Vec<MonthForm<'a>>,
}

#[derive(Serialize)]
struct MonthForm<'a> {
    period: &'a str,
    events_analysed: u64,
    signals: u64,
    signals_investigated: u64,
    incidents_reported: u64,
}

impl<'a> MonthForm<'a> {
    fn of(period: &'a str, month: &FunnelMonth) -> Self {
        let FunnelMonth { events_analysed, signals, signals_investigated, incidents_reported, counted_at: _ } = *month;
        Self { period, events_analysed, signals, signals_investigated, incidents_reported }
    }
}

pub(super) fn run(args: &FunnelArgs) -> anyhow::Result<ExitCode> {
    let Some(organization) = Stores::open(&args.at.store)?.organization(args.tenant)? else {
        return Ok(unknown(args.tenant, "counts", &args.at));
    };
    let asked = |period: &String| args.period.as_ref().is_none_or(|asked| asked == period);
    let months = organization.funnel.iter().filter(|(period, _)| asked(period));
    let months: Vec<MonthForm<'_>> = months.map(|(period, month)| MonthForm::of(period, month)).collect();
    if let (Some(period), true) = (&args.period, months.is_empty()) {
        return Ok(unknown(args.tenant, &format!("counts for {period}"), &args.at));
    }
    let form = FunnelForm { tenantid: args.tenant, months };
    print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&form)? + "\n",
        Format::Table => table(&form.months),
    })
}

fn table(months: &[MonthForm<'_>]) -> String {
    let titles = ["month", "events analysed", "signals", "signals investigated", "incidents reported"];
    let mut table = columns(WIDTHS, titles.map(str::to_owned));
    for month in months {
        let counts = [month.events_analysed, month.signals, month.signals_investigated, month.incidents_reported];
        let [analysed, signals, investigated, reported] = counts.map(|count| count.to_string());
        table += &columns(WIDTHS, [month.period.to_owned(), analysed, signals, investigated, reported]);
    }
    table
}

/// A month as it is asked for.
pub(super) fn period(text: &str) -> Result<String, String> {
    let month = |text: &str| text.len() == "2026-11".len() && format!("{text}-01").parse::<jiff::civil::Date>().is_ok();
    if month(text) { Ok(text.to_owned()) } else { Err("a month is written as in 2026-11".to_owned()) }
}

//! `inspect funnel`: what the month was worth, from everything analysed down to the incidents reported.

use serde::Serialize;

use super::stores::Stores;
use super::text::columns;
use super::{Format, Out, Told, unknown};
use crate::model::ids::TenantId;
use crate::model::organization::FunnelMonth;
use crate::store::Store;

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

pub(super) fn told<S: Store>(
    stores: &Stores<S>,
    tenant: TenantId,
    period: Option<&str>,
    format: Format,
    out: &mut dyn Out,
) -> anyhow::Result<Told> {
    let Some(organization) = stores.organization(tenant)? else {
        return Ok(unknown(tenant, "counts"));
    };
    let months = organization.funnel.iter().filter(|(month, _)| period.is_none_or(|asked| asked == month.as_str()));
    let months: Vec<MonthForm<'_>> = months.map(|(period, month)| MonthForm::of(period, month)).collect();
    if let (Some(period), true) = (period, months.is_empty()) {
        return Ok(unknown(tenant, &format!("counts for {period}")));
    }
    let form = FunnelForm { tenantid: tenant, months };
    out.text(&match format {
        Format::Json => serde_json::to_string_pretty(&form)? + "\n",
        Format::Table => table(&form.months),
    })?;
    Ok(Told::All)
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
pub(crate) fn period(text: &str) -> Result<String, String> {
    let month = |text: &str| text.len() == "2026-11".len() && format!("{text}-01").parse::<jiff::civil::Date>().is_ok();
    if month(text) { Ok(text.to_owned()) } else { Err("a month is written as in 2026-11".to_owned()) }
}

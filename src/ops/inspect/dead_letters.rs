//! What could never be applied, and why: the rows that are kept beside the queue. Never here: a body, which is the
//! sender's and in the queue only.

use serde::Serialize;

use super::stores::Stores;
use super::text::columns;
use super::{Format, Out, Page, Told, unknown};
use crate::model::ids::TenantId;
use crate::pipeline::rows::DeadLetterRow;
use crate::store::{Store, keys};

/// 120 columns.
const WIDTHS: [usize; 6] = [8, 8, 19, 19, 24, 37];

#[derive(Serialize)]
struct DeadLetterForm<'a> {
    number: u64,
    /// null where no tenant could be read, or the sender may not speak for the one that is named.
    tenantid: Option<TenantId>,
    failed_at: crate::model::time::Timestamp,
    reason: &'a str,
    detail: &'a str,
    event_id: Option<&'a str>,
    event_type: Option<&'a str>,
    original_exchange: &'a str,
    original_routing_key: &'a str,
    body_bytes: usize,
}

pub(super) fn told<S: Store>(
    stores: &Stores<S>,
    tenant: Option<TenantId>,
    format: Format,
    page: &Page,
    out: &mut dyn Out,
) -> anyhow::Result<Told> {
    if let Some(tenant) = tenant
        && page.is_first()
        && stores.organization(tenant)?.is_none()
        && stores.dead_letters(Some(tenant), None).next().is_none()
    {
        return Ok(unknown(tenant, "dead letters"));
    }
    if format == Format::Table && page.is_first() {
        out.text(&columns(WIDTHS, ["tenant", "number", "failed at (UTC)", "reason", "type", "detail"].map(str::to_owned)))?;
    }
    let mut turn = page.turn();
    let mut rows = stores.dead_letters(tenant, page.after.as_deref()).peekable();
    while let Some(read) = rows.next() {
        let (key, row) = read?;
        let number = keys::dead_letter_parts(&key).map_or(0, |(_, number)| number);
        out.text(&match format {
            Format::Json => json(number, &row)? + "\n",
            Format::Table => table_row(number, &row),
        })?;
        // the next page begins behind the key: all that stands under it is on this one
        let more_of_it = rows.peek().is_some_and(|next| next.as_ref().is_ok_and(|(next, _)| *next == key));
        if turn.is_over(&key, out) && !more_of_it {
            break;
        }
    }
    Ok(turn.told())
}

fn json(number: u64, row: &DeadLetterRow) -> serde_json::Result<String> {
    serde_json::to_string(&DeadLetterForm {
        number,
        tenantid: row.tenant,
        failed_at: row.failed_at,
        reason: &row.reason,
        detail: &row.detail,
        event_id: row.event_id.as_deref(),
        event_type: row.event_type.as_deref(),
        original_exchange: &row.original_exchange,
        original_routing_key: &row.original_routing_key,
        body_bytes: row.body_bytes,
    })
}

fn table_row(number: u64, row: &DeadLetterRow) -> String {
    let tenant = row.tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string());
    let kind = row.event_type.clone().unwrap_or_else(|| "-".to_owned());
    let failed_at = row.failed_at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    columns(WIDTHS, [tenant, number.to_string(), failed_at, row.reason.clone(), kind, row.detail.clone()])
}

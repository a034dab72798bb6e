//! `remedyd tail`: the service's events as they are published, by a queue of its own that goes with it.
//!
//! Never here: an effect on what other consumers get; what was published before it listened.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::broker::{BrokerArgs, whole};
use super::demo::narrate::narrate;
use super::exit::Exit;
use crate::broker::Message;
use crate::broker::amqp::tap::Tap;
use crate::model::ids::TenantId;
use crate::ops::inspect::text::harmless;

#[derive(Debug, Args)]
pub struct TailArgs {
    /// Only of this tenant: `<account_id>.<organization_id>`
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantId>,
    /// Only of this report
    #[arg(long, value_name = "ID")]
    report: Option<u64>,
    /// Only of this type, as in `incident_report.triaged`, or all that begin so, as in `incident_report`; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    types: Vec<String>,
    /// Print each event as it is, one a line
    #[arg(long)]
    json: bool,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    broker: BrokerArgs,
}

pub async fn run(args: TailArgs) -> anyhow::Result<ExitCode> {
    let topology = args.broker.topology(1).context(Exit::Config)?;
    let connection = args.broker.connect_or_exit("remedyd tail").await?;
    let tap = Tap::open(connection, &topology.status(), &binding_keys(&args.types, args.tenant)).await;
    let mut tap = tap.map_err(whole).context(Exit::Broker)?;
    eprintln!("remedyd: listening to {}", topology.status());
    let mut left = args.count;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    while left != Some(0) {
        let message = tokio::select! {
            message = tap.next() => message.map_err(whole).context(Exit::Broker)?,
            interrupted = &mut interrupted => {
                interrupted?;
                break;
            }
        };
        let event: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        if args.report.is_some() && args.report != event["data"]["incident_report_id"].as_u64() {
            continue;
        }
        if !print(&message, &event, args.json)? {
            break;
        }
        left = left.map(|left| left - 1);
    }
    tap.close().await;
    Ok(Exit::Ok.into())
}

/// Routing keys are `<type>.<tenantid>`, and a tenant is two words.
fn binding_keys(types: &[String], tenant: Option<TenantId>) -> Vec<String> {
    let with_tenant = |kind: &str| match tenant {
        Some(tenant) => format!("{kind}#.{tenant}"),
        None => format!("{kind}#"),
    };
    if types.is_empty() {
        return vec![with_tenant("")];
    }
    types.iter().map(|kind| with_tenant(&format!("{kind}."))).collect()
}

fn event_type(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches(['#', '*', '.']);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("expected a type of event, as in incident_report.triaged".to_owned());
    }
    Ok(text.to_owned())
}

/// Says whether anybody still reads.
fn print(message: &Message, event: &Value, json: bool) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let written = if json { out.write_all(&message.body).and_then(|()| out.write_all(b"\n")) } else { writeln!(out, "{}", line(event)) };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// `time tenant subject #sequence type: what it says`
fn line(event: &Value) -> String {
    let field = |name: &str| harmless(event[name].as_str().unwrap_or("-"));
    let told = narrate(event);
    let told = told.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    format!("{} {} {} #{} {}: {told}", field("time"), field("tenantid"), field("subject"), field("sequence"), field("type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_keys_are_those_of_messages() {
        let tenant = Some(TenantId { account: 5, organization: 4 });
        let keys = |types: &[&str], tenant| binding_keys(&types.iter().map(|&kind| kind.to_owned()).collect::<Vec<_>>(), tenant);
        assert_eq!(keys(&[], None), ["#"]);
        assert_eq!(keys(&[], tenant), ["#.5.4"]);
        assert_eq!(keys(&["incident_report", "sla.warning"], None), ["incident_report.#", "sla.warning.#"]);
        assert_eq!(keys(&["sla.warning"], tenant), ["sla.warning.#.5.4"]);
    }

    #[test]
    fn types_are_names() {
        assert_eq!(event_type("incident_report.#").as_deref(), Ok("incident_report"));
        assert!(event_type("#").is_err() && event_type("a b").is_err());
    }
}

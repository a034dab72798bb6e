//! `remedyd inspect`: looks into the store of a stopped service, or into one that `replay --store` has left.
//!
//! Never here: a write of ours, or a rule. What is derived (phase, blockers, triage) is derived by the
//! machine, at the moment of looking; policies are those in force by default.

mod card;
mod json;
pub(super) mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::exit::{Exit, store_exit};
use crate::machine::notice::{Blocker, Triage};
use crate::machine::{gate, triage};
use crate::model::ids::{ReportId, TenantId};
use crate::model::report::{Foothold, Phase, Report};
use crate::pipeline::reading::{self, StoredReport};
use crate::store::sled::{SledSettings, SledStore};

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Show everything that is known about one report
    Report(ReportArgs),
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// The incident report
    #[arg(value_name = "ID")]
    id: u64,
    /// The store: a directory that `replay --store` has written, or the one in which a service keeps p0, p1, …
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// json for programs, card for people
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Card,
}

/// A report and what the machine derives from it.
struct Inspected {
    stored: StoredReport,
    phase: Option<Phase>,
    triage: Triage,
    /// As for somebody who may resolve.
    blockers: Vec<Blocker>,
}

pub fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let Question::Report(args) = args.question;
    let Some(stored) = find(&args.store, args.tenant, ReportId(args.id))? else {
        eprintln!("remedyd: tenant {} has no report {} in {}", args.tenant, args.id, args.store.display());
        return Ok(Exit::Negative.into());
    };
    let inspected = Inspected::of(stored);
    match args.format {
        Format::Json => println!("{}", json::json(&inspected)?),
        Format::Card => print!("{}", card::card(&inspected)),
    }
    Ok(Exit::Ok.into())
}

/// Looks through every partition: which one a tenant lives in is the broker's to say. Should two know the report
/// (after a change of the number of partitions), the one that has said more about it is the newer.
fn find(dir: &Path, tenant: TenantId, id: ReportId) -> anyhow::Result<Option<StoredReport>> {
    let mut found: Option<StoredReport> = None;
    for dir in stores(dir)? {
        let store = SledStore::open(&dir, SledSettings::default()).map_err(store_exit)?;
        let here = reading::report(&store, tenant, id).map_err(store_exit)?;
        let newer = |here: &StoredReport| found.as_ref().is_none_or(|found| found.report.sequence < here.report.sequence);
        if let Some(here) = here.filter(newer) {
            found = Some(here);
        }
    }
    Ok(found)
}

/// The store in `dir`, or the partitions' stores below it. Opening a directory without one would create it.
fn stores(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_store = |dir: &Path| dir.join("FORMAT").is_file();
    if is_store(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display())).context(Exit::StoreOpen)?;
    let mut partitions: Vec<(u16, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix('p')?.parse().ok()?;
            is_store(&entry.path()).then(|| (number, entry.path()))
        })
        .collect();
    if partitions.is_empty() {
        return Err(anyhow::anyhow!("there is no store in {}, nor in p0, p1, … below it", dir.display())).context(Exit::StoreOpen);
    }
    partitions.sort();
    Ok(partitions.into_iter().map(|(_, dir)| dir).collect())
}

impl Inspected {
    fn of(stored: StoredReport) -> Self {
        let isolation = stored.agent.as_ref().map(|agent| agent.firewall_status);
        let phase = gate::phase(&stored.report);
        let triage = triage::triage(&stored.report, isolation, &stored.organization.settings);
        let blockers = gate::blockers(&stored.report, stored.agent.as_ref(), true);
        Self { stored, phase, triage, blockers }
    }

    /// Whether the attacker could still come back by this foothold: the gate's own count, asked for one.
    fn remains(&self, foothold: &Foothold) -> bool {
        let alone = Report { footholds: vec![foothold.clone()], ..self.stored.report.clone() };
        gate::footholds_remaining(&alone) > 0
    }
}

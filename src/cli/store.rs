//! `remedyd store`: the store as a file, the file as a store, whether either is in order, and a backup of a service that
//! runs.
//!
//! Never here: how lines look (`store::transfer`), or what is wrong with a row (`pipeline::verify`).

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::exit::{Exit, store_exit};
use super::inspect::{ask_exit, directories, read_token};
use super::new_file::{self, NewFile};
use crate::ops::client::{self, OpsUrl};
use crate::pipeline::verify::{Findings, verify};
use crate::store::journal::JournalStore;
use crate::store::memory::MemoryStore;
use crate::store::sled::{SledSettings, SledStore};
use crate::store::transfer::{self, Head, Totals, TransferError};
use crate::store::{Store, StoreError};

#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the store of a stopped service down, as lines of JSON
    Export(ExportArgs),
    /// Make a store of what `export` or `backup` has written; this is how a backup is restored
    Import(ImportArgs),
    /// Read every row and say what is wrong; exits 1 if anything is
    Verify(VerifyArgs),
    /// Take a backup of a running service, as of one moment, while it goes on
    Backup(BackupArgs),
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// The store: a directory that `replay --store` has written, or the one in which a service keeps p0, p1, …
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Which partition, where there are several
    #[arg(long, value_name = "N")]
    partition: Option<u16>,
    /// The file to write, which must not be there yet; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// What `export` or `backup` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The directory in which the service is to find its partition: `store.dir` of its settings
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Which partition it is to be; there must be none yet
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: u16,
    /// What keeps the rows
    #[arg(long, value_enum, default_value = "journal")]
    engine: Engine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// What the service uses: a journal in front of sled
    Journal,
    /// sled alone; the service puts its journal in front when it opens it
    Sled,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// What `export` or `backup` has written; it is read into memory
    #[arg(value_name = "FILE", required_unless_present = "store", conflicts_with = "store")]
    file: Option<PathBuf>,
    /// The store of a stopped service, all its partitions
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct BackupArgs {
    /// The ops port of the running service, as in http://127.0.0.1:9464
    #[arg(long, value_name = "URL")]
    url: OpsUrl,
    /// The file with the token that the ops port asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Which partition, of a service that serves several
    #[arg(long, value_name = "N")]
    partition: Option<u16>,
    /// The file to write, which must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: StoreArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Export(args) => export(&args),
        Command::Import(args) => import(&args),
        Command::Verify(args) => match (&args.file, &args.store) {
            (Some(file), _) => verify_file(file),
            (None, store) => verify_stores(store.as_deref().unwrap_or(Path::new(""))),
        },
        Command::Backup(args) => backup(&args),
    }
}

fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let dir = the_partition(&args.store, args.partition)?;
    let snapshot = open(&dir)?.snapshot().map_err(transfer_exit)?;
    let Some(path) = &args.out else {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let totals = transfer::export(&snapshot, &mut out).map_err(transfer_exit)?;
        eprintln!("remedyd: {} of {}", told(&totals), dir.display());
        return Ok(Exit::Ok.into());
    };
    let mut file = NewFile::create(path)?;
    let totals = transfer::export(&snapshot, file.out()).map_err(transfer_exit)?;
    file.keep()?;
    println!("{} of {} are in {}", told(&totals), dir.display(), path.display());
    Ok(Exit::Ok.into())
}

fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let file = BufReader::new(open_file(&args.file)?);
    let dir = args.store.join(format!("p{}", args.partition));
    if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(anyhow::anyhow!("{} is not empty: a store is only made where there is none; move it away first", dir.display()))
            .context(Exit::StoreOpen);
    }
    // until it is whole it has a name that no service opens
    let unfinished = args.store.join(format!("p{}.importing", args.partition));
    if unfinished.exists() {
        let what = format!("{} is what an import that was cut off has left, or one that is under way; remove it", unfinished.display());
        return Err(anyhow::anyhow!(what)).context(Exit::StoreOpen);
    }
    let creating = fs::DirBuilder::new().recursive(true).mode(0o700).create(&args.store);
    creating.with_context(|| format!("creating {}", args.store.display())).context(Exit::StoreOpen)?;
    let made = match args.engine {
        Engine::Journal => fill(file, &open(&unfinished)?, |store| store.checkpoint()),
        Engine::Sled => fill(file, &SledStore::open(&unfinished, SledSettings::default()).map_err(store_exit)?, |_| Ok(())),
    };
    let (head, totals, findings) = match made {
        Ok(made) => made,
        Err(error) => {
            // ours alone, and of no use
            let removed = fs::remove_dir_all(&unfinished);
            removed.with_context(|| format!("removing {}", unfinished.display())).context(Exit::StoreIo)?;
            return Err(error);
        }
    };
    new_file::rename_durably(&unfinished, &dir)?;
    println!("{}, as of {} (batch {}), are in {}", told(&totals), head.taken_at, head.commits, dir.display());
    report(&args.file.display().to_string(), &findings)
}

/// Brings the lines in and reads them back.
fn fill<S: Store>(
    file: BufReader<File>,
    store: &S,
    finish: impl FnOnce(&S) -> Result<(), StoreError>,
) -> anyhow::Result<(Head, Totals, Findings)> {
    let (head, totals) = transfer::import(file, store).map_err(transfer_exit)?;
    finish(store).map_err(store_exit)?;
    let findings = verify(store).map_err(store_exit)?;
    Ok((head, totals, findings))
}

fn verify_file(path: &Path) -> anyhow::Result<ExitCode> {
    let store = MemoryStore::new();
    let (head, totals) = transfer::import(BufReader::new(open_file(path)?), &store).map_err(transfer_exit)?;
    println!("{}, as of {} (batch {})", told(&totals), head.taken_at, head.commits);
    report(&path.display().to_string(), &verify(&store).map_err(store_exit)?)
}

fn verify_stores(dir: &Path) -> anyhow::Result<ExitCode> {
    let mut wrong = false;
    for dir in directories(dir)? {
        let findings = verify(&open(&dir)?).map_err(store_exit)?;
        report(&dir.display().to_string(), &findings)?;
        wrong |= !findings.wrong.is_empty();
    }
    Ok(if wrong { Exit::Negative } else { Exit::Ok }.into())
}

fn report(place: &str, findings: &Findings) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let rows: Vec<String> = findings.rows.iter().map(|(kind, rows)| format!("{rows} {kind}")).collect();
    writeln!(out, "{place}: {}", if rows.is_empty() { "no rows".to_owned() } else { rows.join(", ") })?;
    for wrong in &findings.wrong {
        writeln!(out, "wrong: {wrong}")?;
    }
    match findings.wrong.len() {
        0 => writeln!(out, "{place}: nothing is wrong")?,
        count => writeln!(out, "{place}: {count} wrong")?,
    }
    Ok(if findings.wrong.is_empty() { Exit::Ok } else { Exit::Negative }.into())
}

fn backup(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let mut file = NewFile::create(&args.out)?;
    super::block_on(client::backup(&args.url, token.as_deref(), args.partition, file.out()))?.map_err(ask_exit)?;
    // only the end says that it is whole
    let (head, totals) = transfer::check(BufReader::new(file.written()?)).map_err(transfer_exit)?;
    file.keep()?;
    println!("{}, as of {} (batch {}), are in {}", told(&totals), head.taken_at, head.commits, args.out.display());
    Ok(Exit::Ok.into())
}

fn told(totals: &Totals) -> String {
    format!("{} rows and {} archived lines", totals.rows, totals.archived)
}

fn open(dir: &Path) -> anyhow::Result<JournalStore> {
    let opened = JournalStore::open(dir, SledSettings::default());
    if let Err(StoreError::Locked { .. }) = &opened {
        return opened.map_err(store_exit).context("a running service is asked by its ops port: remedyd store backup --url …");
    }
    opened.map_err(store_exit)
}

fn the_partition(dir: &Path, partition: Option<u16>) -> anyhow::Result<PathBuf> {
    let mut found = directories(dir)?;
    if let Some(partition) = partition {
        found.retain(|dir| dir.file_name().is_some_and(|name| *name == *format!("p{partition}")));
    }
    match (found.pop(), found.is_empty()) {
        (Some(dir), true) => Ok(dir),
        (None, _) => Err(anyhow::anyhow!("there is no such partition in {}", dir.display())).context(Exit::StoreOpen),
        (Some(_), false) => Err(anyhow::anyhow!("{} has several partitions: --partition N", dir.display())).context(Exit::Config),
    }
}

fn open_file(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot read {}", path.display())).context(Exit::Input)
}

fn transfer_exit(error: TransferError) -> anyhow::Error {
    let exit = match error {
        TransferError::Store(error) => return store_exit(error),
        TransferError::Damaged { .. } | TransferError::Read(_) => Exit::Input,
        TransferError::Write(_) => Exit::StoreIo,
        TransferError::NotEmpty => Exit::StoreOpen,
        TransferError::Busy | TransferError::GivenUp => Exit::Negative,
    };
    anyhow::Error::from(error).context(exit)
}

//! Power cuts: what was acknowledged before the power went is there afterwards, whole and in order.
//!
//! ```text
//! writer (own process) ── commits, says "acked N" ──▶ ext4 on a disk that is cut at a random moment
//! what the disk has kept ── opened by the next writer, which compares every row ── cut again …
//! ```
//! A chain of cuts on one disk meets the store in every state: being created, being opened after a cut, with a batch half
//! in the journal, in the middle of a checkpoint with its rotation and its removals, reusing the segments of sled. Every
//! fourth disk has the store behind the journal without it, which keeps the contract as well.
//!
//! The controls are bare sled, which takes `sync_file_range` for a sync, and the journal over a kernel that only says that
//! it has synced: the same cuts must make each lose what it acknowledged, or this test sees nothing.
//!
//! Where a cut falls within a commit is up to the scheduler: a seed repeats the load and the plan, not the instant.
//!
//! Needs root and loop devices. Without them the proof says that it did not run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "power_cut/content.rs"]
mod content;
#[path = "support/dice.rs"]
mod dice;
#[path = "power_cut/disk.rs"]
mod disk;
#[path = "power_cut/journal.rs"]
mod journal;
#[path = "support/proof.rs"]
mod proof;
#[path = "power_cut/writer.rs"]
mod writer;

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use remedyd::store::Batch;
use serde_json::json;

use dice::Dice;
use disk::Disk;
use journal::Files;
use proof::Budget;
use writer::{Kind, Said, Writer};

/// Then a new disk: the check of a long chain takes longer than the cuts.
const CUTS_PER_DISK: u64 = 4;
const SHORT_CUTS: u64 = 32;
/// Then no more are made for a kind of cut that has not happened yet.
const MOST_CUTS: u64 = 4 * SHORT_CUTS;
/// Of each control. Each of these is nearly certain to lose something.
const CONTROL_CUTS: u64 = 3;
/// Batches acked before a cut.
const MAX_ACKED: u64 = 40;
/// With so many nothing is frozen yet.
const EARLY_ACKED: u64 = 5;
/// A commit takes a few milliseconds: the cut comes anywhere in one.
const COMMIT_US: u64 = 20_000;
/// A checkpoint takes some tens.
const CHECKPOINT_US: u64 = 60_000;
/// Several checkpoints' worth.
const UNTIL_CHECKPOINT: u64 = 60;
const BARE_SLED_PATIENCE: Duration = Duration::from_secs(2);
/// The start of a process and the creation of a store take about so long.
const CREATING_US: u64 = 40_000;
/// Reading what there is included.
const OPENING_US: u64 = 120_000;
/// After every so many cuts the disk is found to have kept half of a batch, if it has not done so by itself.
const TORN_EVERY: u64 = 3;

/// When the power goes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Opening {
        after: Duration,
    },
    Writing {
        acked: u64,
        after: Duration,
    },
    /// After one has begun.
    Checkpoint {
        after: Duration,
    },
}

impl Moment {
    fn roll(dice: &mut Dice, kind: Kind) -> Self {
        match dice.roll(6) {
            0 => Self::opening(dice),
            1 | 2 if kind == Kind::Store => Self::Checkpoint { after: Duration::from_micros(dice.roll(CHECKPOINT_US)) },
            3 => Self::early(dice),
            _ => Self::writing(dice),
        }
    }

    fn creating(dice: &mut Dice) -> Self {
        Self::Opening { after: Duration::from_micros(dice.roll(CREATING_US)) }
    }

    fn opening(dice: &mut Dice) -> Self {
        Self::Opening { after: Duration::from_micros(dice.roll(OPENING_US)) }
    }

    fn early(dice: &mut Dice) -> Self {
        Self::Writing { acked: dice.roll(EARLY_ACKED), after: Duration::from_micros(dice.roll(COMMIT_US / 4)) }
    }

    fn writing(dice: &mut Dice) -> Self {
        Self::Writing { acked: dice.roll(MAX_ACKED), after: Duration::from_micros(dice.roll(COMMIT_US)) }
    }
}

/// A disk and what is known to be on it.
struct Chain {
    disk: Disk,
    kind: Kind,
    seed: u64,
    /// Batches that were acked, or found after a cut.
    durable: u64,
    cuts: u64,
    /// As the last cut has left it.
    files: Files,
    /// The file of the journal that was begun when the writer opened the store the last time.
    opened: u64,
}

impl Chain {
    fn new(disk: Disk, kind: Kind, seed: u64) -> Self {
        Self { disk, kind, seed, durable: 0, cuts: 0, files: Files::default(), opened: 0 }
    }

    /// Lets a writer write, cuts the power, and goes on with what the disk has kept.
    ///
    /// # Errors
    /// What was lost, or what else was wrong with what the writer found.
    fn cut(mut self, moment: Moment) -> Result<Self, String> {
        let writer = Writer::start(self.kind, self.disk.path(), self.seed);
        self.opened = self.files.newest + 1;
        match moment {
            Moment::Opening { after } => writer.for_a(after).iter().try_for_each(|said| self.hear(said))?,
            Moment::Writing { acked, after } => {
                for _ in 0..=acked {
                    let said = writer.next().ok_or("the writer says nothing")?;
                    self.hear(&said)?;
                }
                writer.for_a(after).iter().try_for_each(|said| self.hear(said))?;
            }
            Moment::Checkpoint { after } => {
                for _ in 0..UNTIL_CHECKPOINT {
                    let said = writer.next().ok_or("the writer says nothing")?;
                    self.hear(&said)?;
                    if Files::of(self.disk.path()).in_checkpoint(self.opened) {
                        break;
                    }
                }
                writer.for_a(after).iter().try_for_each(|said| self.hear(said))?;
            }
        }
        self.disk.cut();
        self.cuts += 1;
        // of what does not end everything was said before
        let patience = if self.kind.must_end() { writer::PATIENCE } else { BARE_SLED_PATIENCE };
        let (rest, ended) = writer.rest(patience);
        for said in rest {
            match said {
                // the end that a store without a disk must come to
                Said::Failed(_) => {}
                said => self.hear(&said)?,
            }
        }
        if !ended && self.kind.must_end() {
            return Err("the writer goes on without a disk".to_owned());
        }
        let name = format!("{}-{}", self.seed, self.cuts);
        let disk = self.disk.after_the_cut(&name);
        Ok(Self { files: Files::of(disk.path()), disk, ..self })
    }

    /// A last reader.
    fn look(&mut self) -> Result<(), String> {
        let writer = Writer::start(self.kind.reader(), self.disk.path(), self.seed);
        let said = writer.next().ok_or("the writer says nothing")?;
        self.hear(&said)
    }

    fn hear(&mut self, said: &Said) -> Result<(), String> {
        match said {
            Said::Opened(found) if *found < self.durable => {
                return Err(format!("{} of {} acked batches are lost", self.durable - found, self.durable));
            }
            // one more may have been on its way
            Said::Opened(found) if *found > self.durable + 1 => return Err(format!("{found} batches, {} acked", self.durable)),
            Said::Opened(number) | Said::Acked(number) => self.durable = *number,
            Said::Failed(why) => return Err(format!("with {} acked batches: {why}", self.durable)),
        }
        Ok(())
    }
}

/// The writer's own test, and the writer: in a child of the other tests it writes until the power is cut.
#[test]
fn the_writer_finds_what_it_wrote() {
    writer::be_the_child();
    let dir = tempfile::tempdir().unwrap();
    writer::write(Kind::Store, dir.path(), 3, 20, drop).unwrap();
    let said = RefCell::new(Vec::new());
    writer::write(Kind::Store, dir.path(), 3, 21, |line| said.borrow_mut().push(line)).unwrap();
    assert_eq!(*said.borrow(), ["opened 20", "acked 21"]);
    // and it sees a line that is not in the archive
    assert_eq!(content::check_archive(3, &[1, 3].into()), Err("not in the archive after 3 batches: [2]".to_owned()));
    // and a row that is not what it was
    let store = Kind::Store.open(dir.path()).unwrap();
    let (key, mut value) = store.scan(b"subject/", b"", 1).unwrap().remove(0);
    value[15] ^= 1;
    store.commit(&Batch { writes: vec![(key.into(), Some(value.into()))], ..Batch::default() }).unwrap();
    drop(store);
    let refused = writer::write(Kind::Store, dir.path(), 3, 22, drop).unwrap_err();
    assert_eq!(refused, "not what 21 batches leave: 0 rows missing, 0 too many, 1 different");
}

/// As long as the power stays on, the control loses nothing either: what it loses otherwise is the cut's doing.
#[test]
fn a_kill_loses_nothing() {
    for kind in [Kind::Store, Kind::SledAlone, Kind::BareSled] {
        let (dir, mut acked) = (tempfile::tempdir().unwrap(), 0);
        for _ in 0..3 {
            let writer = Writer::start(kind, dir.path(), 5);
            assert!(matches!(writer.next(), Some(Said::Opened(found)) if found >= acked), "{kind:?}");
            for _ in 0..7 {
                let Some(Said::Acked(number)) = writer.next() else { panic!("{kind:?} does not write") };
                acked = number;
            }
        }
    }
}

#[test]
fn what_is_acked_survives_a_power_cut() {
    let seed = proof::seed(40);
    let dir = tempfile::tempdir().unwrap();
    if let Err(error) = Disk::create(dir.path(), "probe") {
        eprintln!("NOT RUN: no disk to cut the power of: {error}");
        let figures = json!({ "seed": seed, "cuts": 0, "not_run": error.to_string() });
        proof::record("40-power-cuts", "power cuts 0 (needs root and a loop device)", &figures);
        return;
    }
    let mut cuts = Cuts::default();
    let (mut dice, budget) = (Dice(seed), Budget::rounds(SHORT_CUTS));
    while budget.goes_on(cuts.count()) || cuts.lacks_a_kind() && cuts.count() < MOST_CUTS {
        cuts.on_a_disk(seed, dir.path(), &mut dice);
    }
    let control = |kind| control(kind, seed, dir.path());
    let (bare_sled, unsynced) = (control(Kind::BareSled), control(Kind::UnsyncedJournal));
    assert!(!bare_sled.is_empty() && !unsynced.is_empty(), "a control lost nothing: this rig sees no loss: {bare_sled:?}, {unsynced:?}");
    assert!(!cuts.lacks_a_kind(), "seed {seed}: a kind of cut never happened: {cuts:?}");
    let line = format!("power cuts {}, acked lost 0, control lost {}", cuts.count(), bare_sled.len() + unsynced.len());
    let figures = json!({
        "seed": seed, "cuts": cuts.count(), "disks": cuts.disks, "acked_batches": cuts.acked, "acked_lost": 0,
        "while_creating": cuts.creating, "while_opening": cuts.opening, "while_appending": cuts.appending,
        "while_an_overlay_rests": cuts.resting, "just_frozen": cuts.just_frozen, "in_a_checkpoint": cuts.checkpoint,
        "left_a_torn_batch": cuts.torn, "over_sled_alone": cuts.over_sled_alone,
        "control_cuts": CONTROL_CUTS, "control_bare_sled": bare_sled, "control_unsynced_journal": unsynced,
    });
    proof::record("40-power-cuts", &line, &figures);
}

/// The cuts so far. Each is counted under one of the first six.
#[derive(Debug, Default)]
struct Cuts {
    /// Before a store was opened for the first time.
    creating: u64,
    opening: u64,
    /// With nothing frozen.
    appending: u64,
    /// With a closed file whose checkpoint was not to begin yet, as the disk has it.
    resting: u64,
    /// With one whose checkpoint had begun.
    checkpoint: u64,
    over_sled_alone: u64,
    /// Of those while an overlay rests: with nothing in the new file.
    just_frozen: u64,
    /// With half a batch at the end of the journal, which the next open cuts off.
    torn: u64,
    disks: u64,
    /// Batches acked on all disks.
    acked: u64,
}

impl Cuts {
    fn count(&self) -> u64 {
        self.creating + self.opening + self.appending + self.resting + self.checkpoint + self.over_sled_alone
    }

    /// Of those that every run has to meet. Where a cut falls is up to the scheduler, so that a few cuts may miss one.
    fn lacks_a_kind(&self) -> bool {
        [self.creating, self.opening, self.appending, self.checkpoint, self.over_sled_alone, self.torn].contains(&0)
    }

    /// A chain of cuts on a new disk, the first of every second one while the store is being created.
    fn on_a_disk(&mut self, seed: u64, dir: &Path, dice: &mut Dice) {
        let disk_seed = seed.wrapping_mul(1_000_000).wrapping_add(self.disks);
        let kind = if self.disks % 4 == 3 { Kind::SledAlone } else { Kind::Store };
        let mut chain = Chain::new(Disk::create(dir, &disk_seed.to_string()).unwrap(), kind, disk_seed);
        for cut in 0..CUTS_PER_DISK {
            let first = cut == 0 && self.disks.is_multiple_of(2);
            let moment = if first { Moment::creating(dice) } else { Moment::roll(dice, kind) };
            chain = chain.cut(moment).unwrap_or_else(|lost| panic!("seed {seed}, disk {disk_seed}, cut {cut} {moment:?}: {lost}"));
            if kind == Kind::Store && self.count().is_multiple_of(TORN_EVERY) {
                chain.files = journal::tear(chain.disk.path());
            }
            self.add(moment, &chain);
        }
        chain.look().unwrap_or_else(|lost| panic!("seed {seed}, disk {disk_seed}: {lost}"));
        self.disks += 1;
        self.acked += chain.durable;
    }

    fn add(&mut self, moment: Moment, chain: &Chain) {
        let (frozen, in_checkpoint) = (chain.files.frozen(chain.opened), chain.files.in_checkpoint(chain.opened));
        self.torn += u64::from(chain.files.torn);
        self.just_frozen += u64::from(frozen && chain.files.begun());
        let counter = match moment {
            _ if chain.kind == Kind::SledAlone => &mut self.over_sled_alone,
            Moment::Opening { .. } if chain.durable == 0 => &mut self.creating,
            Moment::Opening { .. } => &mut self.opening,
            Moment::Writing { .. } | Moment::Checkpoint { .. } if in_checkpoint => &mut self.checkpoint,
            Moment::Writing { .. } | Moment::Checkpoint { .. } if frozen => &mut self.resting,
            Moment::Writing { .. } | Moment::Checkpoint { .. } => &mut self.appending,
        };
        *counter += 1;
    }
}

/// The same with what cannot keep its word. What was lost, or damaged so that the store does not open, after each cut that did
/// so.
fn control(kind: Kind, seed: u64, dir: &Path) -> Vec<String> {
    let mut dice = Dice(!seed);
    let mut lost = Vec::new();
    for number in 0..CONTROL_CUTS {
        let disk = Disk::create(dir, &format!("control-{kind:?}-{number}")).unwrap();
        // a writer that never wrote has nothing to lose
        let moment = Moment::Writing { acked: 1 + dice.roll(MAX_ACKED), after: Duration::from_micros(dice.roll(COMMIT_US)) };
        let mut chain = Chain::new(disk, kind, number).cut(moment).unwrap_or_else(|why| panic!("{kind:?}: {why}"));
        assert!(chain.durable > 0, "{kind:?} has acked nothing");
        lost.extend(chain.look().err());
    }
    lost
}

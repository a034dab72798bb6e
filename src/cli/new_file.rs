//! A file that is there as a whole or not at all, and stays when the power goes.
//!
//! Never here: overwriting one that is there; what it holds is customers' data, so it is for its owner's eyes alone.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;

use crate::cli::exit::Exit;

pub(super) struct NewFile {
    path: PathBuf,
    /// Beside it, for its owner alone (0600); goes when it is dropped.
    temporary: BufWriter<NamedTempFile>,
}

impl NewFile {
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            return Err(anyhow::anyhow!("{} is there already", path.display())).context(Exit::Config);
        }
        let temporary = tempfile::Builder::new().prefix(".remedyd-").suffix(".unfinished").tempfile_in(parent(path));
        let temporary = temporary.with_context(|| format!("cannot write beside {}", path.display())).context(Exit::Config)?;
        Ok(Self { path: path.to_owned(), temporary: BufWriter::new(temporary) })
    }

    pub fn out(&mut self) -> &mut BufWriter<NamedTempFile> {
        &mut self.temporary
    }

    /// What has been written so far, to be read from its beginning.
    pub fn written(&mut self) -> anyhow::Result<File> {
        let mut reopen = || -> io::Result<File> {
            self.temporary.flush()?;
            let mut file = self.temporary.get_ref().reopen()?;
            file.rewind()?;
            Ok(file)
        };
        reopen().context("reading back what was written").context(Exit::StoreIo)
    }

    /// Gives it its name, durably.
    pub fn keep(self) -> anyhow::Result<()> {
        let Self { path, temporary } = self;
        let keeping = || -> io::Result<()> {
            let temporary = temporary.into_inner().map_err(io::IntoInnerError::into_error)?;
            temporary.as_file().sync_all()?;
            temporary.persist_noclobber(&path)?;
            File::open(parent(&path))?.sync_all()
        };
        keeping().with_context(|| format!("writing {}", path.display())).context(Exit::StoreIo)
    }
}

/// Gives a directory its name, durably.
pub(super) fn rename_durably(from: &Path, to: &Path) -> anyhow::Result<()> {
    let renaming = || -> io::Result<()> {
        File::open(from)?.sync_all()?;
        fs::rename(from, to)?;
        File::open(parent(to))?.sync_all()
    };
    renaming().with_context(|| format!("renaming {} to {}", from.display(), to.display())).context(Exit::StoreIo)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

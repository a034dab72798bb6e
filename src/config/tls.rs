//! The files of a TLS connection: whom to trust, and who we are.
//!
//! Read when the settings are, so that a wrong path is one of the errors of a start and not the reason of an endless
//! reconnecting. Never here: what is in them in any printed form (one is a private key), and their judgement: that is
//! the TLS library's, at the connect.

use std::fmt;
use std::path::{Path, PathBuf};

/// The system's whole bundle is a quarter of this.
const MAX_BYTES: u64 = 1024 * 1024;

/// TLS beyond what the system trusts. `certificate` and `key` are there together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    pub ca: Option<PemFile>,
    pub certificate: Option<PemFile>,
    pub key: Option<PemFile>,
}

/// A file with PEM blocks in it, and its content.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFile {
    pub path: PathBuf,
    text: String,
}

impl PemFile {
    /// Reads `path`, in which there must be a block whose label ends with `label`.
    ///
    /// # Errors
    /// What is wrong with the file, in words that contain nothing of it.
    pub fn read(path: &Path, label: &str) -> Result<Self, String> {
        let length = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
        if length > MAX_BYTES {
            return Err(format!("{length} bytes is no PEM file"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
        let begins = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"));
        if !text.lines().any(begins) {
            return Err(format!("there is no {label} in it"));
        }
        Ok(Self { path: path.to_owned(), text })
    }

    /// The content: for the connection, never for output.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemFile({:?})", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_to_be_what_it_is_for_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "-----BEGIN EC PRIVATE KEY-----\nCANARY\n-----END EC PRIVATE KEY-----\n").unwrap();
        let key = PemFile::read(&path, "PRIVATE KEY").unwrap();
        assert!(key.expose().contains("CANARY"), "the canary must have been there to be hidden");
        assert!(!format!("{key:?}").contains("CANARY"));
        assert_eq!(PemFile::read(&path, "CERTIFICATE"), Err("there is no CERTIFICATE in it".to_owned()));
        assert!(PemFile::read(dir.path(), "CERTIFICATE").unwrap_err().starts_with("cannot be read: "));
        std::fs::File::options().write(true).open(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(PemFile::read(&path, "PRIVATE KEY"), Err("1048577 bytes is no PEM file".to_owned()));
    }
}

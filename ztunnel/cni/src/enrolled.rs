//! The namespaces whose pods are enrolled, in a file that outlives the daemon.
//!
//! The daemon writes it; the plugin reads it only when no daemon answers. It may be out of date then
//! (docs/decisions/0019-without-a-daemon.md says why that is right).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// A cluster of ten thousand namespaces needs a tenth of it.
const LONGEST: u64 = 8 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledNamespaces {
    pub namespaces: BTreeSet<String>,
}

impl EnrolledNamespaces {
    /// # Errors
    /// If it cannot be read, is too long or is not ours.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// In one piece: a reader sees the old file or the new one, after a crash too.
    ///
    /// # Errors
    /// If a file cannot be written there; the old one stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Two daemons may be here at once, in an update.
        let aside = path.with_extension(std::process::id().to_string());
        let write = || {
            let mut file = File::create(&aside)?;
            serde_json::to_writer(&mut file, self)?;
            file.flush()?;
            file.sync_all()?;
            fs::rename(&aside, path)
        };
        // The first error tells more.
        write().inspect_err(|_| drop(fs::remove_file(&aside)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_no_such_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/enrolled-namespaces");
        assert!(EnrolledNamespaces::read(&path).is_err(), "not there is not the same as empty");
        let written = EnrolledNamespaces { namespaces: ["shop".to_owned()].into() };
        written.write(&path).unwrap();
        assert_eq!(EnrolledNamespaces::read(&path).unwrap(), written);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a file is left behind");
        fs::write(&path, "{\"namespaces\": [").unwrap();
        assert!(EnrolledNamespaces::read(&path).is_err(), "half a file");
    }
}

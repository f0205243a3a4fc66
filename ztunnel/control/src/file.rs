//! Watched files: what they have in common.
//!
//! [`text`] reads and parses within bounds, [`changes`] says when a file may have changed, [`follow`] loads it
//! again and keeps the account that [`FileStatus`] is.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

use crate::instant::{rfc3339, rfc3339_option};

mod changes;
mod follow;
mod text;

pub(crate) use changes::Changes;
pub(crate) use follow::{Loaded, follow, follow_at_most, record};
pub(crate) use text::{Place, parse, read};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} is larger than the {limit} bytes allowed", path = path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    /// What one file, or several together, hold is of no use.
    #[error("{message}")]
    Unfit { path: PathBuf, message: String },
    #[error("{path}:{line}:{column}: {message}", path = path.display(), message = in_one_line(message))]
    Invalid { path: PathBuf, line: u64, column: u64, message: String },
}

/// What a file says is quoted in messages, and must not look like lines of the log.
fn in_one_line(message: &str) -> String {
    message.split(char::is_control).collect::<Vec<_>>().join(" ")
}

impl FileError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::TooLarge { .. } => "too_large",
            Self::Unfit { .. } => "unfit",
            Self::Invalid { .. } => "invalid",
        }
    }

    pub(crate) fn unfit(path: &Path, error: &dyn std::error::Error) -> Self {
        Self::Unfit { path: path.to_owned(), message: error.to_string() }
    }

    pub(crate) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }
}

/// The account of one watched file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    pub path: PathBuf,
    /// When what is in force now was loaded.
    #[serde(serialize_with = "rfc3339_option")]
    pub loaded_at: Option<SystemTime>,
    /// The start of the SHA-256 of what is in force: the same on nodes that agree.
    pub version: Option<String>,
    /// Good loads so far.
    pub loads: u64,
    /// Refused ones.
    pub failures: u64,
    /// What is wrong with the file as it stands; what was good before is still in force.
    pub problem: Option<FileProblem>,
    /// How many of what are in force.
    pub objects: BTreeMap<&'static str, usize>,
    /// What is wrong in it and was taken for less than it says, with its place.
    pub mistakes: Vec<String>,
    /// What the file says that has no effect, or not yet the meant one.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileProblem {
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    pub reason: &'static str,
    pub error: String,
}

impl FileStatus {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            loaded_at: None,
            version: None,
            loads: 0,
            failures: 0,
            problem: None,
            objects: BTreeMap::new(),
            mistakes: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

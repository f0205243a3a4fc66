//! The files as a daemon would read them, without one: for a team's continuous integration.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use model::{SharedSnapshot, Snapshot, TrustDomain};
use serde::de::IgnoredAny;

use crate::{
    LocalPod,
    file::{FileError, Loaded, parse, read},
    pods, state,
};

/// What a good file holds.
#[derive(Clone, Debug, Default)]
pub struct FileReport {
    pub objects: BTreeMap<&'static str, usize>,
    /// What is wrong in it; a daemon takes it for less than it says.
    pub mistakes: Vec<String>,
    /// What it says that has no effect, or not the meant one.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    State,
    Pods,
    /// None of the keys at its top is one of theirs.
    Other,
}

/// What kind of file it is, by the keys at its top.
pub fn kind_of(path: &Path) -> Result<FileKind, FileError> {
    let keys: BTreeMap<String, IgnoredAny> = parse(path, &read(path)?)?;
    let has = |names: &[&str]| keys.is_empty() || names.iter().any(|name| keys.contains_key(*name));
    Ok(if has(&["workloads", "services", "policies", "settings"]) {
        FileKind::State
    } else if has(&["pods"]) {
        FileKind::Pods
    } else {
        FileKind::Other
    })
}

pub fn read_state(path: &Path, trust_domain: &TrustDomain) -> Result<(Arc<Snapshot>, FileReport), FileError> {
    state_of(path, &read(path)?, trust_domain)
}

/// The state that the text of a file says; errors name `path`.
pub fn state_of(
    path: &Path,
    text: &str,
    trust_domain: &TrustDomain,
) -> Result<(Arc<Snapshot>, FileReport), FileError> {
    let shared = SharedSnapshot::default();
    let loaded = state::load(path, text, trust_domain, &shared)?;
    Ok((shared.load(), loaded.into()))
}

pub fn read_pods(path: &Path) -> Result<(Vec<LocalPod>, FileReport), FileError> {
    pods_of(path, &read(path)?)
}

/// The pods that the text of a file lists; errors name `path`.
pub fn pods_of(path: &Path, text: &str) -> Result<(Vec<LocalPod>, FileReport), FileError> {
    let (sender, receiver) = tokio::sync::watch::channel(Arc::default());
    let loaded = pods::load(path, text, &sender)?;
    let pods = receiver.borrow().to_vec();
    Ok((pods, loaded.into()))
}

impl From<Loaded> for FileReport {
    fn from(loaded: Loaded) -> Self {
        Self { objects: loaded.objects, mistakes: loaded.mistakes, warnings: loaded.warnings }
    }
}

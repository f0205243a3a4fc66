//! What the pages are made of: one file for each resource.

pub(super) mod certificates;
pub(super) mod config_dump;
pub(super) mod connections;
pub(super) mod explain;
pub(super) mod logging;
mod parties;
pub(super) mod plaintext;
pub(super) mod pods;
pub(super) mod policies;
pub(super) mod profile;
pub(super) mod quit;
pub(super) mod refusals;
pub(super) mod services;
pub(super) mod state;
pub(super) mod workloads;

//! What has to be looked at again.

use std::collections::BTreeSet;

use crate::facts::Key;

#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) pods: BTreeSet<Key>,
    pub(super) services: BTreeSet<Key>,
    pub(super) slices: BTreeSet<Key>,
    pub(super) authorizations: BTreeSet<Key>,
    pub(super) peers: bool,
    pub(super) gone_peers: BTreeSet<Key>,
}

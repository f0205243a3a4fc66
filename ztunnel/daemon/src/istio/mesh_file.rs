//! Istio's mesh configuration, where a manifest mounts it: what it says of all proxies.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::proxy_config::ProxyConfig;

/// A mesh configuration has a few hundred lines.
const MAX_BYTES: u64 = 1 << 20;

/// The rest of it is for Envoy and for the control plane.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MeshFile {
    pub(super) default_config: Option<ProxyConfig>,
    pub(super) root_namespace: Option<String>,
}

impl MeshFile {
    /// What is not there says nothing.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let place = || format!("the mesh configuration {}", path.display());
        let mut text = String::new();
        match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened
                .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
                .with_context(place)?,
        };
        if text.len() as u64 > MAX_BYTES {
            bail!("{}: expected at most {MAX_BYTES} bytes", place());
        }
        let parsed: Option<Self> = serde_saphyr::from_str(&text).with_context(place)?;
        let parsed = parsed.unwrap_or_default();
        // Said to be nothing, it is not said.
        Ok(Self { root_namespace: parsed.root_namespace.filter(|name| !name.is_empty()), ..parsed })
    }
}

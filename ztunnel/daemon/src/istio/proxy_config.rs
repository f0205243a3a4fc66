//! `PROXY_CONFIG`: YAML in a variable, of which a few keys are for a node proxy, over the mesh's defaults; and the metadata
//! that goes with it.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::Value;

use super::Variables;

const PREFIX: &str = "ISTIO_META_";
const JSON_PREFIX: &str = "ISTIO_METAJSON_";

pub(super) type Metadata = BTreeMap<String, Value>;

/// The rest of it is for Envoy.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ProxyConfig {
    pub(super) discovery_address: Option<String>,
    pub(super) proxy_admin_port: Option<u16>,
    #[serde(alias = "statusPort")]
    pub(super) stats_port: Option<u16>,
    pub(super) concurrency: Option<usize>,
    proxy_metadata: Metadata,
}

impl ProxyConfig {
    pub(super) fn of(variables: &Variables, defaults: Self) -> anyhow::Result<Self> {
        let Some(text) = variables.text("PROXY_CONFIG") else { return Ok(defaults) };
        let own: Self = serde_saphyr::from_str(text).map_err(|error| anyhow!("PROXY_CONFIG: {error}"))?;
        let mut proxy_metadata = defaults.proxy_metadata;
        proxy_metadata.extend(own.proxy_metadata);
        Ok(Self {
            discovery_address: own.discovery_address.or(defaults.discovery_address),
            proxy_admin_port: own.proxy_admin_port.or(defaults.proxy_admin_port),
            stats_port: own.stats_port.or(defaults.stats_port),
            concurrency: own.concurrency.or(defaults.concurrency),
            proxy_metadata,
        })
    }

    /// What the control plane is told of this node: the variables go before what `PROXY_CONFIG` says.
    pub(super) fn metadata(&self, variables: &Variables) -> anyhow::Result<Metadata> {
        let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
        let mut metadata: Metadata =
            self.proxy_metadata.iter().map(|(name, value)| (bare(name), value.clone())).collect();
        let texts = variables.with_prefix(PREFIX);
        metadata.extend(texts.map(|(name, value)| (name.to_owned(), value.into())));
        for (name, value) in variables.with_prefix(JSON_PREFIX) {
            let value = serde_json::from_str(value)
                .with_context(|| format!("{JSON_PREFIX}{name}: it is not JSON"))?;
            metadata.insert(name.to_owned(), value);
        }
        Ok(metadata)
    }
}

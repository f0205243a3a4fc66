//! The section `dns`: whether pods are answered on port 15053.

use anyhow::bail;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Dns {
    /// Nothing sends the pods' port 53 there by itself: istio-cni's rules do. So by default it is on behind a CNI.
    enabled: Option<bool>,
    /// The domain of the cluster's services.
    pub(crate) cluster_domain: String,
}

impl Default for Dns {
    fn default() -> Self {
        Self { enabled: None, cluster_domain: "cluster.local".to_owned() }
    }
}

impl Dns {
    pub(super) fn or_on_if(mut self, behind_cni: bool) -> Self {
        self.enabled.get_or_insert(behind_cni);
        self
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let domain = &self.cluster_domain;
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| (1..64).contains(&label.len()) && label.bytes().all(is_plain);
        if domain.len() > 200 || !domain.split('.').all(is_label) {
            bail!(
                "dns.clusterDomain: expected a domain in lower case, such as `cluster.local`, found `{domain}`"
            );
        }
        Ok(())
    }
}

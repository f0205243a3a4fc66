//! The section `dns`: whether pods are answered on port 15053.

use std::num::{NonZeroU16, NonZeroU32};

use anyhow::bail;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Dns {
    /// Nothing sends the pods' port 53 there by itself: istio-cni's rules do. So by default it is on behind a CNI.
    enabled: Option<bool>,
    /// The domain of the cluster's services.
    pub(crate) cluster_domain: String,
    /// Of one pod; more over UDP are dropped, and over TCP wait.
    pub(crate) queries_per_second: NonZeroU32,
    /// Requests handed on that wait for another server's answer; more are answered with SERVFAIL.
    pub(crate) forwards_per_pod: NonZeroU16,
    pub(crate) forwards: NonZeroU16,
    /// More connections wait to be served.
    pub(crate) connections_per_pod: NonZeroU16,
    pub(crate) connections: NonZeroU16,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            enabled: None,
            cluster_domain: "cluster.local".to_owned(),
            queries_per_second: const { NonZeroU32::new(2000).unwrap() },
            forwards_per_pod: const { NonZeroU16::new(128).unwrap() },
            forwards: const { NonZeroU16::new(1024).unwrap() },
            connections_per_pod: const { NonZeroU16::new(16).unwrap() },
            connections: const { NonZeroU16::new(256).unwrap() },
        }
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

//! `controlPlane`: whom to ask for the mesh instead of reading it from a file.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use control::{
    ChannelSettings, ControlPlaneAddress, ControlPlaneSettings, OnDemandSettings, ProxyNode, RequestHeaders,
    RootCertificates,
};
use model::Settings;
use serde::{Deserialize, Serialize};

use super::{Config, Span};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ControlPlaneSection {
    /// `host:port`, always by TLS.
    pub(crate) address: ControlPlaneAddress,
    /// A PEM file, read anew for each connection; or PEM itself; or `system`.
    pub(crate) root_certificates: RootCertificates,
    /// The service account's token, read anew for each request. Without it requests have no credentials.
    pub(crate) token_file: Option<PathBuf>,
    /// More headers of each request, by name. Values are not shown anywhere.
    #[serde(default)]
    headers: RequestHeaders,
    #[serde(default)]
    mode: Mode,
    /// On demand: what nobody has needed for this long is given up.
    #[serde(default = "default_unused_after")]
    unused_after: Span,
    /// On demand: how long a connection waits for an answer.
    #[serde(default = "default_patience")]
    patience: Span,
    /// On demand: names asked for at once. Beyond that, those needed longest ago are given up.
    #[serde(default = "default_names")]
    names: NonZeroUsize,
    /// Whose policies apply to all namespaces. Only needed for policies that cannot be read: without it each of them closes all;
    /// with another namespace's name, those of the real one do not.
    root_namespace: Option<String>,
    /// Who this daemon is.
    #[serde(default)]
    node: ProxyNode,
    /// What a control plane does not tell; as in the state file.
    #[serde(default)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Mode {
    /// The whole mesh.
    #[default]
    Full,
    /// What somebody needs, when it is needed.
    OnDemand,
}

impl ControlPlaneSection {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.settings.check().context("controlPlane.settings")?;
        for (name, span) in [("unusedAfter", self.unused_after), ("patience", self.patience)] {
            if span.0 < Duration::from_millis(10) {
                bail!("controlPlane.{name}: expected at least 10ms, found {span}");
            }
        }
        let is_name = |name: &String| {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !name.is_empty() && name.len() <= 63 && name.bytes().all(allowed)
        };
        match self.root_namespace.as_ref().filter(|name| !is_name(name)) {
            Some(name) => bail!(
                "controlPlane.rootNamespace: `{name}` is no name of a namespace; leave it out if it is not known"
            ),
            None => Ok(()),
        }
    }

    pub(crate) fn settings(&self, config: &Config) -> ControlPlaneSettings {
        let mut node = self.node.clone();
        let known = [
            (&mut node.node_name, &config.node_name),
            (&mut node.pod, &config.pod_name),
            (&mut node.namespace, &config.pod_namespace),
            (&mut node.ip, &config.pod_ip),
        ];
        for (said, known) in known.into_iter().filter(|(said, _)| said.is_empty()) {
            said.clone_from(known);
        }
        ControlPlaneSettings {
            channel: self.channel(config),
            node,
            trust_domain: config.trust_domain.clone(),
            root_namespace: self.root_namespace.clone(),
            on_demand: (self.mode == Mode::OnDemand).then(|| OnDemandSettings {
                unused_after: self.unused_after.0,
                patience: self.patience.0,
                at_most: self.names.get(),
                ..OnDemandSettings::default()
            }),
            local: self.settings.clone(),
        }
    }

    pub(super) fn channel(&self, config: &Config) -> ChannelSettings {
        ChannelSettings {
            address: self.address.clone(),
            roots: self.root_certificates.clone(),
            token_file: self.token_file.clone(),
            cluster_id: config.cluster_id.clone(),
            headers: self.headers.clone(),
            connect_deadline: config.connect_deadline.0,
        }
    }
}

fn default_unused_after() -> Span {
    Span(OnDemandSettings::default().unused_after)
}

fn default_patience() -> Span {
    Span(OnDemandSettings::default().patience)
}

fn default_names() -> NonZeroUsize {
    NonZeroUsize::new(OnDemandSettings::default().at_most).unwrap_or(NonZeroUsize::MIN)
}

//! The section `cni`: whether somebody else redirects the pods' traffic, and our own plugin.

use std::path::PathBuf;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Cni {
    /// The socket of a CNI's agent that speaks ZDS, as istio-cni does. With it, the agent says which pods are in the
    /// mesh and redirects their traffic; no eBPF program is loaded.
    pub(crate) zds_socket: Option<PathBuf>,
    /// `ztunnel-cni`, by which pods are enrolled before they start. Paths are the same on the node and in the daemon.
    pub(crate) plugin: Option<Plugin>,
    /// Without `plugin`: where one is taken away that was there before, or pods would wait for an answer that never comes.
    pub(crate) uninstall: Option<Uninstall>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Uninstall {
    pub(crate) binary_directory: PathBuf,
    pub(crate) configuration_directory: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Plugin {
    /// Where it asks.
    pub(crate) socket: PathBuf,
    /// Whose pods wait while no daemon is there. It has to outlive a restart of the node.
    pub(crate) enrolled_namespaces: PathBuf,
    /// Whose pods are never asked about, besides the system's and our own.
    pub(crate) exempt_namespaces: Vec<String>,
    /// How long it waits for an answer.
    pub(crate) timeout_seconds: u16,
    /// Put it into the node's configuration, and keep it there.
    pub(crate) install: Option<Install>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Install {
    /// The plugin's binary; by default beside the daemon's.
    pub(crate) binary: Option<PathBuf>,
    pub(crate) binary_directory: PathBuf,
    pub(crate) configuration_directory: PathBuf,
}

impl Default for Plugin {
    fn default() -> Self {
        Self {
            socket: "/var/run/ztunnel/cni.sock".into(),
            enrolled_namespaces: "/etc/cni/net.d/ztunnel/enrolled-namespaces".into(),
            exempt_namespaces: vec!["kube-system".to_owned()],
            timeout_seconds: 20,
            install: None,
        }
    }
}

impl Default for Install {
    fn default() -> Self {
        Self {
            binary: None,
            binary_directory: super::DEFAULT_CNI_BINARIES.into(),
            configuration_directory: super::DEFAULT_CNI_CONFIGURATIONS.into(),
        }
    }
}

impl Plugin {
    /// Pods of these namespaces never wait, besides those that are named.
    pub(crate) fn exempting(mut self, namespaces: impl Iterator<Item = String>) -> Self {
        let named = self.exempt_namespaces.clone();
        self.exempt_namespaces.extend(namespaces.filter(|namespace| !named.contains(namespace)));
        self
    }
}

impl Cni {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Some(plugin) = &self.plugin else { return Ok(()) };
        ensure!(
            self.uninstall.is_none(),
            "cni.plugin and cni.uninstall: the plugin is to be there or not; give one"
        );
        ensure!(
            (1..=100).contains(&plugin.timeout_seconds),
            "cni.plugin.timeoutSeconds: expected 1 to 100 (the kubelet gives up after 120), found {}",
            plugin.timeout_seconds
        );
        for (name, path) in [("socket", &plugin.socket), ("enrolledNamespaces", &plugin.enrolled_namespaces)]
        {
            ensure!(
                path.is_absolute(),
                "cni.plugin.{name}: expected an absolute path, found `{}`",
                path.display()
            );
        }
        Ok(())
    }
}

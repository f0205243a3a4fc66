//! The CNI plugin on this node: its binary, and its entry in the configuration of the node's network.
//!
//! Both are looked at again and again, as whoever else installs there knows nothing of us. What is not ours stays as it is;
//! a file that we do not understand is left alone and told.

mod binary;
mod configuration;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time::sleep};

pub(crate) use self::configuration::remove;
use crate::{
    config::{Install, Plugin},
    node::Node,
};

/// Pods that start between two looks without us are found as those that run already.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the plugin installed until another daemon does.
pub(crate) async fn keep(plugin: Plugin, install: Install, node: Arc<Node>) {
    let mut told = None;
    while !node.is_leaving() {
        let (entry, section) = (entry(&plugin), install.clone());
        let done = spawn_blocking(move || install_once(&section, &entry)).await;
        let problem = match done {
            Ok(Ok(changes)) => {
                for change in changes {
                    tracing::info!(path = %change.display(), "installed the CNI plugin");
                }
                None
            }
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem
            && told.as_ref() != Some(problem)
        {
            tracing::warn!(
                problem,
                "the CNI plugin is not installed; new pods start before they are enrolled"
            );
        }
        told = problem;
        sleep(INTERVAL).await;
    }
}

/// What had to be written.
fn install_once(section: &Install, entry: &Value) -> anyhow::Result<Vec<PathBuf>> {
    let binary = binary::place(section)?;
    // Only now: from here on the runtime runs it.
    let configuration = configuration::place(&section.configuration_directory, entry)?;
    Ok(binary.into_iter().chain(configuration).collect())
}

/// Our entry in the node's configuration.
fn entry(plugin: &Plugin) -> Value {
    json!({
        "type": ztunnel_cni::PLUGIN,
        "socket": plugin.socket,
        "enrolledNamespaces": plugin.enrolled_namespaces,
        "exemptNamespaces": plugin.exempt_namespaces,
        "timeoutSeconds": plugin.timeout_seconds,
    })
}

/// In one piece, and with this mode from the first moment. Runtimes read no file of that other name.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let name = path.file_name().context("expected the path of a file")?.to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}.ztunnel", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    let written = write();
    if written.is_err() {
        // The first error tells more.
        let _ = fs::remove_file(&aside);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests;

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

use anyhow::{Context, ensure};
use metrics::{describe_gauge, gauge};
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time::sleep};

use self::binary::Seen;
pub(crate) use self::configuration::remove;
use crate::{
    config::{Install, Plugin, Uninstall},
    node::Node,
};

const INSTALLED: &str = "ztunnel_cni_plugin_installed";

pub(crate) fn describe() {
    describe_gauge!(
        INSTALLED,
        "1 while the plugin stands in the network that the runtime reads; at 0, pods start before they are enrolled."
    );
}

/// Pods that start between two looks without us are found as those that run already.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the plugin installed until another daemon does.
pub(crate) async fn keep(plugin: Plugin, install: Install, node: Arc<Node>) {
    let (mut told, mut seen) = (None, Seen::default());
    let plugin = Arc::new(plugin);
    while !node.is_leaving() {
        let (described, section) = (Arc::clone(&plugin), install.clone());
        let done = spawn_blocking(move || {
            let result = install_once(&section, &described, &mut seen);
            (result, seen)
        });
        let result = match done.await {
            Ok((result, now)) => {
                seen = now;
                result
            }
            Err(error) => {
                seen = Seen::default();
                Err(error.into())
            }
        };
        gauge!(INSTALLED).set(if result.is_ok() { 1.0 } else { 0.0 });
        for change in result.iter().flatten() {
            tracing::info!(path = %change.display(), "installed the CNI plugin");
        }
        let problem = result.err().map(|error| format!("{error:#}"));
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

/// Takes it away where it is not to be: one that was configured before, or that an older daemon put there as it left.
pub(crate) async fn keep_away(places: Uninstall, node: Arc<Node>) {
    let mut told = false;
    while !node.is_leaving() {
        let Uninstall { configuration_directory, binary_directory } = places.clone();
        let done = spawn_blocking(move || remove(&configuration_directory, &binary_directory)).await;
        let result = done.map_err(anyhow::Error::from).and_then(|result| result);
        for path in result.iter().flatten() {
            tracing::info!(path = %path.display(), "took the CNI plugin away");
        }
        if let Err(error) = &result
            && !std::mem::replace(&mut told, true)
        {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "the CNI plugin cannot be taken away; pods of the mesh wait for its answer"
            );
        }
        sleep(INTERVAL).await;
    }
}

/// What had to be written.
fn install_once(section: &Install, plugin: &Plugin, seen: &mut Seen) -> anyhow::Result<Vec<PathBuf>> {
    // Without it, no pod but the exempt ones would start while no daemon is there.
    let list = &plugin.enrolled_namespaces;
    ensure!(list.is_file(), "{} is not written yet", list.display());
    let binary = binary::place(section, seen)?;
    // Only now: from here on the runtime runs it.
    let configuration = configuration::place(&section.configuration_directory, &entry(plugin))?;
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

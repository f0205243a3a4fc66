//! A cluster of three nodes, which goes when it is dropped.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{step, workspace};

const NAME: &str = "ztunnel-e2e";
const CONTEXT: &str = "kind-ztunnel-e2e";

pub(crate) struct Cluster {
    keep: bool,
}

impl Cluster {
    pub(crate) fn create(keep: bool) -> Result<Self> {
        let config = workspace::root().join("deploy/kind.yaml");
        let mut create = Command::new("kind");
        create.args(["create", "cluster", "--name", NAME, "--wait", "180s", "--config"]).arg(config);
        // Made first: what is half there goes too.
        let this = Self { keep };
        step::run("kind create cluster", &mut create, "`docker ps` and `kind export logs` tell more.")?;
        for node in this.nodes()? {
            // systemd mounts it at boot, but not inside a container. Not the host's own: the nodes would share it.
            let mount = "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf";
            this.on_node(&node, &["sh", "-c", mount])?;
        }
        Ok(this)
    }

    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        let mut load = Command::new("kind");
        load.args(["load", "image-archive", "--name", NAME]).arg(archive);
        step::run("kind load image-archive", &mut load, "").map(drop)
    }

    /// What kubectl prints, if it succeeds.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.args(["--context", CONTEXT]).args(arguments);
        let answer = command.output().context("kubectl")?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    pub(crate) fn helm(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("helm");
        command.args(["--kube-context", CONTEXT]).args(arguments).current_dir(workspace::root());
        let title = format!("helm {}", arguments.first().unwrap_or(&""));
        step::run(&title, &mut command, "cargo xtask kind --keep leaves the cluster there to look at.")
            .map(drop)
    }

    /// A command on a node itself.
    pub(crate) fn on_node(&self, node: &str, command: &[&str]) -> Result<String> {
        let answer = Command::new("docker").args(["exec", node]).args(command).output().context("docker")?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.success(), "{} on {node}: {said}", command.join(" "));
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    pub(crate) fn nodes(&self) -> Result<Vec<String>> {
        let names = self.kubectl(&["get", "nodes", "--output", "jsonpath={.items[*].metadata.name}"])?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            println!(
                "left there: kubectl --context {CONTEXT}; away with it: kind delete cluster --name {NAME}"
            );
            return;
        }
        let _ = Command::new("kind").args(["delete", "cluster", "--name", NAME]).status();
    }
}

/// Whether a program does what it is asked; why not, in its own words.
pub(crate) fn works(program: &str, arguments: &[&str]) -> Result<(), String> {
    let answer = Command::new(program).args(arguments).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "not found".to_owned(),
        _ => error.to_string(),
    })?;
    if answer.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.stderr);
    Err(said.lines().last().unwrap_or("it fails without a word").trim().to_owned())
}

//! A process in a pod, in the cgroups that a kubelet and a container runtime would have made for it.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{Place, Process, cgroup::Group};

/// Ends, and its cgroups go, when it is dropped.
#[derive(Debug)]
pub struct Container {
    process: Process,
    // In order of destruction: the innermost first.
    _groups: Vec<Group>,
}

impl Container {
    /// Sleeps in `place`, as a container of the pod of this uid: containerd's with the driver systemd.
    pub fn start(place: &Place, uid: &str) -> Result<Self> {
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        Self::start_in(place, &[slice.as_str(), "cri-containerd-0123456789abcdef.scope"])
    }

    /// In cgroups of these names, each below the one before.
    pub fn start_in(place: &Place, names: &[&str]) -> Result<Self> {
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = place.start(command)?;
        let mut path = place.cgroup().to_owned();
        let mut groups = Vec::new();
        for name in names {
            path.push(name);
            groups.insert(0, Group::create(path.clone())?);
        }
        fs::write(path.join("cgroup.threads"), process.id().to_string())
            .with_context(|| format!("moving a process to {}", path.display()))?;
        Ok(Self { process, _groups: groups })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

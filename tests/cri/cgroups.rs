//! A node's own part of every cgroup hierarchy of this machine, which is all that the node's processes see of them.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

const PREFIX: &str = "ztcri";
/// A directory cannot go before the last of its processes has.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);

/// Everything in it is killed, and it goes, when it is dropped.
pub(crate) struct Cgroups {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

struct Hierarchy {
    point: PathBuf,
    /// `cgroup` or `cgroup2`.
    kind: String,
    options: String,
}

impl Cgroups {
    /// By a name of this process, so that what a killed run leaves behind goes at the next start.
    pub(crate) fn create(node: &str) -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        let hierarchies: Vec<_> = table.lines().filter_map(hierarchy).collect();
        hierarchies.iter().for_each(|hierarchy| sweep(&hierarchy.point));
        let cgroups = Self { name: format!("{PREFIX}{}-{node}", std::process::id()), hierarchies };
        for directory in cgroups.directories() {
            fs::create_dir(&directory).with_context(|| format!("creating {}", directory.display()))?;
            // Version 1 lets nobody in before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = directory.parent().map(|parent| parent.join(file));
                if let Some(Ok(value)) = above.map(fs::read_to_string) {
                    fs::write(directory.join(file), value)?;
                }
            }
        }
        if let Some(kubelet) = cgroups.kubelet() {
            fs::create_dir_all(&kubelet).with_context(|| format!("creating {}", kubelet.display()))?;
        }
        Ok(cgroups)
    }

    /// Where a kubelet would be, as systemd starts it.
    pub(crate) fn kubelet(&self) -> Option<PathBuf> {
        Some(self.root()?.join(&self.name).join("system.slice/kubelet.service"))
    }

    /// Where version 2 is mounted.
    pub(crate) fn root(&self) -> Option<&Path> {
        let second = self.hierarchies.iter().find(|hierarchy| hierarchy.kind == "cgroup2");
        second.map(|hierarchy| hierarchy.point.as_path())
    }

    /// Lines of shell by which it goes in.
    pub(crate) fn join(&self) -> String {
        self.directories().map(|path| format!("echo $$ > {}/cgroup.procs\n", path.display())).collect()
    }

    /// Lines of shell which show, in a mount and a cgroup namespace of its own, this node's part at the places of the whole.
    pub(crate) fn mount(&self) -> String {
        let mut lines = String::from("mount -t tmpfs cgroups /sys/fs/cgroup\n");
        for Hierarchy { point, kind, options } in &self.hierarchies {
            let (point, options) = (point.display(), options.replace("name=", "none,name="));
            lines += &format!("mkdir -p {point} && mount -t {kind} -o {options} {kind} {point}\n");
        }
        lines
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.point.join(&self.name))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for directory in self.directories() {
            let _ = fs::write(directory.join("cgroup.kill"), "1");
        }
        for directory in self.directories() {
            if let Err(error) = remove_tree(&directory) {
                eprintln!("{} stays behind: {error}", directory.display());
            }
        }
    }
}

/// Those of runs that are no more.
fn sweep(point: &Path) {
    for entry in fs::read_dir(point).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            let _ = remove_tree(&entry.path());
        }
    }
}

/// A line of mountinfo: proc(5).
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?.into();
    let mut words = after.split(' ');
    let kind = words.next().filter(|kind| matches!(*kind, "cgroup" | "cgroup2"))?.to_owned();
    Some(Hierarchy { point, kind, options: words.nth(1)?.to_owned() })
}

fn remove_tree(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    let give_up = Instant::now() + REMOVAL_DEADLINE;
    loop {
        match fs::remove_dir(directory) {
            Err(_) if Instant::now() < give_up => thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

//! The file system that the kernel boots into: what the scenarios run, with the libraries it needs.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use crate::libraries::libraries;

/// What the scenarios call.
const TOOLS: [&str; 5] = ["curl", "ip", "iptables", "nft", "ss"];
/// What a virtual network and a namespace of it need and the kernel has as modules.
const MODULES: [&str; 8] = ["veth", "bridge", "dummy", "ipv6", "nf_tables", "nf_conntrack", "nf_nat", "tun"];
const DIRECTORIES: [&str; 13] =
    ["bin", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"];

pub(super) struct Parts<'p> {
    pub(super) busybox: PathBuf,
    pub(super) daemon: &'p Path,
    pub(super) scenarios: &'p Path,
    /// The kernel's package, unpacked.
    pub(super) modules: &'p Path,
    pub(super) release: &'p str,
    pub(super) filters: &'p [&'p str],
    pub(super) skipped: &'p [&'p str],
}

impl Parts<'_> {
    pub(super) fn pack(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        let mut made: BTreeSet<String> = DIRECTORIES.iter().map(|&name| name.to_owned()).collect();
        DIRECTORIES.iter().for_each(|name| archive.directory(name));
        archive.program("init", self.script()?.as_bytes());
        archive.program("bin/busybox", &read(&self.busybox)?);
        for name in [
            "sh",
            "mount",
            "sleep",
            "poweroff",
            "modprobe",
            "mkdir",
            "cat",
            "busybox-sh",
            "kill",
            "true",
            "false",
        ] {
            archive.link(&format!("bin/{name}"), "busybox");
        }
        archive.program("bin/ztunnel", &read(self.daemon)?);
        let mut needed = vec![(self.scenarios.to_owned(), "bin/scenarios".to_owned())];
        for tool in TOOLS {
            let path =
                find(tool).with_context(|| format!("`{tool}` is not on the path; run: cargo xtask setup"))?;
            needed.push((path, format!("bin/{tool}")));
        }
        let libraries: BTreeSet<PathBuf> = needed
            .iter()
            .map(|(path, _)| libraries(path))
            .collect::<Result<Vec<_>>>()?
            .concat()
            .into_iter()
            .collect();
        for (path, name) in &needed {
            archive.program(name, &read(path)?);
        }
        let modules = self.module_files()?;
        let inside = |path: &Path| path.to_string_lossy().trim_start_matches('/').to_owned();
        for (path, name) in libraries.iter().map(|path| (path.clone(), inside(path))).chain(modules) {
            directories(&mut archive, &mut made, &name);
            archive.program(&name, &read(&path)?);
        }
        Ok(archive.finish())
    }

    /// Loaded in this order, so that nothing has to be looked up inside.
    fn module_files(&self) -> Result<Vec<(PathBuf, String)>> {
        let depmod = Command::new("depmod").arg("--basedir").arg(self.modules).arg(self.release).status();
        ensure!(depmod.context("depmod")?.success(), "depmod of {} failed", self.release);
        let directory = self.modules.join("lib/modules").join(self.release);
        let dependencies = fs::read_to_string(directory.join("modules.dep"))?;
        let mut files: Vec<String> = Vec::new();
        for module in MODULES {
            let line = dependencies.lines().find(|line| {
                let file = line.split(':').next().unwrap_or_default();
                Path::new(file)
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().split('.').next() == Some(module))
            });
            // Built into the kernel, or not there: the self-test tells.
            let Some((file, others)) = line.and_then(|line| line.split_once(':')) else { continue };
            let others: Vec<&str> = others.split_whitespace().rev().collect();
            for file in others.into_iter().chain([file]) {
                if !files.iter().any(|there| there == file) {
                    files.push(file.to_owned());
                }
            }
        }
        Ok(files
            .into_iter()
            .map(|file| (directory.join(&file), format!("modules/{}", file.trim_end_matches(".xz"))))
            .collect())
    }

    fn script(&self) -> Result<String> {
        let modules = self.module_files()?;
        let load: String = modules.iter().map(|(_, name)| format!("busybox insmod /{name}\n")).collect();
        let skipped: String = self.skipped.iter().map(|name| format!(" --skip {name}")).collect();
        let filters = self.filters.join(" ") + &skipped;
        Ok(format!(
            "#!/bin/sh
export PATH=/bin HOME=/root ZTUNNEL_BIN=/bin/ztunnel RUST_BACKTRACE=0
# The kernel gives its first process fewer than the scenarios have connections.
ulimit -n 20000
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /var/run /dev/shm
{load}
busybox ip link set lo up
echo; ztunnel check
scenarios --test-threads=1 {filters}
poweroff -f
"
        ))
    }
}

fn directories(archive: &mut Archive, made: &mut BTreeSet<String>, name: &str) {
    let parents: Vec<&Path> = Path::new(name).ancestors().skip(1).collect();
    for parent in parents.into_iter().rev() {
        let parent = parent.to_string_lossy().into_owned();
        if !parent.is_empty() && made.insert(parent.clone()) {
            archive.directory(&parent);
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/sbin", "/usr/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Newer kernels' modules are compressed, which what loads them inside does not know.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|ending| ending == "xz") {
        let answer =
            Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output().context("xz")?;
        ensure!(
            answer.status.success(),
            "xz of {}: {}",
            path.display(),
            String::from_utf8_lossy(&answer.stderr)
        );
        return Ok(answer.stdout);
    }
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

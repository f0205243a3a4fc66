//! `cargo xtask test --kernel 6.1,6.12`: the daemon and scenarios with traffic on Debian's kernels, in an emulator.
//!
//! A kernel boots into a file system in memory that holds the image's `ztunnel`, the scenarios' program and what they
//! run. What it prints on its serial line is the result. There is no hardware acceleration: minutes, not seconds.

mod cpio;
mod initramfs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use image::Processor;

use crate::{packages, release, setup, step, workspace};

/// Beside what the scenarios run anyway. kmod has depmod, which says in which order modules are loaded.
const TO_BOOT: [&str; 3] = ["kmod", "qemu-system-x86", "xz-utils"];
/// Redirection with traffic: who is taken in, paths there are, plaintext that must not be, and daemons that come and go.
const SCENARIOS: [&str; 4] = ["enrolment::", "lifecycle::", "paths::", "strict::"];
/// They open connections as fast as they can, or hundreds a second: an emulated processor is busy with those alone, and what they
/// then show is that it is slow.
const SKIPPED: [&str; 4] = [
    "a_fail_closed_pod_never_sends_plaintext",
    "a_pod_deleted_under_traffic",
    "a_pod_let_go_and_then_deleted",
    "a_second_daemon_takes_over",
];
const MEMORY: &str = "3G";
/// What the kernel may take, all together.
const DEADLINE: &str = "1500";

pub(crate) fn run(versions: &[String], binaries: Option<PathBuf>) -> Result<()> {
    ensure!(Processor::of_this_machine() == Processor::X86_64, "the emulated machine is an x86_64");
    setup::everything()?;
    packages::ensure(&TO_BOOT)?;
    let daemon = match binaries {
        Some(directory) => directory,
        None => release::build_static(Processor::X86_64)?,
    };
    let scenarios = scenarios()?;
    let mut failed = Vec::new();
    let mut table = String::from("| kernel | `ztunnel check` | scenarios |\n| --- | --- | --- |\n");
    for version in versions {
        let outcome = try_one(version, &daemon.join("ztunnel"), &scenarios)?;
        table += &format!("| {} | {} | {} |\n", outcome.kernel, outcome.check, outcome.scenarios);
        if !outcome.good {
            failed.push(version.as_str());
        }
    }
    println!("\n{table}");
    ensure!(
        failed.is_empty(),
        "failed on {failed:?}; the logs are in {}",
        workspace::target().join("xtask").display()
    );
    Ok(())
}

struct Outcome {
    kernel: String,
    check: String,
    scenarios: String,
    good: bool,
}

fn try_one(version: &str, daemon: &Path, scenarios: &Path) -> Result<Outcome> {
    let unpacked = packages::unpacked(&newest(version)?)?;
    let release = only_entry(&unpacked.join("lib/modules"))?;
    let initramfs = workspace::target().join(format!("xtask/initramfs-{release}"));
    let busybox = packages::unpacked("busybox-static")?.join("bin/busybox");
    let parts = initramfs::Parts {
        busybox,
        daemon,
        scenarios,
        modules: &unpacked,
        release: &release,
        filters: &SCENARIOS,
        skipped: &SKIPPED,
    };
    fs::write(&initramfs, parts.pack()?).with_context(|| format!("writing {}", initramfs.display()))?;
    let mut emulator = Command::new("timeout");
    emulator
        .args([
            DEADLINE,
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            MEMORY,
        ])
        .args(["-nographic", "-no-reboot", "-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(unpacked.join("boot").join(format!("vmlinuz-{release}")))
        .arg("-initrd")
        .arg(&initramfs);
    // One that hangs is ended, and is a line of the table like the others.
    let ran = step::run_to_any_end(&format!("kernel {release}"), &mut emulator);
    let _ = fs::remove_file(&initramfs);
    Ok(read(&release, &String::from_utf8_lossy(&fs::read(ran?)?)))
}

/// The newest of Debian's cloud kernels of this version that the archive has.
fn newest(version: &str) -> Result<String> {
    let pattern = format!("^linux-image-{}\\.[0-9.]+.*-cloud-amd64$", version.replace('.', "\\."));
    let answer =
        Command::new("apt-cache").args(["search", "--names-only", &pattern]).output().context("apt-cache")?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let number = |name: &&str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    match names.max_by_key(number) {
        Some(name) => Ok(name.to_owned()),
        None => bail!(
            "the package archive has no kernel {version} (linux-image-{version}.*-cloud-amd64); add the release of Debian that \
             has it to /etc/apt/sources.list.d, and run apt-get update"
        ),
    }
}

fn only_entry(directory: &Path) -> Result<String> {
    let mut entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let entry = entries.next().context("the kernel's package has no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// The program of the scenarios, built and not run.
fn scenarios() -> Result<PathBuf> {
    let mut build = workspace::cargo();
    build.args(["test", "--package", "ztunnel-scenarios", "--no-run", "--message-format", "json"]);
    let log = step::run("building the scenarios", &mut build, "")?;
    let text = fs::read_to_string(log)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut program = messages.filter_map(|message| {
        let ours = message["target"]["name"] == "scenarios";
        ours.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    program.next_back().context("cargo named no program of the scenarios")
}

/// What the kernel printed.
fn read(release: &str, serial: &str) -> Outcome {
    let lines: Vec<&str> = serial.lines().map(str::trim).collect();
    let has_all = lines.iter().any(|line| line.contains("this kernel has all that the redirection needs"));
    let missing: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("no   ")).collect();
    let check = if has_all { "all there".to_owned() } else { format!("missing: {}", missing.join("; ")) };
    let result = lines.iter().find_map(|line| line.strip_prefix("test result: "));
    let scenarios = result.and_then(|result| result.split(". ").nth(1)).map_or("did not end", |counts| {
        counts.split("; ignored").next().unwrap_or(counts).trim_end_matches("; 0 ignored")
    });
    let counts: String = scenarios.split(';').take(2).collect::<Vec<_>>().join(",");
    let good = has_all && result.is_some_and(|result| result.starts_with("ok"));
    Outcome { kernel: release.to_owned(), check, scenarios: counts, good }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that stops half-way, or lacks something, must not count as good.
    #[test]
    fn only_a_kernel_that_did_everything_is_good() {
        let all = "yes  bpf\r\nthis kernel has all that the redirection needs\r\n\
                   test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured\r\n";
        let outcome = read("6.1.0", all);
        assert!(outcome.good);
        assert_eq!(outcome.scenarios, "7 passed, 0 failed");
        assert!(!read("6.1.0", "this kernel has all that the redirection needs\nKernel panic").good);
        let lacking =
            read("5.4.0", "no   cgroup hook: EINVAL\nmissing: 1 of 9\ntest result: ok. 1 passed; 0 failed");
        assert!(!lacking.good && lacking.check.contains("cgroup hook: EINVAL"));
        assert!(!read("6.1.0", &all.replace("ok. 7", "FAILED. 7")).good);
    }
}

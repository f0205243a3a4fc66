//! A seccomp profile, as container runtimes read it, put on a program.
#![expect(unsafe_code, reason = "the filter is set between fork and exec")]

use std::{collections::BTreeMap, fs, io, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

mod names;

use names::KNOWN;

/// `AUDIT_ARCH_X86_64`, include/uapi/linux/audit.h
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`, include/uapi/linux/seccomp.h
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// What the profile does not name fails with EPERM in `command`, and in all that it starts.
pub fn confine(command: &mut Command, profile: &Path) -> Result<()> {
    let filter = filter(&allowed(profile)?);
    let set = move || {
        let length = u16::try_from(filter.len()).unwrap_or_default();
        let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
        // SAFETY: prctl(2) reads the program, which outlives the call, and nothing is allocated.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes one system call; the filter was made before the fork.
    unsafe {
        command.pre_exec(set);
    }
    Ok(())
}

fn allowed(profile: &Path) -> Result<Vec<u32>> {
    let text = fs::read_to_string(profile).with_context(|| format!("reading {}", profile.display()))?;
    let profile: Value = serde_json::from_str(&text)?;
    ensure!(profile["defaultAction"] == "SCMP_ACT_ERRNO", "what is not named is refused");
    let known: BTreeMap<&str, libc::c_long> = KNOWN.iter().copied().collect();
    let mut numbers = Vec::new();
    for group in profile["syscalls"].as_array().context("syscalls")? {
        ensure!(group["action"] == "SCMP_ACT_ALLOW", "only allowing is known here: {group}");
        for name in group["names"].as_array().context("names")? {
            let name = name.as_str().context("a name")?;
            let number = known.get(name).with_context(|| format!("no system call {name} is known here"))?;
            numbers.push(u32::try_from(*number)?);
        }
    }
    Ok(numbers)
}

fn filter(allowed: &[u32]) -> Vec<libc::sock_filter> {
    let code = |code: u32| u16::try_from(code).unwrap_or_default();
    let instruction = |operation: u32, jt, jf, k| libc::sock_filter { code: code(operation), jt, jf, k };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let give = |answer| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, answer);
    let unless = |value| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, value);
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let mut program = vec![load(ARCHITECTURE_AT)];
    program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, ARCHITECTURE));
    program.push(give(refuse));
    program.push(load(NUMBER_AT));
    for number in allowed {
        program.push(unless(*number));
        program.push(give(libc::SECCOMP_RET_ALLOW));
    }
    program.push(give(refuse));
    program
}

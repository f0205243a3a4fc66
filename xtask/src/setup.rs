//! Installs what is missing, and only that; a second run takes no time.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    packages, step,
    toolchain::{self, BPF_LINKER_VERSION},
    workspace,
};

/// What a daemon's tests and the demo run beside it. Of prometheus only `promtool`, which reads metrics pages.
const TO_RUN: [&str; 6] = ["busybox", "curl", "iproute2", "iptables", "nftables", "prometheus"];
/// A C compiler, for the cryptography in C that rustls uses.
const TO_COMPILE: [&str; 2] = ["gcc", "libc6-dev"];
const PYTHON: [&str; 2] = ["python3", "python3-venv"];
const REQUIREMENTS: &str = "tests/testkit/xds/requirements.txt";
/// Debian's newest rustc and the source of its library.
const RUSTC_WITH_SOURCE: [&str; 2] = ["rustc-web", "rust-web-src"];
const TO_BUILD_BPF_LINKER: [&str; 6] =
    ["g++", "gcc", "libpolly-22-dev", "libzstd-dev", "llvm-22-dev", "zlib1g-dev"];
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What builds the kernel side.
pub(crate) struct EbpfTools {
    pub(crate) rustc: PathBuf,
    pub(crate) linker: PathBuf,
}

pub(crate) fn everything() -> Result<()> {
    packages::ensure(&TO_RUN)?;
    packages::ensure(&TO_COMPILE)?;
    for_ebpf()?;
    Ok(())
}

/// What the tests run besides: an xDS server that shares no code with ours, with Python packages of its own.
pub(crate) fn for_tests() -> Result<()> {
    let (home, wanted) = (workspace::target().join("tools/xds"), workspace::root().join(REQUIREMENTS));
    let (wanted, made) = (fs::read(&wanted)?, home.join("requirements.txt"));
    if fs::read(&made).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    packages::ensure(&PYTHON)?;
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv", "--clear"]).arg(&home);
    step::run(
        "making a Python environment",
        &mut environment,
        "It takes Python 3.10 or newer with its venv.",
    )?;
    let mut install = Command::new(home.join("bin/python"));
    install
        .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"])
        .arg("--requirement")
        .arg(workspace::root().join(REQUIREMENTS));
    step::run(
        "installing an independent xDS server",
        &mut install,
        "It takes a way to Python's package index.",
    )?;
    fs::write(made, wanted)?;
    Ok(())
}

pub(crate) fn for_ebpf() -> Result<EbpfTools> {
    Ok(EbpfTools { rustc: ensure_rustc()?, linker: ensure_bpf_linker()? })
}

fn ensure_rustc() -> Result<PathBuf> {
    if let Some(rustc) = toolchain::rustc_with_source() {
        return Ok(rustc);
    }
    let cure = "rustup toolchain install nightly --component rust-src";
    if !packages::is_debian() {
        bail!("no rustc here has the source of its library; try: {cure}");
    }
    // What is installed may be too old.
    packages::install_newest(&RUSTC_WITH_SOURCE).with_context(|| format!("or, with rustup: {cure}"))?;
    toolchain::rustc_with_source().with_context(|| {
        let (major, minor) = toolchain::OLDEST_RUSTC;
        format!("{RUSTC_WITH_SOURCE:?} are installed, but no rustc here has both its library's source and version {major}.{minor} or newer; try: {cure}")
    })
}

fn ensure_bpf_linker() -> Result<PathBuf> {
    if let Some(linker) = toolchain::bpf_linker() {
        return Ok(linker);
    }
    if !packages::is_debian() {
        bail!(
            "bpf-linker {BPF_LINKER_VERSION} is missing; try: cargo install bpf-linker --version {BPF_LINKER_VERSION}"
        );
    }
    packages::ensure(&TO_BUILD_BPF_LINKER)?;
    let mut install = workspace::cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(workspace::target().join("tools"))
        .env("LLVM_PREFIX", LLVM_PREFIX);
    step::run(
        "building bpf-linker",
        &mut install,
        "It needs LLVM 22 with its development files in /usr/lib/llvm-22.",
    )?;
    toolchain::bpf_linker().context("bpf-linker was built but does not run")
}

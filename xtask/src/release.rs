//! The programs as they are shipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use image::Processor;

use crate::{ebpf, image::PROGRAMS, packages, setup, step, workspace};

/// Builds the daemon and the CNI plugin beside it, with all that they need, and yields the daemon's path.
pub(crate) fn build() -> Result<PathBuf> {
    setup::everything()?;
    ebpf::build(&setup::for_ebpf()?)?;
    let mut build = workspace::cargo();
    build.args(["build", "--release"]).args(PROGRAMS.iter().flat_map(|program| ["--package", program]));
    step::run("building the programs in release mode", &mut build, "")?;
    Ok(workspace::built("release", "ztunnel"))
}

/// Builds the programs of the image, without need of a library and without symbols, and yields their directory.
///
/// glibc, not musl: its allocator gives memory back and doesn't take one lock for all threads (docs/decisions/0020).
pub(crate) fn build_static(processor: Processor) -> Result<PathBuf> {
    setup::everything()?;
    ebpf::build(&setup::for_ebpf()?)?;
    let target = format!("{}-unknown-linux-gnu", processor.name());
    let tools = cross_tools(processor)?;
    let mut build = without_libraries(processor, tools);
    build.arg("--release").args(PROGRAMS.iter().flat_map(|program| ["--package", program]));
    let cure = format!("Is the standard library there? rustup target add {target}");
    step::run("building the image's programs", &mut build, &cure)?;
    let into = workspace::target().join("image").join(processor.name());
    strip(&workspace::built(&target, "release"), &into, tools.unwrap_or_default())
}

/// A program of the tests that runs in an image of its own, and yields where it is.
pub(crate) fn build_for_image(package: &str, program: &str) -> Result<PathBuf> {
    let processor = Processor::of_this_machine();
    let mut build = without_libraries(processor, None);
    step::run(&format!("building {package}"), build.args(["--package", package]), "")?;
    let target = format!("{}-unknown-linux-gnu", processor.name());
    Ok(workspace::built(&target, "debug").join(program))
}

/// cargo's command that links them into the program.
fn without_libraries(processor: Processor, tools: Option<&str>) -> Command {
    let target = format!("{}-unknown-linux-gnu", processor.name());
    let variable = target.replace('-', "_");
    let mut build = workspace::cargo();
    build.args(["build", "--target", &target]);
    build.env(
        format!("CARGO_TARGET_{}_RUSTFLAGS", variable.to_ascii_uppercase()),
        "-Ctarget-feature=+crt-static",
    );
    if let Some(prefix) = tools {
        build.env(format!("CARGO_TARGET_{}_LINKER", variable.to_ascii_uppercase()), format!("{prefix}gcc"));
        build.env(format!("CC_{variable}"), format!("{prefix}gcc"));
    }
    build
}

/// What stands before the names of tools for another processor than this machine's.
fn cross_tools(processor: Processor) -> Result<Option<&'static str>> {
    if processor == Processor::of_this_machine() {
        return Ok(None);
    }
    let (prefix, packages) = match processor {
        Processor::X86_64 => ("x86_64-linux-gnu-", ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"]),
        Processor::Aarch64 => ("aarch64-linux-gnu-", ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]),
    };
    packages::ensure(&packages)?;
    Ok(Some(prefix))
}

/// The programs without symbols, in the directory `into`.
pub(crate) fn strip(built: &Path, into: &Path, prefix: &str) -> Result<PathBuf> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    for program in PROGRAMS {
        let mut strip = Command::new(format!("{prefix}strip"));
        strip.arg("--strip-all").arg("-o").arg(into.join(program)).arg(built.join(program));
        let status = strip.status().context("`strip` does not start; it comes with gcc, in binutils")?;
        if !status.success() {
            bail!("strip of {} failed ({status})", built.join(program).display());
        }
    }
    Ok(into.to_owned())
}

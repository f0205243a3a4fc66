//! `cargo xtask test --cri`: the image that is shipped, run by containerd and runc as a kubelet has them do it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{image, packages, release, setup, test, workspace};

pub(crate) const PACKAGE: &str = "ztunnel-cri-tests";
/// What the tests' pods run; it is for the image alone.
const APPLICATION: &str = "ztunnel-cri-application";
/// A program of each and its package of Debian. Nothing of them is started but by the tests, in namespaces and cgroups of
/// their own. Where an engine brought its own, that one will do.
const RUNTIME: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// The image as it is shipped, unless its programs are given.
pub(crate) fn run(binaries: Option<PathBuf>) -> Result<()> {
    setup::everything()?;
    packages::ensure_programs(&RUNTIME)?;
    let image = match binaries {
        Some(directory) => image::with_libraries(&directory)?,
        None => image::for_this_machine(None)?,
    };
    println!("  {} {}", image.name, image.digest);
    println!("\n{} passed", tests(&image.archive)?.unwrap_or_default());
    Ok(())
}

/// The same with the programs as tests have built them, and the libraries that they need: no build of its own.
pub(crate) fn quick() -> Result<Option<usize>> {
    packages::ensure_programs(&RUNTIME)?;
    tests(&image::with_libraries(&workspace::built("debug", ""))?.archive)
}

fn tests(archive: &Path) -> Result<Option<usize>> {
    let application = release::build_for_image(APPLICATION, "application")?;
    let mut command = workspace::cargo();
    command.args(["test", "--package", PACKAGE, "--no-fail-fast"]);
    command.env("ZTUNNEL_IMAGE_ARCHIVE", archive).env("ZTUNNEL_CRI_APPLICATION", application);
    test::tests(
        "pods under containerd",
        &mut command,
        "The logs above are the daemon's, the controller's and containerd's.",
    )
}

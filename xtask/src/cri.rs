//! `cargo xtask test --cri`: the image that is shipped, run by containerd and runc as a kubelet has them do it.

use std::path::PathBuf;

use anyhow::Result;

use crate::{image, packages, setup, test, workspace};

pub(crate) const PACKAGE: &str = "ztunnel-cri-tests";
/// Debian's; nothing of them is started but by the tests, in directories, mounts and networks of their own.
const RUNTIME: [&str; 3] = ["containerd", "containernetworking-plugins", "runc"];

pub(crate) fn run(binaries: Option<PathBuf>) -> Result<()> {
    setup::everything()?;
    packages::ensure(&RUNTIME)?;
    let busybox = packages::unpacked("busybox-static")?.join("bin/busybox");
    let image = image::for_this_machine(binaries)?;
    println!("  {} {}", image.name, image.digest);
    let mut command = workspace::cargo();
    command.args(["test", "--package", PACKAGE, "--no-fail-fast"]);
    command.env("ZTUNNEL_IMAGE_ARCHIVE", &image.archive).env("ZTUNNEL_STATIC_BUSYBOX", busybox);
    let passed = test::tests(
        "pods under containerd",
        &mut command,
        "The logs above are the daemon's and containerd's.",
    )?;
    println!("\n{} passed", passed.unwrap_or_default());
    Ok(())
}

//! Fuzzing a parser: `cargo xtask fuzz TARGET`. What it finds belongs into the corpus, where everybody's tests replay it.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to fuzz; without it, the targets are listed.
    target: Option<String>,
    /// For how long.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

const CURE: &str = "`cargo install cargo-fuzz --locked` installs cargo-fuzz; it needs a C++ compiler (g++).";

pub(crate) fn run(options: &Options) -> Result<()> {
    let home = workspace::root().join("tests/fuzz");
    let Some(target) = &options.target else { return list(&home) };
    ensure!(
        home.join("corpus").join(target).is_dir(),
        "there is no target `{target}`; without a name, `cargo xtask fuzz` lists them"
    );
    // What the fuzzer invents goes to a directory of its own: the committed corpus stays small, with names.
    let invented = home.join("target/corpus").join(target);
    std::fs::create_dir_all(&invented).with_context(|| format!("creating {}", invented.display()))?;
    let mut command = Command::new("cargo");
    // Coverage needs flags that a stable compiler hides. There is no unsafe code of ours here to sanitize.
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(&home);
    command.args(["fuzz", "run", "--fuzz-dir", ".", "--sanitizer", "none", target]);
    command.arg(&invented).arg(home.join("corpus").join(target));
    command.args(["--", "-timeout=10", "-rss_limit_mb=4096"]);
    command.arg(format!("-max_total_time={}", options.seconds));
    let status = command.status().with_context(|| format!("cargo fuzz does not start. {CURE}"))?;
    let found = "The input that broke it is in tests/fuzz/artifacts. Mend what it shows, and add it to tests/fuzz/corpus under a name";
    ensure!(status.success(), "{target}: {status}. {CURE} {found}");
    Ok(())
}

fn list(home: &Path) -> Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(home.join("corpus"))
        .context("the corpora")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

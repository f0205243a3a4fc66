//! `cargo xtask image`: the container image, from the release programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use image::{Archive, Processor};

use crate::{libraries::libraries, release, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// For which processors
    #[arg(long, value_name = "x86_64|aarch64", default_value = Processor::of_this_machine().name(), value_parser = processor)]
    processor: Processor,
    /// Take `ztunnel` and `ztunnel-cni` from here, statically linked, instead of building them
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Where the archive goes [default: target/image/ztunnel-PROCESSOR.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The programs of the image.
pub(crate) const PROGRAMS: [&str; 2] = ["ztunnel", "ztunnel-cni"];
const ENTRYPOINT: &str = "/usr/local/bin/ztunnel";

/// What was made.
pub(crate) struct Image {
    pub(crate) archive: PathBuf,
    /// By which a registry or a runtime knows it.
    pub(crate) name: String,
    pub(crate) digest: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let image = make(options)?;
    let size = fs::metadata(&image.archive)?.len() / (1 << 20);
    println!("{}\n{} {}\n{size} MiB", image.archive.display(), image.name, image.digest);
    Ok(())
}

/// For this machine's processors, from programs that are there or are built now.
pub(crate) fn for_this_machine(binaries: Option<PathBuf>) -> Result<Image> {
    make(&Options { processor: Processor::of_this_machine(), binaries, output: None })
}

/// Of programs that are there, with the libraries that they need: for tests.
pub(crate) fn with_libraries(built: &Path) -> Result<Image> {
    let stripped = release::strip(built, &workspace::target().join("image/tests"), "")?;
    let programs = programs(&stripped)?;
    let mut needed = Vec::new();
    for program in PROGRAMS {
        needed.extend(libraries(&built.join(program))?);
    }
    needed.sort();
    needed.dedup();
    let read = |path: PathBuf| Ok((path.display().to_string(), fs::read(&path)?));
    let needed = needed.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    let (name, processor) = (name()?, Processor::of_this_machine());
    let archive = image::image_with_libraries(&name, processor, &programs, &needed, &[ENTRYPOINT])?;
    write(archive, name, workspace::target().join("image/tests.tar"))
}

fn programs(directory: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let read = |program| {
        let path = directory.join(program);
        Ok((program, fs::read(&path).with_context(|| format!("reading {}", path.display()))?))
    };
    PROGRAMS.into_iter().map(read).collect()
}

fn make(options: &Options) -> Result<Image> {
    let processor = options.processor;
    let binaries = match &options.binaries {
        Some(directory) => directory.clone(),
        None => release::build_static(processor)?,
    };
    let programs = programs(&binaries)?;
    let name = name()?;
    let archive = image::image(&name, processor, &programs, &[ENTRYPOINT])
        .with_context(|| format!("of the programs in {}", binaries.display()))?;
    let output = options.output.clone().unwrap_or_else(|| {
        workspace::target().join("image").join(format!("ztunnel-{}.tar", processor.name()))
    });
    write(archive, name, output)
}

fn write(archive: Archive, name: String, output: PathBuf) -> Result<Image> {
    if let Some(directory) = output.parent() {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    fs::write(&output, archive.bytes).with_context(|| format!("writing {}", output.display()))?;
    Ok(Image { archive: output, name, digest: archive.digest })
}

fn processor(name: &str) -> Result<Processor, String> {
    let known = [Processor::X86_64, Processor::Aarch64];
    known
        .into_iter()
        .find(|known| known.name() == name)
        .ok_or_else(|| "expected x86_64 or aarch64".to_owned())
}

/// What the chart asks for.
fn name() -> Result<String> {
    let chart = chart::Chart::ours()?;
    let about = chart::parse(&chart.file("Chart.yaml")?)?;
    let text =
        |value: &serde_json::Value| value.as_str().map(str::to_owned).context("the chart names no image");
    Ok(format!("{}:{}", text(&chart.defaults()["image"]["repository"])?, text(&about["appVersion"])?))
}

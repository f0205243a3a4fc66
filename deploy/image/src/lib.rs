//! Container images, made without a container engine: static programs, one layer, an OCI layout in a tar archive, which
//! `ctr images import`, `docker load` and `kind load image-archive` take.
//!
//! The same programs make the same bytes: no clock, no names of the machine, files in order.
#![forbid(unsafe_code)]

mod archive;
mod elf;
mod layer;

use anyhow::{Context, Result};

pub use crate::archive::Archive;

/// Where the programs are. The CNI plugin is installed from there onto the node.
pub const PLACE: &str = "usr/local/bin";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    X86_64,
    Aarch64,
}

impl Processor {
    pub const fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// As rustc names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As images name it.
    fn architecture(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// An image of `name` (with its tag) with these programs, by their file names, that starts `entrypoint`.
pub fn image(
    name: &str,
    processor: Processor,
    programs: &[(&str, Vec<u8>)],
    entrypoint: &[&str],
) -> Result<Archive> {
    for (program, bytes) in programs {
        elf::check(bytes, processor).with_context(|| (*program).to_owned())?;
    }
    archive::of(&layer::of(programs, &[])?, processor.architecture(), name, entrypoint)
}

/// The same of programs that need libraries, which are given by their paths: for tests, as such programs are there already.
pub fn image_with_libraries(
    name: &str,
    processor: Processor,
    programs: &[(&str, Vec<u8>)],
    libraries: &[(String, Vec<u8>)],
    entrypoint: &[&str],
) -> Result<Archive> {
    archive::of(&layer::of(programs, libraries)?, processor.architecture(), name, entrypoint)
}

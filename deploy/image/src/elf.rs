//! Whether a program runs in an image that holds nothing else.

use anyhow::{Context, Result, bail, ensure};
use object::{
    Endianness,
    elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP},
    read::elf::{FileHeader, ProgramHeader},
};

use crate::Processor;

pub(crate) fn check(program: &[u8], processor: Processor) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(program).context("it is no 64-bit ELF program")?;
    let endian = header.endian()?;
    let machine = match processor {
        Processor::X86_64 => EM_X86_64,
        Processor::Aarch64 => EM_AARCH64,
    };
    ensure!(header.e_machine(endian) == machine, "it is for other processors than {}", processor.name());
    if header.program_headers(endian, program)?.iter().any(|header| header.p_type(endian) == PT_INTERP) {
        bail!("it is linked dynamically, and the image has no libraries");
    }
    Ok(())
}

//! What memory a process holds, from `/proc/PID/smaps_rollup`.

use std::{fs, ops::Add};

use anyhow::{Context, Result};
use serde::Serialize;

/// In bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// What is shared counts for each sharer in part.
    pub(crate) proportional: u64,
    /// Of the process alone: heap and stacks, not files.
    pub(crate) anonymous: u64,
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            resident: self.resident + other.resident,
            proportional: self.proportional + other.proportional,
            anonymous: self.anonymous + other.anonymous,
        }
    }
}

pub(crate) fn of(process: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
        .with_context(|| format!("process {process} is gone"))?;
    parse(&text)
}

pub(crate) fn descriptors(process: u32) -> Result<usize> {
    let open = fs::read_dir(format!("/proc/{process}/fd"));
    Ok(open.with_context(|| format!("process {process} is gone"))?.count())
}

fn parse(text: &str) -> Result<Memory> {
    let bytes = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    };
    Ok(Memory { resident: bytes("Rss:")?, proportional: bytes("Pss:")?, anonymous: bytes("Anonymous:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a line that is taken for another (`Pss_Anon:` for `Pss:`), and the wrong unit.
    #[test]
    fn lines_are_told_apart() {
        let text = "5580-7ffc [rollup]\nRss:    4096 kB\nPss_Anon:  7 kB\nPss:  2048 kB\nAnonymous:  1 kB\n";
        let memory = parse(text).unwrap();
        assert_eq!((memory.resident, memory.proportional, memory.anonymous), (4 << 20, 2 << 20, 1 << 10));
        assert!(parse("Rss: 1 kB\n").is_err());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let id = std::process::id();
        assert!(of(id).unwrap().resident > 1 << 18 && descriptors(id).unwrap() > 2);
    }
}

//! What a person sees: one line for each claim, with a mark that was earned.

use anyhow::{Result, bail};

/// Keeps count of claims that did not hold.
#[derive(Default)]
pub(crate) struct Report {
    checked: usize,
    failed: usize,
}

impl Report {
    pub(crate) fn heading(&self, text: &str) {
        println!("\n{text}");
    }

    /// A claim, and whether it was found to be true.
    pub(crate) fn claim(&mut self, holds: bool, text: &str) {
        self.checked += 1;
        if holds {
            println!("  ✓ {text}");
        } else {
            self.failed += 1;
            println!("  ✗ NOT TRUE: {text}");
        }
    }

    /// A claim of which the text itself is what was found.
    pub(crate) fn found(&mut self, finding: Result<String>, otherwise: &str) {
        match finding {
            Ok(text) => self.claim(true, &text),
            Err(error) => self.claim(false, &format!("{otherwise} ({error:#})")),
        }
    }

    pub(crate) fn close(&self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} of {} claims did not hold", self.failed, self.checked);
        }
        println!("\nAll {} claims above were checked.", self.checked);
        Ok(())
    }
}

/// `1.5 MiB`, `312 B`.
pub(crate) fn size(bytes: u64) -> String {
    const KIBI: u64 = 1 << 10;
    const MEBI: u64 = 1 << 20;
    match bytes {
        0..KIBI => format!("{bytes} B"),
        KIBI..MEBI => format!("{}.{} KiB", bytes / KIBI, bytes % KIBI * 10 / KIBI),
        _ => format!("{}.{} MiB", bytes / MEBI, bytes % MEBI * 10 / MEBI),
    }
}

//! Memory that is not needed now, given back to the kernel. Here because it takes unsafe calls, and those have this home
//! only.
#![expect(unsafe_code, reason = "malloc_trim(3) and madvise(2) have no safe wrappers")]

use std::{fs, ptr};

/// The GNU allocator keeps what was freed in the middle of its heaps. Takes milliseconds; other threads that allocate
/// may wait for a part of that.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the pages of the program itself and its libraries. Most are needed once, to start; those that are needed
/// again come back from the page cache, a few dozen at a time.
pub fn let_go_of_code() {
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for (start, length) in unwritten(&mappings) {
        let start = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a mapping of a file, which cannot be written to and of which no page was ever changed, so
        // what the next access finds there, read from the file again, is what is there now.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of what maps a file, is not writable, and has no page that differs from the file. Relocated data is
/// none of it: though read-only, its pages are the process's own.
fn unwritten(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => found.extend(mapping.take()),
            (Some(range), Some(permissions)) if permissions.len() == 4 && range.contains('-') => {
                let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                mapping = if file && permissions.as_bytes()[1] == b'-' { extent(range) } else { None };
            }
            _ => {}
        }
    }
    found
}

fn extent(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|word| usize::from_str_radix(word, 16));
    let start = start.ok()?;
    Some((start, end.ok()?.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To give up a page that was written to, as relocated data is, would be the end of the process.
    #[test]
    fn only_what_is_as_the_file_says_is_let_go_of() {
        let smaps = "\
1000-3000 r-xp 00001000 fe:00 123    /usr/bin/ztunnel
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3000-5000 r--p 00003000 fe:00 123    /usr/bin/ztunnel
Anonymous:             4 kB
5000-6000 rw-p 00005000 fe:00 123    /usr/bin/ztunnel
Anonymous:             0 kB
6000-7000 r--p 00000000 00:00 0
Anonymous:             0 kB
7000-8000 r--s 00000000 00:0e 9      anon_inode:bpf-map
Anonymous:             0 kB
8000-a000 r--p 00000000 fe:00 124    /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(unwritten(smaps), [(0x1000, 0x2000), (0x8000, 0x2000)]);
    }

    #[test]
    fn what_is_let_go_of_comes_back() {
        let_go_of_code();
        let_go_of_code();
        assert!(!unwritten(&fs::read_to_string("/proc/self/smaps").unwrap()).is_empty());
    }
}

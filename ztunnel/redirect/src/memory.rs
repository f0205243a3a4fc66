//! Memory that is not needed now, given back to the kernel. Here because it takes unsafe calls, and those have this home
//! only.
#![expect(
    unsafe_code,
    reason = "malloc_trim(3), mallinfo2(3), mallopt(3) and madvise(2) have no safe wrappers"
)]

use std::{fs, ptr};

/// So many heaps at most for all threads; the GNU allocator would have one for each, with what each has freed. Threads that
/// have one already keep it.
pub fn share_heaps(heaps: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes no pointer, and glibc locks what it sets. It fails only for what it does not know.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = heaps;
}

/// The GNU allocator keeps what was freed in the middle of its heaps. Takes milliseconds; other threads that allocate
/// may wait for a part of that.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes of the process's own memory that are resident and not in use: what giving back could give back, and a constant.
pub fn spare_memory() -> usize {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallinfo2(3) takes no pointer, and any thread may call it at any time.
    let used = unsafe { libc::mallinfo2() };
    #[cfg(target_env = "gnu")]
    let used = used.uordblks + used.hblkhd;
    #[cfg(not(target_env = "gnu"))]
    let used = 0;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    anonymous(&status).saturating_sub(used)
}

/// 0 if the kernel does not say.
fn anonymous(status: &str) -> usize {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kibibytes.unwrap_or_default() << 10
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

    /// Else what was freed would stay for ever, or be looked for in vain every few seconds.
    #[test]
    fn what_was_freed_is_told_until_it_is_given_back() {
        assert_eq!(anonymous("Name:\tx\nVmRSS:\t 9 kB\nRssAnon:\t    5 kB\n"), 5 << 10);
        let before = spare_memory();
        let mut pieces: Vec<Vec<u8>> = (0..16_000).map(|_| vec![1; 1000]).collect();
        // The last stays, so that the others are in the middle of the heap.
        let _last = pieces.pop();
        drop(pieces);
        let freed = spare_memory();
        assert!(freed > before + (8 << 20), "{before} and {freed}");
        give_back_memory();
        let left = spare_memory();
        assert!(left < before + (4 << 20), "{before} and {left}");
    }

    #[test]
    fn what_is_let_go_of_comes_back() {
        let_go_of_code();
        let_go_of_code();
        assert!(!unwritten(&fs::read_to_string("/proc/self/smaps").unwrap()).is_empty());
    }
}

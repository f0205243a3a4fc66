//! Memory that is free, given back to the kernel. Here because it takes an unsafe call, and those have this home only.
#![expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]

/// The GNU allocator keeps what was freed in the middle of its heaps. Takes milliseconds; other threads that allocate
/// may wait for a part of that.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

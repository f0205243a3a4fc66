//! The process's heap, sampled: where the memory that is live now was allocated.
//!
//! The allocator stays the system's. While sampling is off, this costs one read of a flag for each allocation; while it is
//! on, about one allocation in every [`INTERVAL`] bytes is remembered with its stack until it is freed. Only what is
//! allocated while it is on is seen. Here because an allocator is unsafe, and that has this home only.
#![expect(unsafe_code, reason = "an allocator's contract, and walking a stack")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::BTreeMap,
    ffi::c_void,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

/// Bytes between two samples, on average.
pub const INTERVAL: usize = 512 << 10;
/// Samples of live memory; with more, memory is told short, and how often.
const MAX_SAMPLES: usize = 16 << 10;
const MAX_DEPTH: usize = 40;
/// So many places tell of most addresses, without a lock, that they are no sample's.
const PLACES: usize = 1 << 16;

/// To be the program's global allocator.
#[derive(Debug)]
pub struct SampledHeap;

/// Live memory that was allocated in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMemory {
    /// Return addresses, the innermost first.
    pub stack: Vec<usize>,
    /// Allocations and their bytes: estimates from the samples.
    pub count: u64,
    pub bytes: u64,
}

#[derive(Clone)]
struct Sample {
    size: usize,
    stack: [usize; MAX_DEPTH],
    depth: usize,
}

static ON: AtomicBool = AtomicBool::new(false);
static SAMPLES: Mutex<BTreeMap<usize, Sample>> = Mutex::new(BTreeMap::new());
static OCCUPIED: [AtomicU8; PLACES] = [const { AtomicU8::new(0) }; PLACES];
static MISSED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Neither has a destructor, so both are there as long as the thread allocates.
    static BUSY: Cell<bool> = const { Cell::new(false) };
    static LEFT: Cell<f64> = const { Cell::new(INTERVAL as f64) };
    static DICE: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every request is handed to the system's allocator as it is, and its answer returned as it is; what is noted
// besides never touches the memory.
unsafe impl GlobalAlloc for SampledHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to the contract, which is the same.
        let memory = unsafe { System.alloc(layout) };
        note(memory, layout.size());
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let memory = unsafe { System.alloc_zeroed(layout) };
        note(memory, layout.size());
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        forget(memory);
        // SAFETY: as above; `memory` came from the system's allocator, as all does.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Before, as another thread may get the old address as soon as it is free.
        let sample = forget(memory);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(memory, layout, size) };
        match sample {
            // It failed, and the old memory lives on.
            Some(sample) if moved.is_null() => remember(memory.addr(), sample),
            _ => note(moved, size),
        }
        moved
    }
}

/// What is live of all that was allocated since it was switched on.
pub fn live() -> (Vec<LiveMemory>, u64) {
    let samples = quietly(|| {
        let samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
        samples.values().cloned().collect::<Vec<_>>()
    });
    let mut by_stack: BTreeMap<Vec<usize>, (u64, u64)> = BTreeMap::new();
    for sample in samples.unwrap_or_default() {
        let (count, bytes) = by_stack.entry(sample.stack[..sample.depth].to_vec()).or_default();
        let (stands_for, of_bytes) = stands_for(sample.size);
        *count += stands_for;
        *bytes += of_bytes;
    }
    let live = by_stack.into_iter().map(|(stack, (count, bytes))| LiveMemory { stack, count, bytes });
    (live.collect(), MISSED.load(Relaxed))
}

pub fn is_on() -> bool {
    ON.load(Relaxed)
}

/// Switching it off forgets what it knew.
pub fn switch(on: bool) {
    ON.store(on, Relaxed);
    if !on {
        quietly(|| {
            std::mem::take(&mut *SAMPLES.lock().unwrap_or_else(PoisonError::into_inner));
            OCCUPIED.iter().for_each(|place| place.store(0, Relaxed));
            MISSED.store(0, Relaxed);
        });
    }
}

/// Of allocations of this size, one in so many is sampled: with chance 1 - e^(-size / INTERVAL).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an estimate"
)]
fn stands_for(size: usize) -> (u64, u64) {
    let size = size.max(1) as f64;
    let chance = 1.0 - (-size / INTERVAL as f64).exp();
    ((1.0 / chance).round() as u64, (size / chance).round() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "no allocation is that large")]
fn note(memory: *mut u8, size: usize) {
    if !ON.load(Relaxed) || memory.is_null() {
        return;
    }
    let due = LEFT.try_with(|left| {
        left.set(left.get() - size as f64);
        left.get() <= 0.0
    });
    if due != Ok(true) {
        return;
    }
    quietly(|| {
        let _ = LEFT.try_with(|left| left.set(next_interval()));
        let mut sample = Sample { size, stack: [0; MAX_DEPTH], depth: 0 };
        let add = |frame: &backtrace::Frame| {
            sample.stack[sample.depth] = frame.ip().cast::<c_void>().addr();
            sample.depth += 1;
            sample.depth < MAX_DEPTH
        };
        // SAFETY: on Linux the unwinder may run in several threads at once.
        unsafe { backtrace::trace_unsynchronized(add) };
        insert(memory.addr(), sample);
    });
}

fn remember(address: usize, sample: Sample) {
    quietly(|| insert(address, sample));
}

fn insert(address: usize, sample: Sample) {
    let mut samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    if samples.len() >= MAX_SAMPLES {
        MISSED.fetch_add(1, Relaxed);
        return;
    }
    if samples.insert(address, sample).is_none() {
        // One that is full stays so: it then says "perhaps" for ever.
        let _ = place(address).fetch_update(Relaxed, Relaxed, |count| count.checked_add(1));
    }
}

fn forget(memory: *mut u8) -> Option<Sample> {
    if !ON.load(Relaxed) || place(memory.addr()).load(Relaxed) == 0 {
        return None;
    }
    quietly(|| {
        let mut samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = samples.remove(&memory.addr())?;
        let less = |count: u8| if count == u8::MAX { None } else { count.checked_sub(1) };
        let _ = place(memory.addr()).fetch_update(Relaxed, Relaxed, less);
        Some(sample)
    })
    .flatten()
}

fn place(address: usize) -> &'static AtomicU8 {
    // Fibonacci hashing: the upper bits are well mixed.
    let mixed = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    &OCCUPIED[usize::try_from(mixed).unwrap_or_default() % PLACES]
}

/// What is allocated and freed for the book-keeping itself is not noted.
fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    let free = BUSY.try_with(|busy| !busy.replace(true)) == Ok(true);
    if !free {
        return None;
    }
    let result = work();
    let _ = BUSY.try_with(|busy| busy.set(false));
    Some(result)
}

/// Exponentially distributed, so that no pattern of allocations can stay between the samples.
#[expect(clippy::cast_precision_loss, reason = "chance")]
fn next_interval() -> f64 {
    let state = DICE.try_with(|dice| {
        // xorshift64*; its seed is where the thread's own memory lies.
        let mut state = if dice.get() == 0 { std::ptr::from_ref(dice).addr() as u64 } else { dice.get() };
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        dice.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    });
    let uniform = ((state.unwrap_or(1) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    -uniform.ln() * INTERVAL as f64
}

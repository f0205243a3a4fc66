//! That samples tell how much memory is live, and no more of what was freed.

use ztunnel_redirect::heap::{self, SampledHeap};

#[global_allocator]
static HEAP: SampledHeap = SampledHeap;

const SIZE: usize = 16 << 10;
const COUNT: usize = 8 << 10;

fn live_bytes() -> u64 {
    heap::live().0.iter().map(|memory| memory.bytes).sum()
}

fn allocate() -> Vec<Vec<u8>> {
    (0..COUNT).map(|_| vec![1; SIZE]).collect()
}

/// Catches: estimates that are far off (256 samples stand for these 128 MiB, so 40 % is more than six deviations), memory
/// that is told of after it was freed or moved, and samples while nobody wants them.
#[test]
fn samples_tell_what_is_live_and_nothing_else() {
    let before = allocate();
    assert_eq!(live_bytes(), 0, "it samples without being asked");
    heap::switch(true);
    let expected = (SIZE * COUNT) as u64;
    let kept = std::thread::spawn(allocate).join().unwrap();
    drop(before);
    let told = live_bytes();
    assert!(told > expected * 6 / 10 && told < expected * 14 / 10, "{told} of {expected}");
    assert!(heap::live().0.iter().all(|memory| !memory.stack.is_empty()));
    let mut moved: Vec<Vec<u8>> = kept;
    moved.iter_mut().for_each(|block| block.resize(SIZE * 2, 2));
    let told = live_bytes();
    assert!(told > expected * 12 / 10 && told < expected * 28 / 10, "{told} of {}", expected * 2);
    drop(moved);
    assert!(live_bytes() < expected / 10, "{} after all was freed", live_bytes());
    heap::switch(false);
    assert_eq!(live_bytes(), 0);
}

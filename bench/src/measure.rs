//! What it took: processor time and memory, as the kernel accounts for them.

pub(crate) mod memory;
pub(crate) mod processor;
pub(crate) mod slab;

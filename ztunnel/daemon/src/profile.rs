//! Profiles of this very process, in the format of pprof.

mod cpu;
mod encode;
mod heap;

pub(crate) use cpu::{CpuProfile, ProfileError};
pub(crate) use heap::heap_profile;

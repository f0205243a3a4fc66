//! What the whole must do, shown in network namespaces with real eBPF and real daemons.
//!
//! Needs root and a built daemon: run it by `cargo xtask test`. What is missing fails loudly.

mod paths;

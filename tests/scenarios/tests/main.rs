//! The mesh as a whole: real daemons, real eBPF, nodes and pods in namespaces. Each file is one group of scenarios,
//! each test says what it would catch, and each runs over IPv4 and IPv6. They need root and say so.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod paths;
mod support;

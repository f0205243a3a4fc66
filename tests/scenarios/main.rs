//! What the whole must do, shown in network namespaces with real eBPF and real daemons.
//!
//! Each file is one group of scenarios; each test says what it would catch, and runs over IPv4 and IPv6. Needs root
//! and a built daemon: run it by `cargo xtask test`. What is missing fails loudly.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod application_tunnel;
mod captured;
mod certificates;
mod cni_plugin;
mod control_plane;
mod controller;
mod discovery;
mod dns;
mod endpoints;
mod enrolment;
mod escape;
mod held;
mod istio;
mod lifecycle;
mod load;
mod metrics;
mod modes;
mod namespaces;
mod older;
mod operator;
mod paths;
mod peers;
mod ports;
mod preflight;
mod privileges;
mod probes;
mod revocation;
mod same_node;
mod services;
mod settings;
mod state;
mod storms;
mod streams;
mod strict;
mod support;
mod tamper;
mod unenrol;

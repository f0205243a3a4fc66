//! The tunnel from outside: two daemons' tunnels, real TLS, TCP on loopback.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how a test fails")]

mod authority;
mod clock;
mod deadlines;
mod hello;
mod hostile;
mod identities;
mod mesh;
mod pool;
mod raw;
mod recorded;
mod revocation;
mod streams;
mod trust;
mod windows;

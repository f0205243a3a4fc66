//! Whole journeys without a kernel: two nodes in one process, each with its own proxy, tunnel and ledgers, between
//! them real TCP and real mutual TLS. Only steering is played, by [`mesh::PodOnLoopback`].
//!
//! A mesh address 10.a.b.c lives at 127.a.b.c on a port of its own, so that source addresses are real.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod copying;
mod direct;
mod endpoints;
mod identity;
mod learning;
mod limits;
mod mesh;
mod observed;
mod outside;
mod policy;
mod stopping;
mod strangers;
mod tunnelled;

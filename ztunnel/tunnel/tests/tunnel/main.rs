//! The tunnel from outside: two daemons' tunnels, real TLS, TCP on loopback.

mod authority;
mod deadlines;
mod identities;
mod mesh;
mod pool;
mod raw;
mod recorded;
mod streams;
mod windows;

//! What the mesh costs, against the same traffic without one.

fn main() {}

//! The CNI plugin: a pod is enrolled before its first process starts.

fn main() {}

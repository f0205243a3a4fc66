//! `ztunnel-cni`: the CNI plugin's binary. A pod is enrolled before its first process starts.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ztunnel_cni::plugin::main()
}

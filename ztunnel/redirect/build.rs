//! Embeds the eBPF objects that `cargo xtask ebpf` builds.

use std::{env, path::PathBuf};

fn main() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let objects = root.join("target/ebpf");
    println!("cargo::rerun-if-env-changed=ZTUNNEL_EBPF_DIR");
    let objects = env::var_os("ZTUNNEL_EBPF_DIR").map_or(objects, PathBuf::from);
    for (name, variable) in [("node.o", "ZTUNNEL_NODE_OBJECT"), ("pod.o", "ZTUNNEL_POD_OBJECT")] {
        let object = objects.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        match object.canonicalize() {
            Ok(object) => println!("cargo::rustc-env={variable}={}", object.display()),
            Err(_) => println!(
                "cargo::error=the eBPF object {} is not built; run `cargo xtask ebpf` first, or name its directory in ZTUNNEL_EBPF_DIR",
                object.display()
            ),
        }
    }
}

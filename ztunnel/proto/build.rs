//! Makes Rust of the `.proto` files, without a `protoc`.

use std::error::Error;

const FILES: [&str; 5] = [
    "proto/discovery.proto",
    "proto/workload.proto",
    "proto/authorization.proto",
    "proto/zds.proto",
    "proto/certificates.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // How a connection is made is `control`'s to say.
        .build_transport(false)
        // Slices of the message they came in, not copies.
        .bytes(".envoy.service.discovery.v3.Any")
        .bytes(".istio")
        // Encoded the same way each time, so that a resource's version can be made of its bytes.
        .btree_map(".istio.workload")
        .compile_fds(files)?;
    Ok(())
}

//! The container runtime interface, version `runtime.v1`: of its calls and fields those that these tests use.
#![forbid(unsafe_code)]

#[allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::needless_pass_by_value,
    clippy::uninlined_format_args,
    unused_qualifications,
    reason = "made by tonic"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

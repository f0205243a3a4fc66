//! What goes over the wire to and from the control plane and the CNI agent: messages, client and server stubs.
//!
//! The `.proto` files are ours, with the field names and numbers of the interface. Nothing here says what a message
//! means; `control` does.
#![forbid(unsafe_code)]
#![expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated code is as it is"
)]

pub use prost;
pub use prost_types;
pub use tonic;

/// Delta ADS.
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Workloads and services.
pub mod workload {
    tonic::include_proto!("istio.workload");

    /// Between the CNI agent and its proxy.
    pub mod zds {
        tonic::include_proto!("istio.workload.zds");
    }
}

/// Authorization policies.
pub mod security {
    tonic::include_proto!("istio.security");
}

/// Certificates by signing request.
pub mod certificates {
    tonic::include_proto!("istio.v1.auth");
}

/// The type of [`workload::Address`] resources.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// The type of [`security::Authorization`] resources.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";

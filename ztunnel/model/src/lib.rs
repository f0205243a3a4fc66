//! What the mesh is and what it allows.
//!
//! Everything here is pure: no clock, no socket, no runtime. The control side builds a [`Snapshot`]
//! and publishes it; the data path asks two questions of it: where does this connection go
//! ([`resolve`]) and may it ([`authorize`]). The answer to the second is a [`Permit`], and only a
//! `Permit` opens a connection.
#![forbid(unsafe_code)]

pub mod address;
pub mod authorize;
mod balance;
pub mod demand;
pub mod explain;
pub mod identity;
pub mod mtls;
pub mod names;
pub mod outlier;
pub mod policy;
pub mod proxy_protocol;
pub mod refusal;
pub mod resolve;
pub mod revocation;
pub mod service;
pub mod settings;
pub mod small_map;
pub mod snapshot;
pub mod svid;
pub mod texts;
pub mod workload;

pub use address::{ClientAddr, Network, NetworkAddress, OriginalDst, Role};
pub use authorize::Permit;
pub use identity::{SpiffeId, TrustDomain};
pub use mtls::MtlsMode;
pub use refusal::Refusal;
pub use resolve::{ApplicationRoute, DirectRoute, PassthroughRoute, Route, TunnelRoute};
pub use revocation::Revoked;
pub use settings::Settings;
pub use snapshot::{SharedSnapshot, Snapshot};
pub use svid::{Svid, SvidError, SvidSource, Trust, TrustDomains};
pub use workload::{Workload, WorkloadUid};

//! Where the daemon's knowledge comes from.
//!
//! - [`StateFile`]: the mesh (workloads, services, policies) from a file in the form of Istio's local configuration,
//!   published as [`model::Snapshot`]s.
//! - [`ControlPlane`]: the same from a control plane, by delta ADS.
//! - [`PodsFile`]: the pods of this node that are to be enrolled.
//! - [`Zds`]: the pods of this node as a CNI's agent hands them over.
//! - [`Certificates`]: a current certificate for each local identity, from a [`CertificateAuthority`];
//!   [`EmbeddedCa`] is the one for a single machine.
//! - [`RevocationFiles`]: which certificates are revoked, from revocation lists.
//! - [`Names`]: the addresses of workloads that have a host name only, by DNS.
//!
//! Files are watched. A good edit costs what it changed; a bad one is refused with its line and leaves the last
//! good state in force, which a [`FileStatus`] tells to log, metric and admin endpoint.
#![forbid(unsafe_code)]

mod certificates;
mod channel;
mod file;
#[doc(hidden)]
pub mod fuzzing;
mod instant;
mod names;
mod offline;
mod packet;
mod pods;
mod revocation;
mod sound;
mod state;
mod xds;
mod zds;

pub use certificates::{
    AuthorityError, BundleFile, CaFiles, CaMaterial, CaWatch, CertificateAuthority, CertificateEvent,
    CertificateSettings, CertificateState, CertificateStatus, Certificates, Change, EmbeddedCa, EventSink,
    Issued, IstioCa, RootError, ServerCertificate, SigningCa, fingerprint, new_root,
};
pub use channel::{
    ChannelError, ChannelSettings, Connection, ControlPlaneAddress, NoHeader, NotAnAddress, RequestHeaders,
    RootCertificates, RootsError,
};
pub use file::{FileError, FileProblem, FileStatus};
pub use instant::{Clock, system_clock};
pub use names::{NameSettings, Names};
pub use offline::{FileKind, FileReport, kind_of, pods_of, read_pods, read_state, state_of};
pub use packet::{Packet, receive};
pub use pods::{FailMode, LocalPod, PodsFile};
pub use revocation::{Bundles, ListStatus, RevocationFiles, RevocationStatus, read_revocation_lists};
pub use state::StateFile;
pub use xds::{
    ControlPlane, ControlPlaneProblem, ControlPlaneSettings, ControlPlaneStatus, OnDemand, OnDemandSettings,
    ProxyNode, RejectedResource, TypeStatus,
};
pub use zds::{CniPod, CniPods, Zds, ZdsStatus};

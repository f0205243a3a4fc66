//! The bodies of the fuzz targets, as ordinary functions: each takes whatever comes, hands it to one of our parsers, and
//! asserts what must hold of the answer. A fuzzer calls them with what it invents (`cargo xtask fuzz`), and the tests with
//! the committed corpus.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a target fails by panicking")]

mod authority;
mod certificate;
mod cni;
mod connect_headers;
mod dns;
mod files;
mod flood_frames;
mod identity;
mod policy;
mod proxy_header;
mod traceparent;
mod wire;

pub use authority::authority;
pub use certificate::{certificate, revocation_list};
pub use cni::cni_configuration;
pub use connect_headers::connect_headers;
pub use dns::{dns_answer, dns_query};
pub use files::{pods_file, state_file};
pub use flood_frames::flood_frames;
pub use identity::spiffe_id;
pub use policy::policy;
pub use proxy_header::proxy_header;
pub use traceparent::traceparent;
pub use wire::{xds_address, xds_policy, zds_packet_of_agent as zds_packet};

/// Takes whatever comes; panics if what must hold does not.
pub type Target = fn(&[u8]);

/// All targets, by their names, which are those of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("authority", authority),
    ("certificate", certificate),
    ("cni_configuration", cni_configuration),
    ("connect_headers", connect_headers),
    ("dns_answer", dns_answer),
    ("dns_query", dns_query),
    ("flood_frames", flood_frames),
    ("pods_file", pods_file),
    ("policy", policy),
    ("proxy_header", proxy_header),
    ("revocation_list", revocation_list),
    ("spiffe_id", spiffe_id),
    ("state_file", state_file),
    ("traceparent", traceparent),
    ("xds_address", xds_address),
    ("xds_policy", xds_policy),
    ("zds_packet", zds_packet),
];

/// Text from outside that is no text is refused before any parser of ours sees it.
fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

//! What a connection costs while it stands.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use model::{SpiffeId, Svid, SvidError, Trust, svid::TrustBundle};
use tokio::net::TcpStream;

use super::*;
use crate::Arrival;

/// Types to name the journeys by; never run.
struct NoSvids;
struct NoSockets;

impl SvidSource for NoSvids {
    async fn svid(&self, identity: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        Err(SvidError::Expired(identity.clone()))
    }

    fn trust(&self) -> Arc<Trust> {
        let trust_domain = "cluster.local".parse().unwrap();
        Arc::new(Trust::alone(TrustBundle { trust_domain, roots: Vec::new() }))
    }
}

impl PodSockets for NoSockets {
    fn address(&self, _: IpAddr) -> Option<IpAddr> {
        None
    }

    async fn accept(&self, _: Role) -> io::Result<Arrival> {
        std::future::pending().await
    }

    async fn connect(&self, _: SocketAddr) -> io::Result<TcpStream> {
        std::future::pending().await
    }

    async fn connect_application(&self, _: Option<IpAddr>, _: SocketAddr) -> io::Result<TcpStream> {
        std::future::pending().await
    }
}

fn task_size<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}

/// A task is as large as its largest phase, for its whole life. If the TLS handshake were part of it, each idle
/// connection would hold 24 KiB instead of two or three.
#[test]
fn a_standing_connection_does_not_hold_what_making_it_took() {
    type AnyPod = Pod<NoSvids, NoSockets>;
    for size in [
        task_size(|pod, arrival, seat| AnyPod::outbound(pod, arrival, seat, None)),
        task_size(|pod, arrival, seat| AnyPod::inbound_plaintext(pod, arrival, seat, None)),
        task_size(AnyPod::inbound_tunnel),
    ] {
        assert!(size <= 4096, "{size} bytes");
    }
}

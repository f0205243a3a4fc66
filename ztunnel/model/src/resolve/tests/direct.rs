//! What may go past the network to a pod of the same daemon, and what must not.

use super::*;
use crate::{
    DirectRoute, Permit,
    authorize::{OutboundPermit, authorize_outbound},
};

fn permit(mesh: &Snapshot, to: &str) -> Permit<TunnelRoute> {
    match authorize_outbound(mesh, &client(), go(mesh, to, 0).unwrap()).unwrap() {
        OutboundPermit::Tunnel(permit) => permit,
        OutboundPermit::Passthrough(permit) => panic!("expected a tunnel, got {permit:?}"),
    }
}

/// With everybody beside; the gateway of the tunnel that is kept none the less.
fn shortened(mesh: &Snapshot, to: &str) -> Result<DirectRoute, SocketAddr> {
    let found = permit(mesh, to).shorten(|route| Some(route.destination.name.clone()));
    found.map(|(permit, _)| permit.into_route()).map_err(|permit| permit.route().gateway)
}

#[test]
fn a_neighbour_is_reached_directly_by_its_address_and_through_its_service() {
    let web = service(WEB, &["/10.96.0.1"], &[(80, 8080)]);
    let mesh = mesh([endpoint("server", "10.0.0.2", WEB)], [web]);
    for to in ["10.0.0.2:8080", "10.96.0.1:80"] {
        let route = shortened(&mesh, to).unwrap();
        assert_eq!((route.target, &*route.destination.name), ("10.0.0.2:8080".parse().unwrap(), "server"));
        assert_eq!(route.source.to_string(), "spiffe://td/ns/default/sa/client");
    }
}

#[test]
fn who_is_not_beside_keeps_the_tunnel() {
    let mesh = mesh([workload("server", &["10.0.0.2"], Protocol::Hbone)], []);
    let kept = permit(&mesh, "10.0.0.2:80").shorten(|_| None::<()>).unwrap_err();
    assert_eq!(kept.route().gateway, "10.0.0.2:15008".parse().unwrap());
}

/// A waypoint that nobody passes is a policy that nobody enforces.
#[test]
fn a_waypoint_in_the_way_keeps_the_tunnel_whoever_is_beside() {
    let mut server = workload("server", &["10.0.0.2"], Protocol::Hbone);
    server.waypoint = waypoints::waypoint("/10.0.0.9").map(Box::new);
    let mut native = workload("native", &["10.0.0.3"], Protocol::Hbone);
    native.native_tunnel = true;
    let mesh = mesh([server, native, workload("proxy", &["10.0.0.9"], Protocol::Hbone)], []);
    assert_eq!(shortened(&mesh, "10.0.0.2:80").unwrap_err(), "10.0.0.9:15008".parse().unwrap());
    shortened(&mesh, "10.0.0.3:80").expect_err("who ends tunnels itself wants one");
}

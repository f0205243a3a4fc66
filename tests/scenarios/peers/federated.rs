//! Peers of another trust domain, whose bundle the daemon has from a file.

use std::fs;

use http::StatusCode;
use rustls::AlertDescription;
use serde_json::json;
use testkit::{
    Mesh, MeshPlan,
    server::{Behaviour, Server},
};

use super::{
    Authority,
    client::{Peer, config, knock},
    inside,
};
use crate::support::FAMILIES;

const FRIEND: &str = "spiffe://partner.example/ns/default/sa/friend";
const OTHER: &str = "spiffe://partner.example/ns/default/sa/other";

/// Catches: a partner that is kept out, or let in everywhere; a root of one trust domain that vouches for another's workloads.
#[test]
fn a_partner_is_known_by_its_own_bundle_and_judged_by_policy() {
    let (partner, root) = Authority::partner();
    let bundle = std::env::temp_dir().join(format!("ztunnel-partner-{}.pem", std::process::id()));
    fs::write(&bundle, root).unwrap();
    let friends = json!([[[{ "principals": [{ "exact": FRIEND.trim_start_matches("spiffe://") }] }]]]);
    let mesh = MeshPlan::new(&["server"])
        .setting("certificates", json!({ "bundles": { "partner.example": bundle } }))
        .policy(json!({
            "name": "friends", "namespace": "default", "scope": "Namespace", "action": "Allow", "rules": friends,
        }))
        .start()
        .unwrap();
    let _echo = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let outside = &mesh.topology().outside;
    for family in FAMILIES {
        let gateway = mesh.address("server", family, 15008);
        let target = mesh.address("server", family, 8080).to_string();
        for (identity, expected) in [(FRIEND, Ok(())), (OTHER, Err(StatusCode::UNAUTHORIZED))] {
            let (config, target) = (config(partner.leaf(&[identity], |_| ())), target.clone());
            let answer = inside(outside, move || async move {
                let peer = Peer::connect(gateway, config).await;
                peer.connect_to(&target).await.map(drop)
            });
            assert_eq!(answer, expected, "{identity}");
        }
        let ours = Mesh::identity("client");
        for (authority, identity) in [(&partner, ours.as_str()), (&Authority::of(&mesh), FRIEND)] {
            let config = config(authority.leaf(&[identity], |_| ()));
            let (_, alert) = inside(outside, move || knock(gateway, config));
            assert_eq!(alert, Some(AlertDescription::UnknownCA), "{identity} by another's root");
        }
    }
    fs::remove_file(bundle).unwrap();
}

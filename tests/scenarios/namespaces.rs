//! What a pod's namespace is called, and what happens when that name goes, is used twice, or stands for a pod of other
//! addresses.

use std::{fs, io::ErrorKind, os::unix::fs::symlink};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan,
    capture::{Capture, Keep},
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, assert_encrypted};

const SECRET: &[u8] = b"only for those who are in the mesh";

fn problem(mesh: &Mesh, pod: &str) -> Option<String> {
    let status = mesh.daemon(1).admin("/pods").unwrap();
    let status = status.as_array()?.iter().find(|status| status["uid"] == Mesh::uid(pod))?.clone();
    status["problem"].as_str().map(str::to_owned)
}

fn exchange(mesh: &Mesh, family: usize) -> std::io::Result<Vec<u8>> {
    let target = mesh.address("server", family, 8080);
    mesh.pod("client").run(move || Dial::to(target).exchange(SECRET))
}

/// Catches: a process that outlives the name of its namespace (as the child of a pod's first process may) and so
/// gets out of the mesh.
#[test]
fn a_namespace_that_lost_its_name_stays_closed_while_somebody_lives_in_it() {
    let mut mesh = MeshPlan::new(&["client", "server"]).build().unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let name = mesh.directory().join("the-name-of-a-namespace");
    symlink(mesh.pod("client").netns(), &name).unwrap();
    let netns = json!(name);
    mesh.edit(&mesh.pods_file(1), |pods| pods["pods"][0]["netns"] = netns).unwrap();
    mesh.start_daemon(1).unwrap();
    mesh.start_daemon(2).unwrap();
    let capture = Capture::start(mesh.pod("client"), "eth0", Keep::Everything).unwrap();
    for family in FAMILIES {
        assert_eq!(exchange(&mesh, family).unwrap(), SECRET);
    }
    fs::remove_file(&name).unwrap();
    eventually("its end is noticed", || problem(&mesh, "client"));
    for family in FAMILIES {
        assert_eq!(exchange(&mesh, family).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    symlink(mesh.pod("client").netns(), &name).unwrap();
    eventually("it is served again", || mesh.daemon(1).serves(&Mesh::uid("client")).then_some(()));
    for family in FAMILIES {
        assert_eq!(exchange(&mesh, family).unwrap(), SECRET);
    }
    assert_encrypted(&capture.stop().unwrap(), &mesh.pod("client").ips(), SECRET);
}

/// Catches: two pods made of one namespace, by two spellings of its path, which would then have each other's identity.
#[test]
fn a_namespace_is_that_of_one_pod() {
    let mesh = Mesh::start(&["client other", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let spelled_otherwise = mesh.pod("client").netns().to_string_lossy().replace("/netns/", "/./netns/");
    mesh.edit(&mesh.pods_file(1), |pods| {
        let other = pods["pods"].as_array_mut().unwrap().iter_mut();
        let is_other = |pod: &&mut Value| pod["uid"] == Mesh::uid("other").as_str();
        other.into_iter().find(is_other).unwrap()["netns"] = json!(spelled_otherwise);
    })
    .unwrap();
    let told = eventually("it is refused", || problem(&mesh, "other"));
    assert!(told.contains("another enrolled pod"), "{told}");
    for family in FAMILIES {
        assert_eq!(exchange(&mesh, family).unwrap(), SECRET);
        let source = &mesh.daemon(1).connections().unwrap();
        assert!(source.iter().all(|connection| connection["local"] != Mesh::uid("other").as_str()));
    }
}

/// Catches: a pod that is out of the mesh for a moment, or for good, because its addresses were edited.
#[test]
fn a_pod_whose_addresses_are_edited_sends_nothing_in_clear() {
    let mesh = Mesh::start(&["client", "server"]).unwrap();
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let capture = Capture::start(mesh.pod("client"), "eth0", Keep::Everything).unwrap();
    let v4 = json!([mesh.pod("client").ips()[0]]);
    mesh.edit(&mesh.pods_file(1), |pods| pods["pods"][0]["ips"] = v4.clone()).unwrap();
    let edited = || {
        let status = mesh.daemon(1).admin("/pods").unwrap();
        (status[0]["settings"]["ips"] == v4).then_some(())
    };
    while edited().is_none() {
        // Refused for a moment is right; answered in clear is not, and the capture tells.
        let _ = exchange(&mesh, 0);
    }
    assert_eq!(exchange(&mesh, 0).unwrap(), SECRET);
    assert_encrypted(&capture.stop().unwrap(), &mesh.pod("client").ips(), SECRET);
}

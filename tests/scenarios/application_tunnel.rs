//! `applicationTunnel`: an application that ends tunnels itself, such as a waypoint, is told by the PROXY protocol who asks
//! for what. It is read here by a library that is not ours.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use ppp::v2::{Addresses, Header};
use serde_json::{Value, json};
use testkit::{Mesh, MeshPlan, Place, client::Dial, eventually};

use crate::support::FAMILIES;

const PORT: u16 = 8080;
const TUNNEL_PORT: u16 = 15088;
const IDENTITY: u8 = 0xD0;

fn plan(pods: &[&str], protocol: &str) -> MeshPlan {
    let tunnel = json!({ "protocol": protocol, "port": TUNNEL_PORT });
    MeshPlan::new(pods).pod("way", move |pod| pod.says("applicationTunnel", tunnel))
}

/// Listens where nobody but the pod itself can reach it.
fn serve(pod: &Place) {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let listeners = loopbacks.map(|ip| pod.run(move || TcpListener::bind((ip, TUNNEL_PORT))).unwrap());
    for listener in listeners {
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || tell(stream));
            }
        });
    }
}

/// Whom the header names, a line feed, and then what came after it.
fn tell(mut stream: TcpStream) -> io::Result<()> {
    let mut start = vec![0; 16];
    stream.read_exact(&mut start)?;
    let length = usize::from(u16::from_be_bytes([start[14], start[15]]));
    start.resize(16 + length, 0);
    stream.read_exact(&mut start[16..])?;
    let header =
        Header::try_from(start.as_slice()).map_err(|error| io::Error::other(format!("{error:?}")))?;
    let (client, destination): (SocketAddr, SocketAddr) = match header.addresses {
        Addresses::IPv4(it) => {
            ((it.source_address, it.source_port).into(), (it.destination_address, it.destination_port).into())
        }
        Addresses::IPv6(it) => {
            ((it.source_address, it.source_port).into(), (it.destination_address, it.destination_port).into())
        }
        other => return Err(io::Error::other(format!("{other:?}"))),
    };
    let identity = header.tlvs().filter_map(Result::ok).find(|value| value.kind == IDENTITY);
    let identity = identity.map(|value| String::from_utf8_lossy(&value.value).into_owned());
    let told = json!({ "client": client.ip().to_string(), "to": destination.to_string(), "peer": identity });
    stream.write_all(format!("{told}\n").as_bytes())?;
    io::copy(&mut stream.try_clone()?, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

/// What the application was told, and what came back of the bytes.
fn ask(from: &Place, target: SocketAddr) -> io::Result<(Value, String)> {
    let answer = from.run(move || {
        let mut stream = Dial::to(target).connect()?;
        stream.write_all(b"after the header")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    })?;
    let (told, rest) = answer.split_once('\n').ok_or_else(|| io::Error::other(answer.clone()))?;
    Ok((serde_json::from_str(told)?, rest.to_owned()))
}

#[track_caller]
fn assert_told(mesh: &Mesh, family: usize, asked: SocketAddr) {
    let (told, rest) = ask(mesh.pod("client"), asked).unwrap();
    let client = mesh.pod("client").ips()[family].to_string();
    let expected = json!({ "client": client, "to": asked.to_string(), "peer": Mesh::identity("client") });
    assert_eq!((told, rest.as_str()), (expected, "after the header"));
}

/// Catches: a header that is missing, late, or wrong of address, port or identity; one that anybody can send past us.
#[test]
fn who_ends_tunnels_itself_is_told_who_asks_for_what() {
    let way = json!({ "destination": "default/way.default.example", "hboneMtlsPort": 15008 });
    let service = |name: &str, vips: Value, endpoint: &str| {
        json!({
            "name": name, "namespace": "default", "hostname": format!("{name}.default.example"), "vips": vips,
            "ports": { "80": PORT }, "endpoints": { "one": { "workloadUid": Mesh::uid(endpoint), "port": {} } },
        })
    };
    let mut web = service("web", json!(["/10.96.0.30", "/fd96::30"]), "server");
    web["waypoint"] = way;
    let mesh = plan(&["client stranger", "way server"], "PROXY")
        .pod("stranger", |pod| (pod.enrolled, pod.in_state) = (false, false))
        .service(web)
        .service(service("way", json!([]), "way"))
        .start()
        .unwrap();
    serve(mesh.pod("way"));
    for family in FAMILIES {
        assert_told(&mesh, family, mesh.address("way", family, PORT));
        // As a waypoint it is asked for an address that is not its own.
        let vip: IpAddr = ["10.96.0.30", "fd96::30"][family].parse().unwrap();
        assert_told(&mesh, family, SocketAddr::new(vip, 80));
        let past = mesh.address("way", family, TUNNEL_PORT);
        ask(mesh.pod("stranger"), past).expect_err("nobody speaks for others past the tunnel");
    }
    let output = mesh.daemon(1).command(&["explain", "default/client", "default/way:8080"]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("at 127.0.0.1:15088, which is told by the PROXY protocol"), "{said}");
}

/// Catches: a neighbour's connection without the header, and a policy that is not asked about the port that was named.
#[test]
fn a_neighbour_past_the_network_is_announced_alike_and_policy_decides_on_what_was_asked() {
    let denial = json!({
        "name": "no-8081", "namespace": "default", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "destinationPorts": [8081] }]]],
    });
    let mesh = plan(&["client way"], "PROXY").setting("sameNode", "direct").policy(denial).start().unwrap();
    serve(mesh.pod("way"));
    for family in FAMILIES {
        assert_told(&mesh, family, mesh.address("way", family, PORT));
        ask(mesh.pod("client"), mesh.address("way", family, 8081)).expect_err("the port is denied");
    }
    eventually("the denial is told", || {
        let refused = mesh.daemon(1).admin("/refusals?reason=denied_by_policy").unwrap();
        (!refused.as_array().unwrap().is_empty()).then_some(())
    });
}

//! What Istio's proxy was recorded to send is understood, and answered as it answers: byte for byte, since the frames of
//! one connection depend on all before them.

use http::StatusCode;
use rustls::version;
use serde_json::Value;
use ztunnel_tunnel::{Request, Tunnel, TunnelSettings};

use crate::{
    authority::{Authority, Certificates, id},
    mesh::Server,
    raw::{self, Frame, Raw},
};

const CLIENT: &str = include_str!("../fixtures/hbone-client.connect.json");
const SERVER: &str = include_str!("../fixtures/hbone-server.connection.json");

/// What the recorded server said of itself.
const BAGGAGE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=s2,\
                       service.name=s2,service.version=v1,cloud.region=r1,cloud.availability_zone=z2";

async fn connection() -> (Server, Raw) {
    let authority = Authority::new("mesh");
    let svids = Certificates::new([authority.svid(&id("server"))]);
    let server = Server::new(Tunnel::new(TunnelSettings::default(), svids)).await;
    let leaf = authority.leaf(&[&id("client").to_string()], |_| {});
    let raw = Raw::connect(server.address, raw::config(&version::TLS13, Some(leaf), &[b"h2"])).await;
    (server, raw)
}

/// `...` stands for the five bytes before it, again and again, to the end of the frame.
fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.trim_end_matches('.');
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let mut bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    let length = 9 + usize::from(bytes[1]) * 256 + usize::from(bytes[2]);
    while bytes.len() < length {
        bytes.push(bytes[bytes.len() - 5]);
    }
    bytes
}

fn header<'a>(frame: &'a Value, name: &str) -> &'a str {
    let mut headers = frame["headers"].as_array().unwrap().iter();
    headers.find(|header| header[0] == name).map_or("", |header| header[1].as_str().unwrap())
}

#[tokio::test]
async fn its_requests_are_understood() {
    let recorded: Value = serde_json::from_str(CLIENT).unwrap();
    let frames = recorded["frames"].as_array().unwrap();
    for connection_number in [1, 2, 3, 6] {
        let (mut server, mut raw) = connection().await;
        let of_this = frames.iter().filter(|frame| frame["connection"] == connection_number);
        let mut understood = 0;
        for frame in of_this {
            raw.send(&bytes(frame["frame_hex"].as_str().unwrap())).await;
            let request = server.request().await;
            assert_eq!(request.authority(), header(frame, ":authority"));
            assert_eq!(request.headers().baggage, header(frame, "baggage"));
            assert_eq!(request.headers().forwarded, header(frame, "forwarded"));
            assert_eq!(request.headers().traceparent, header(frame, "traceparent"));
            understood += 1;
        }
        assert!(understood > 0, "nothing recorded on connection {connection_number}");
    }
}

/// The decision is the proxy's, not the tunnel's: here it is made as it was recorded.
fn decide(request: Request, recorded: &Value) -> Option<ztunnel_tunnel::TunnelStream> {
    let case = recorded["case"].as_str().unwrap();
    let number = case.split('.').next().unwrap();
    let status = match number {
        "6" | "7" | "13" => StatusCode::BAD_REQUEST,
        "8" | "9" | "12" | "14" => StatusCode::SERVICE_UNAVAILABLE,
        "10" => StatusCode::UNAUTHORIZED,
        _ => return Some(request.accept(BAGGAGE).unwrap()),
    };
    request.refuse(status);
    None
}

#[tokio::test]
async fn our_answers_are_its_answers() {
    let recorded: Value = serde_json::from_str(SERVER).unwrap();
    let (mut server, mut raw) = connection().await;
    let mut open = Vec::new();
    for case in recorded["cases"].as_array().unwrap() {
        let name = case["case"].as_str().unwrap();
        raw.send(&bytes(case["request"].as_str().unwrap())).await;
        // Not a proper CONNECT: the tunnel itself answers.
        if !["11.", "15.", "17."].iter().any(|number| name.starts_with(number)) {
            let refused_or_open = if name.starts_with("13b") {
                Some(server.request().await.accept(BAGGAGE).unwrap())
            } else {
                decide(server.request().await, case)
            };
            open.extend(refused_or_open);
        }
        let stream = u32::try_from(case["stream"].as_u64().unwrap()).unwrap();
        for answer in case["answer"].as_array().unwrap() {
            let frame = raw.frame_of(stream).await;
            assert_eq!(hex(&frame), answer.as_str().unwrap(), "{name}");
        }
    }
    assert_eq!(open.len(), 9, "the recorded server accepted nine");
}

fn hex(frame: &Frame) -> String {
    let mut bytes = u32::try_from(frame.payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([frame.kind, frame.flags]);
    bytes.extend(frame.stream.to_be_bytes());
    bytes.extend(&frame.payload);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

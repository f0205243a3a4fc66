//! Profiles, read back by a reader of protocol buffers that is not the writer's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use testkit::{
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use super::{PORT, mesh};
use crate::held::Held;

/// The parts of perftools.profiles.Profile that a reader cannot do without.
#[derive(Clone, PartialEq, prost::Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    /// The names of all functions that are on a sampled stack. A reference to nowhere fails.
    fn functions(&self) -> Vec<&str> {
        let ids = self.sample.iter().flat_map(|sample| &sample.location_id);
        ids.map(|id| {
            let location = self.location.iter().find(|location| location.id == *id).expect("a location");
            let function = location.line.first().expect("a line").function_id;
            let function = self.function.iter().find(|own| own.id == function).expect("a function");
            self.string_table[usize::try_from(function.name).unwrap()].as_str()
        })
        .collect()
    }
}

/// Catches: a profile that no tool can read, of nothing, or that breaks the connections that go on meanwhile.
#[test]
fn a_processor_profile_is_taken_while_traffic_goes_on() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let target = mesh.address("server", 0, PORT);
    let enough = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&enough);
    let traffic = mesh.pod("client").spawn(move || {
        let (message, give_up) = (vec![7; 256 << 10], Instant::now() + Duration::from_secs(60));
        while !until.load(Ordering::Relaxed) && Instant::now() < give_up {
            Dial::to(target).exchange(&message).expect("a connection broke while the profile was taken");
        }
    });
    let daemon = mesh.daemon(1);
    let (status, body) = daemon.over_socket("GET", "/debug/pprof/profile?seconds=3&frequency=200").unwrap();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    enough.store(true, Ordering::Relaxed);
    traffic.join().unwrap();
    let profile = <Profile as prost::Message>::decode(body.as_slice()).unwrap();
    assert_eq!(profile.string_table[0], "");
    assert_eq!((profile.period, profile.duration_nanos), (5_000_000, 3_000_000_000));
    assert_eq!(profile.sample_type.len(), 2);
    assert!(!profile.sample.is_empty(), "nothing was running");
    assert!(profile.sample.iter().all(|sample| sample.value.len() == 2 && sample.value[0] > 0));
    let functions = profile.functions();
    assert!(functions.iter().any(|name| name.contains("tokio")), "no known function: {functions:?}");
    for wrong in ["seconds=0", "seconds=61", "seconds=x", "frequency=5000", "hertz=1"] {
        let status = daemon.over_socket("GET", &format!("/debug/pprof/profile?{wrong}")).unwrap().0;
        assert_eq!(status, 400, "{wrong}");
    }
}

/// Catches: a heap profile of nothing, or one that is there without being asked for.
#[test]
fn a_heap_profile_tells_where_memory_was_allocated() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let daemon = mesh.daemon(1);
    assert_eq!(daemon.over_socket("GET", "/debug/pprof/heap").unwrap().0, 501);
    assert_eq!(daemon.over_loopback("POST", "/debug/pprof/heap/profiling?activate=true").unwrap().0, 403);
    assert_eq!(daemon.over_socket("POST", "/debug/pprof/heap/profiling?activate=true").unwrap().0, 200);
    let held: Vec<_> =
        (0..60).map(|_| Held::open(mesh.pod("client"), mesh.address("server", 0, PORT))).collect();
    let profile = eventually("something was sampled", || {
        let (status, body) = daemon.over_socket("GET", "/debug/pprof/heap").unwrap();
        assert_eq!(status, 200);
        let profile = <Profile as prost::Message>::decode(body.as_slice()).unwrap();
        (!profile.sample.is_empty()).then_some(profile)
    });
    assert!(profile.sample.iter().all(|sample| sample.value.len() == 2 && sample.value[1] > 0));
    assert!(!profile.functions().is_empty());
    drop(held);
    assert_eq!(daemon.over_socket("POST", "/debug/pprof/heap/profiling?activate=false").unwrap().0, 200);
    assert_eq!(daemon.over_socket("GET", "/debug/pprof/heap").unwrap().0, 501);
}

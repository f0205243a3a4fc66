//! Against a server on loopback that counts what it is asked.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use hickory_resolver::{
    config::NameServerConfig,
    proto::{
        op::{Message, ResponseCode},
        rr::{RData, Record, RecordType},
    },
};
use tokio::net::UdpSocket;

use super::*;

#[derive(Default)]
struct Server {
    asked: AtomicUsize,
}

impl Server {
    /// `many.example` has seventy addresses, `one.example` one, `silent.example` no answer; there is no other.
    async fn start(settings: NameSettings) -> (Arc<Self>, Names) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = Arc::<Self>::default();
        tokio::spawn(Arc::clone(&server).answer(socket));
        let resolver = resolver(config(address), ResolverOpts::default(), &settings).unwrap();
        (server, Names::new(Ok(resolver), settings))
    }

    async fn answer(self: Arc<Self>, socket: UdpSocket) {
        let mut bytes = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut bytes).await.unwrap();
            let request = Message::from_vec(&bytes[..length]).unwrap();
            self.asked.fetch_add(1, Relaxed);
            if let Some(response) = response(&request) {
                socket.send_to(&response.to_vec().unwrap(), client).await.unwrap();
            }
        }
    }
}

fn config(address: SocketAddr) -> ResolverConfig {
    let mut server = NameServerConfig::udp(address.ip());
    server.connections[0].port = address.port();
    ResolverConfig::from_parts(None, vec!["search.example".parse().unwrap()], vec![server])
}

fn response(request: &Message) -> Option<Message> {
    let query = request.queries[0].clone();
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    let count = match query.name().to_ascii().as_str() {
        "silent.example." => return None,
        "many.example." => 70,
        "one.example." => 1,
        _ => 0,
    };
    if count == 0 {
        response.metadata.response_code = ResponseCode::NXDomain;
    }
    if query.query_type() == RecordType::A {
        let ips = (1..=count).map(|last| Ipv4Addr::new(192, 0, 2, last));
        response.add_answers(ips.map(|ip| Record::from_rdata(query.name().clone(), 0, RData::A(ip.into()))));
    }
    response.add_query(query);
    Some(response)
}

/// Would break if each connection asked anew, or if a crowd's first question were a crowd of questions.
#[tokio::test]
async fn a_crowd_asks_once_and_what_was_answered_is_remembered() {
    let (server, names) = Server::start(NameSettings::default()).await;
    let crowd = futures_of(&names, "one.example", 50);
    for answer in crowd {
        assert_eq!(*answer.await.unwrap().unwrap(), [IpAddr::from([192, 0, 2, 1])]);
    }
    let asked = server.asked.load(Relaxed);
    assert!(asked <= 2, "one question for each family, not {asked}");
    names.addresses("one.example").await.unwrap();
    assert_eq!(server.asked.load(Relaxed), asked, "a lifetime of zero is stretched to a second");
    assert!(names.0.under_way.lock().is_empty(), "nothing is left of what has ended");
}

/// Would break if a name that does not exist were asked for with each connection.
#[tokio::test]
async fn what_does_not_exist_is_remembered_too() {
    let (server, names) = Server::start(NameSettings::default()).await;
    let error = names.addresses("nobody.example").await.unwrap_err();
    assert_eq!(error, NameError::NotFound("nobody.example".into()));
    let asked = server.asked.load(Relaxed);
    assert_eq!(names.addresses("nobody.example").await.unwrap_err(), error);
    assert_eq!(server.asked.load(Relaxed), asked);
}

/// Would break if a silent server, or many names at once, held connections or memory without end.
#[tokio::test]
async fn silence_ends_at_the_deadline_and_only_so_many_names_wait() {
    let settings =
        NameSettings { deadline: Duration::from_millis(50), at_once: 1, ..NameSettings::default() };
    let (_server, names) = Server::start(settings).await;
    let first = futures_of(&names, "silent.example", 1).remove(0);
    tokio::task::yield_now().await;
    assert_eq!(names.addresses("one.example").await.unwrap_err(), NameError::TooMany);
    assert_eq!(first.await.unwrap().unwrap_err(), NameError::Deadline("silent.example".into()));
    assert_eq!(names.addresses("one.example").await.unwrap().len(), 1, "its place is free again");
}

#[tokio::test]
async fn a_long_answer_is_cut_and_nonsense_is_no_name() {
    let (_server, names) = Server::start(NameSettings::default()).await;
    assert_eq!(names.addresses("many.example").await.unwrap().len(), NameSettings::default().addresses);
    let error = names.addresses("not a..name").await.unwrap_err();
    assert_eq!(error.reason(), "host_name_failed");
}

/// Would break if a machine without DNS could not run a daemon.
#[tokio::test]
async fn without_a_configuration_look_ups_fail_and_say_why() {
    let names = Names::open(Path::new("/nonexistent/resolv.conf"), NameSettings::default());
    let error = names.addresses("one.example").await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/resolv.conf"), "{error}");
}

fn futures_of(
    names: &Names,
    host: &'static str,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<Arc<[IpAddr]>, NameError>>> {
    let ask = |names: Names| async move { names.addresses(host).await };
    (0..count).map(|_| tokio::spawn(ask(names.clone()))).collect()
}

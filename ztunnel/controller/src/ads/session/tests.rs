//! A stream in time: who answers, who does not, and whose pod is gone.

use std::net::{IpAddr, Ipv4Addr};

use futures::stream;
use kubernetes::Own;
use proto::{ADDRESS_TYPE, tonic::Code, workload::Workload};
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::{
    book::{Resource, Update},
    convert::cluster,
    facts::Pod,
    inventory::{Object, Sort, Told},
    server::Crowd,
};

/// With one workload, and one daemon.
fn shared() -> Shared {
    let book = Book::default();
    let workload = Workload { uid: "a".into(), ..Workload::default() };
    book.publish(Update { present: vec![(Kind::Address, Resource::workload(workload))], removed: vec![] });
    let own = Own { namespace: "mesh".into() };
    let mut inventory = Inventory::new(cluster(), own.clone());
    let pod = json!({ "metadata": { "name": "ztunnel-1", "namespace": "mesh", "uid": "1" }, "spec": { "containers": [] } });
    let pod = Pod::of(serde_json::from_value(pod).unwrap(), &own);
    for sort in Sort::ALL {
        inventory.take(Told::All(sort, Vec::new()));
    }
    inventory.take(Told::Applied(Object::Pod(pod)));
    Shared {
        book: Arc::new(book),
        counters: Arc::default(),
        large: Arc::new(Semaphore::new(1)),
        inventory: Arc::new(RwLock::new(inventory)),
    }
}

fn request(nonce: &str) -> DeltaDiscoveryRequest {
    let (type_url, response_nonce) = (ADDRESS_TYPE.to_owned(), nonce.to_owned());
    DeltaDiscoveryRequest { type_url, response_nonce, ..DeltaDiscoveryRequest::default() }
}

/// How the stream of a daemon ends that says all this at once, and then nothing; when; and whether its connection is cut.
async fn run(
    shared: Shared,
    uid: &str,
    said: Vec<DeltaDiscoveryRequest>,
) -> (Result<(), Code>, Duration, bool) {
    let guest = Crowd::default().admit(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let caller = Caller { pod: Some("ztunnel-1".into()), pod_uid: Some(uid.to_owned()), node: None };
    // The first response is taken, as a connection does; nobody takes what comes after.
    let (outgoing, mut responses) = mpsc::channel(1);
    let began = Instant::now();
    let session = Session::new(shared, Arc::new(caller), guest.clone());
    let asking = stream::iter(said).then(|request| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        request
    });
    let ended = tokio::select! {
        ended = session.run(Box::pin(asking.chain(stream::pending())), &outgoing) => ended,
        () = async {
            responses.recv().await;
            std::future::pending::<()>().await;
        } => unreachable!(),
    };
    let is_cut = timeout(Duration::ZERO, guest.is_cut()).await.is_ok();
    (ended.map_err(|status| status.code()), began.elapsed(), is_cut)
}

/// Fails if who takes nothing could keep what waits for it for longer than its patience.
#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_cut_off() {
    let shared = shared();
    let (ended, after, is_cut) = run(shared.clone(), "1", vec![request("")]).await;
    assert_eq!((ended, is_cut), (Err(Code::DeadlineExceeded), true));
    assert!(after >= PATIENCE && after < PATIENCE + Duration::from_secs(1), "{after:?}");
    assert_eq!(shared.counters.unanswered.load(Ordering::Relaxed), 1);
    assert_eq!(shared.counters.streams.load(Ordering::Relaxed), 0);
    let (ended, _, is_cut) = run(shared, "1", vec![request(""), request("another")]).await;
    assert_eq!((ended, is_cut), (Err(Code::DeadlineExceeded), true), "that was no answer");
}

/// Fails if who answers were cut off, or never had its token looked at again.
#[tokio::test(start_paused = true)]
async fn who_answers_stays_for_its_time() {
    let (ended, after, is_cut) = run(shared(), "1", vec![request(""), request("1")]).await;
    assert_eq!((ended, is_cut), (Ok(()), false));
    assert!(after >= LONGEST && after <= LONGEST * 3 / 2, "{after:?}");
}

/// Fails if a stream went on for a pod that is gone, or is another one of that name.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_pod() {
    let (ended, after, _) = run(shared(), "2", vec![request(""), request("1")]).await;
    assert_eq!(ended, Err(Code::Unauthenticated));
    assert!(after <= LOOK + Duration::from_secs(1), "{after:?}");
}

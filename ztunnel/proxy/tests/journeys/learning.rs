//! A mesh that is learned of on demand, and forgotten when it is not needed.

use std::{
    io::ErrorKind,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use model::{
    SharedSnapshot, Snapshot, Workload, WorkloadUid,
    demand::{Demand, Learning},
    workload::Protocol,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::mesh::{Mesh, OUTSIDE, Options, S1, WEB_VIP, at, identity, ip, uid};

const SILENT: &str = "10.0.3.10";

type Change = Box<dyn Fn(&mut Snapshot) + Send + Sync>;

/// A control plane that tells of one address what it knows, once it is asked.
struct Knower {
    of: IpAddr,
    telling: Change,
    snapshot: OnceLock<Arc<SharedSnapshot>>,
    asked: Mutex<Vec<IpAddr>>,
}

impl std::fmt::Debug for Knower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knower").field("of", &self.of).finish_non_exhaustive()
    }
}

impl Demand for Knower {
    fn local<'a>(&'a self, _uid: &'a WorkloadUid) -> Learning<'a> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn destination<'a>(&'a self, _source: &'a Workload, ip: IpAddr) -> Learning<'a> {
        self.asked.lock().unwrap().push(ip);
        if let (true, Some(shared)) = (ip == self.of, self.snapshot.get()) {
            let mut snapshot = (*shared.load()).clone();
            (self.telling)(&mut snapshot);
            shared.publish(snapshot);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn host<'a>(&'a self, _host: &'a str, _namespace: &'a str) -> Learning<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

async fn mesh(of: &str, telling: Change) -> (Mesh, Arc<Knower>) {
    let (snapshot, asked) = Default::default();
    let knower = Arc::new(Knower { of: ip(of), telling, snapshot, asked });
    let mut options = Options::default();
    options.settings.connect_deadline = Duration::from_millis(900);
    options.settings.outliers.failures = u32::MAX;
    options.settings.demand = Some(Arc::clone(&knower) as Arc<dyn Demand>);
    let mesh = Mesh::with(options).await;
    knower.snapshot.set(Arc::clone(&mesh.snapshot)).unwrap();
    (mesh, knower)
}

fn workload(name: &str, address: Option<&str>, protocol: Protocol) -> Workload {
    let ips = address.into_iter().map(ip).collect();
    let mut workload = Workload::new(uid(name), name, identity(name).parse().unwrap(), ips);
    workload.protocol = protocol;
    workload
}

fn behind_web(mut workload: Workload) -> Workload {
    workload.services = [("default/web.default.svc.cluster.local".parse().unwrap(), [].into())].into();
    workload
}

async fn serve(listener: TcpListener, name: u8) {
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.write_u8(name).await.unwrap();
    }
}

/// Would break if an address that DNS gave for an endpoint were taken for an outsider's without asking who has it: a mesh
/// workload would get plaintext.
#[tokio::test]
async fn an_address_of_a_host_name_is_learned_before_it_is_connected_to() {
    let telling = |snapshot: &mut Snapshot| {
        snapshot.insert_workload(workload("secret", Some(OUTSIDE), Protocol::Hbone));
    };
    let (mesh, knower) = mesh(OUTSIDE, Box::new(telling)).await;
    mesh.change(|snapshot| {
        snapshot.remove_workload(&uid("s1"));
        let mut named = behind_web(workload("named", None, Protocol::Tcp));
        named.hostname = "outside.example".into();
        snapshot.insert_workload(named);
    });
    tokio::spawn(serve(mesh.net.listen(at(OUTSIDE, 8080)).await, 7));
    let mut client = mesh.connect(at(WEB_VIP, 80)).await;
    let answer = client.read_u8().await.map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::ConnectionReset), "it was reached in clear");
    assert!(knower.asked.lock().unwrap().contains(&ip(OUTSIDE)));
}

/// Would break if what is given up while an endpoint is tried were not learned again for the next.
#[tokio::test]
async fn what_is_given_up_between_two_attempts_is_learned_again() {
    let kept = Arc::new(OnceLock::new());
    let known = Arc::clone(&kept);
    let key = "default/web.default.svc.cluster.local".parse().unwrap();
    let telling = move |snapshot: &mut Snapshot| {
        let service: &Arc<model::service::Service> = known.get().unwrap();
        snapshot.insert_service((**service).clone());
    };
    let (mesh, knower) = mesh(WEB_VIP, Box::new(telling)).await;
    kept.set(Arc::clone(mesh.snapshot.load().service(&key).unwrap())).unwrap();
    mesh.change(|snapshot| {
        snapshot.insert_workload(behind_web(workload("silent", Some(SILENT), Protocol::Hbone)));
    });
    mesh.net.swallow(at(SILENT, 15008));
    tokio::spawn(serve(mesh.net.listen(at(S1, 8080)).await, 1));
    for _ in 0..40 {
        let before = knower.asked.lock().unwrap().len();
        let mut client = mesh.connect(at(WEB_VIP, 80)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        mesh.change(|snapshot| snapshot.remove_service(&key));
        assert_eq!(client.read_u8().await.map_err(|error| error.kind()), Ok(1));
        if knower.asked.lock().unwrap().len() == before + 2 {
            return;
        }
    }
    panic!("the silent endpoint was never chosen");
}

//! What follows from what the API server, the plugin and a search have told.

use kubernetes::k8s_openapi::serde_json::from_value;
use serde_json::json;
use ztunnel_cni::wire::Command;

use super::*;

fn book() -> Arc<Book> {
    Book::new("Kubernetes".to_owned(), Own { namespace: "ztunnel-system".to_owned() }, None)
}

fn pod(name: &str, ip: Option<&str>) -> Pod {
    from_value(json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}") },
        "spec": { "containers": [], "serviceAccountName": "cashier" },
        "status": { "phase": "Running", "podIP": ip },
    }))
    .unwrap()
}

fn shop(mode: &str) -> KnownNamespace {
    KnownNamespace { name: "shop".to_owned(), labels: [(DATAPLANE_MODE.to_owned(), mode.to_owned())].into() }
}

fn request(name: &str, container: &str) -> Request {
    Request {
        command: Command::Add,
        container: container.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: Some(format!("uid-{name}")),
        addresses: vec!["10.1.1.7".parse().unwrap()],
    }
}

fn netns(kind: &str) -> File {
    File::open(format!("/proc/self/ns/{kind}")).unwrap()
}

fn told(pods: Vec<Pod>) -> Arc<Book> {
    let book = book();
    book.told_of_pods(Change::Complete(pods));
    book.told_of_namespaces(Change::Complete(vec![shop("ambient")]));
    book
}

fn listed(book: &Book) -> Vec<String> {
    book.pods().borrow().iter().map(|pod| pod.uid.to_string()).collect()
}

#[test]
fn the_plugin_is_told_nothing_before_pod_and_namespace_are_known() {
    let book = book();
    let request = request("till", "c1");
    assert_eq!(book.standing(&request), Standing::Unknown);
    book.told_of_pods(Change::Complete(vec![pod("till", None)]));
    assert_eq!(book.standing(&request), Standing::Unknown, "its namespace's label is not known");
    assert!(book.sought().is_none());
    book.told_of_namespaces(Change::Complete(Vec::new()));
    assert_eq!(book.standing(&request), Standing::Unknown);
    book.told_of_namespaces(Change::Applied(shop("none")));
    assert_eq!(book.standing(&request), Standing::Outside);
    book.told_of_namespaces(Change::Applied(shop("ambient")));
    assert_eq!(book.standing(&request), Standing::Inside { uid: "uid-till".to_owned() });
    let reborn = Request { uid: Some("uid-other".to_owned()), ..request };
    assert_eq!(book.standing(&reborn), Standing::Unknown, "a StatefulSet's next pod of this name");
}

#[test]
fn a_pod_is_listed_where_the_plugin_says_until_its_label_goes() {
    let book = told(vec![pod("till", None)]);
    let local = book.place("uid-till", &request("till", "c1"), netns("net")).unwrap();
    assert_eq!(**book.pods().borrow(), std::slice::from_ref(&local));
    assert_eq!(local.service_account.as_deref(), Some("cashier"));
    let again = book.place("uid-till", &request("till", "c1"), netns("net")).unwrap();
    assert_eq!(again, local, "the same namespace keeps its descriptor");
    book.told_of_namespaces(Change::Applied(shop("none")));
    assert!(listed(&book).is_empty());
    assert!(!local.netns.exists(), "the namespace of a pod that left is held on to");
}

/// If a late DEL of an older sandbox counted, a pod would be without the mesh though it runs.
#[test]
fn only_the_sandbox_that_it_has_takes_a_pod_away() {
    let book = told(vec![pod("till", None)]);
    book.place("uid-till", &request("till", "new"), netns("net")).unwrap();
    book.leave(&request("till", "old"));
    assert_eq!(listed(&book).len(), 1);
    book.leave(&request("till", "new"));
    assert!(listed(&book).is_empty());
}

/// Sandboxes that ended are taken down again while their pod runs on, and a home that was searched for names no sandbox.
#[test]
fn a_pod_that_was_found_is_not_taken_away_by_any_sandbox() {
    let book = told(vec![pod("till", Some("10.1.1.7"))]);
    let sought = book.sought().unwrap();
    book.found(&sought, [("uid-till".to_owned(), Ok(netns("net")))].into());
    book.leave(&request("till", "old"));
    assert_eq!(listed(&book).len(), 1);
}

/// If DEL and the next ADD are lost, the pod runs in plaintext elsewhere, and is shown as enrolled.
#[test]
fn a_pod_whose_addresses_become_others_than_the_plugin_s_is_looked_for() {
    let book = told(vec![pod("till", Some("10.1.1.6"))]);
    let placed = book.place("uid-till", &request("till", "c1"), netns("net")).unwrap();
    assert!(book.sought().unwrap().is_empty(), "the API server is behind, as it is in every restart");
    book.told_of_pods(Change::Applied(pod("till", Some("10.1.1.7"))));
    assert!(book.sought().unwrap().is_empty(), "it has caught up");
    book.told_of_pods(Change::Applied(pod("till", Some("10.1.1.8"))));
    let sought = book.sought().unwrap();
    assert_eq!(sought[0].ips, ["10.1.1.8".parse::<IpAddr>().unwrap()]);
    book.found(&sought, [("uid-till".to_owned(), Err("not there yet".to_owned()))].into());
    assert_eq!(
        **book.pods().borrow(),
        std::slice::from_ref(&placed),
        "served until it is known to be elsewhere"
    );
    book.found(&sought, [("uid-till".to_owned(), Ok(netns("mnt")))].into());
    let moved = book.pods().borrow()[0].clone();
    assert_eq!(moved.ips, sought[0].ips);
    assert_ne!(moved.netns_identity, placed.netns_identity);
}

#[test]
fn a_pod_that_is_found_where_the_plugin_placed_it_is_not_looked_for_again() {
    let book = told(vec![pod("till", None)]);
    let placed = book.place("uid-till", &request("till", "c1"), netns("net")).unwrap();
    book.told_of_pods(Change::Applied(pod("till", Some("10.1.1.8"))));
    let sought = book.sought().unwrap();
    book.found(&sought, [("uid-till".to_owned(), Ok(netns("net")))].into());
    assert_eq!(**book.pods().borrow(), [placed]);
    assert!(book.sought().unwrap().is_empty());
}

/// A watch that fails must stop neither the pods that are none of the mesh's, nor the next daemon, which may be its cure.
#[test]
fn of_a_pod_that_nobody_told_of_the_namespace_decides() {
    let book = told(Vec::new());
    let plain = KnownNamespace { name: "plain".to_owned(), labels: BTreeMap::new() };
    book.told_of_namespaces(Change::Applied(plain));
    let of = |namespace: &str| Request { namespace: namespace.to_owned(), ..request("till", "c1") };
    for namespace in ["ztunnel-system", "kube-system"] {
        assert_eq!(book.standing(&of(namespace)), Standing::Outside);
    }
    let from_a_file = Request { uid: Some("0123456789abcdef0123456789abcdef".to_owned()), ..of("shop") };
    assert_eq!(book.standing(&from_a_file), Standing::Outside, "it is none of the API server's");
    assert!(book.may_be_in_mesh(&of("shop")) && !book.may_be_in_mesh(&of("plain")));
    assert!(book.may_be_in_mesh(&of("new")), "it may have been made just now");
    let mut own_label = pod("other", None);
    own_label.metadata.namespace = Some("plain".to_owned());
    own_label.metadata.labels = Some([(DATAPLANE_MODE.to_owned(), "ambient".to_owned())].into());
    book.told_of_pods(Change::Applied(own_label));
    assert!(book.may_be_in_mesh(&of("plain")), "it may be like the other");
    book.failed("the API server is away".to_owned());
    assert!(!book.may_be_in_mesh(&of("new")), "nobody would ever tell");
    assert!(book.may_be_in_mesh(&of("shop")));
}

#[test]
fn pods_that_run_are_sought_and_told_until_they_are_found() {
    let book = told(vec![pod("till", Some("10.1.1.7")), pod("not-started", None)]);
    let sought = book.sought().unwrap();
    assert_eq!(sought.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(), ["uid-till"]);
    let problem = |book: &Book| book.unplaced().borrow().values().next().map(|pod| pod.problem.clone());
    assert!(problem(&book).unwrap().contains("no process"));
    book.found(&sought, [("uid-till".to_owned(), Err("a decoy".to_owned()))].into());
    assert_eq!(problem(&book).as_deref(), Some("a decoy"));
    book.found(&sought, [("uid-till".to_owned(), Ok(netns("net")))].into());
    assert_eq!((problem(&book), listed(&book).len()), (None, 1));
    assert!(book.sought().unwrap().is_empty());
    // Its sandbox was made anew: what was found is another's, or nobody's.
    book.told_of_pods(Change::Applied(pod("till", Some("10.1.1.8"))));
    assert!(listed(&book).is_empty());
    assert_eq!(book.sought().unwrap()[0].ips, ["10.1.1.8".parse::<IpAddr>().unwrap()]);
    book.told_of_pods(Change::Deleted(pod("till", Some("10.1.1.7"))));
    assert!(listed(&book).is_empty());
}

/// An API server that is away or comes back says nothing of who left meanwhile until it has told all.
#[test]
fn a_watch_that_failed_takes_nobody_away_and_a_new_list_does() {
    let book = told(vec![pod("till", None), pod("gone", None)]);
    for name in ["till", "gone"] {
        book.place(&format!("uid-{name}"), &request(name, "c1"), netns("net")).unwrap();
    }
    book.told_of_pods(Change::Complete(vec![pod("till", None)]));
    assert_eq!(listed(&book), ["Kubernetes//Pod/shop/till"]);
}

#[test]
fn the_namespaces_whose_pods_wait_are_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("enrolled");
    let book = Book::new("Kubernetes".to_owned(), Own::default(), Some(path.clone()));
    book.told_of_pods(Change::Complete(Vec::new()));
    assert!(!path.exists(), "half the truth is none");
    book.told_of_namespaces(Change::Complete(vec![shop("ambient")]));
    let written = || EnrolledNamespaces::read(&path).unwrap().namespaces;
    assert_eq!(written(), ["shop".to_owned()].into());
    let mut own_label = pod("till", None);
    own_label.metadata.namespace = Some("bazaar".to_owned());
    own_label.metadata.labels = Some([(DATAPLANE_MODE.to_owned(), "ambient".to_owned())].into());
    book.told_of_pods(Change::Applied(own_label));
    assert!(written().contains("bazaar"));
    book.told_of_namespaces(Change::Applied(shop("none")));
    assert!(!written().contains("shop"));
}

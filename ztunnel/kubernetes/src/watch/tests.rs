//! The watch against a test API server: everything that can happen to a watch, and that nothing is lost by it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use testkit::api_server::{ApiServer, Fault};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "nodeName": node, "containers": [{ "name": "app" }] },
    })
}

async fn client(server: &ApiServer) -> Client {
    let file = tempfile::NamedTempFile::new().unwrap();
    server.write_kubeconfig(file.path(), "token").unwrap();
    crate::connect(Some(file.path())).await.unwrap()
}

/// What is known after all that was told so far.
struct Known {
    changes: Pin<Box<dyn Stream<Item = Change<String>> + Send>>,
    names: BTreeSet<String>,
    lists: usize,
    troubles: Vec<Reason>,
}

impl Known {
    async fn of(server: &ApiServer, selection: Selection) -> Self {
        let api: Api<Pod> = Api::all(client(server).await);
        let changes = Box::pin(watch(api, selection, |pod| pod.name_any()));
        Self { changes, names: BTreeSet::new(), lists: 0, troubles: Vec::new() }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let give_up = Instant::now() + DEADLINE;
        while !holds(self) {
            let in_time = Instant::now() < give_up;
            assert!(in_time, "never came: {what}; known: {:?}, troubles: {:?}", self.names, self.troubles);
            let Ok(change) = tokio::time::timeout(POLL, self.changes.next()).await else { continue };
            self.take(change.unwrap());
        }
    }

    fn take(&mut self, change: Change<String>) {
        match change {
            Change::Complete(names) => {
                self.names = names.into_iter().collect();
                self.lists += 1;
            }
            Change::Applied(name) => drop(self.names.insert(name)),
            Change::Deleted(name) => drop(self.names.remove(&name)),
            Change::Failed(trouble) => self.troubles.push(trouble.reason),
        }
    }

    /// A watch begins only when somebody waits for what it tells.
    async fn until_watching(&mut self, server: &ApiServer) {
        self.until("the watch stands", |_| server.watches() == 1).await;
    }

    async fn until_known(&mut self, names: &[&str]) {
        let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.until(&format!("{names:?}"), |known| known.names == expected).await;
    }
}

fn server() -> ApiServer {
    ApiServer::start(IpAddr::V4(Ipv4Addr::LOCALHOST), None).unwrap()
}

/// Fails if a page were lost or doubled, or if changes after the list were missed.
#[tokio::test]
async fn a_list_of_many_pages_and_then_each_change() {
    let server = server();
    server.put_all((0..1_201).map(|number| pod(&format!("p{number:04}"), "n1"))).unwrap();
    let mut known = Known::of(&server, Selection::default()).await;
    known.until("all", |known| known.names.len() == 1_201).await;
    assert_eq!(known.lists, 1);
    assert_eq!(server.asked().iter().filter(|asked| asked.verb == "list").count(), 3, "pages of 500");
    server.put(pod("new", "n1")).unwrap();
    known.until("new", |known| known.names.contains("new")).await;
    server.delete("v1", "pods", "shop", "p0000");
    known.until("gone", |known| !known.names.contains("p0000")).await;
}

/// Fails if a node's watch told of other nodes' pods, or kept one that is no longer selected.
#[tokio::test]
async fn a_selection_is_entered_and_left() {
    let server = server();
    server.put_all([pod("a", "n1"), pod("b", "n2")]).unwrap();
    let mut known = Known::of(&server, Selection::of_node("n1")).await;
    known.until_known(&["a"]).await;
    server.put_all([pod("b", "n1"), pod("a", "n2")]).unwrap();
    known.until_known(&["b"]).await;
}

/// Fails if a cut or ended watch lost what happened meanwhile, or listed all again for it.
#[tokio::test]
async fn cut_and_ended_watches_resume_where_they_were() {
    let server = server();
    server.put(pod("a", "n1")).unwrap();
    let mut known = Known::of(&server, Selection::default()).await;
    known.until_known(&["a"]).await;
    for (end, name) in [(ApiServer::cut_watches as fn(&ApiServer), "b"), (ApiServer::end_watches, "c")] {
        known.until_watching(&server).await;
        end(&server);
        server.put(pod(name, "n1")).unwrap();
        known.until(name, |known| known.names.contains(name)).await;
    }
    assert_eq!(known.lists, 1, "it resumed instead of listing again");
}

/// Fails if a watch that comes too late stayed behind for ever: whatever is forgotten is listed again.
#[tokio::test]
async fn what_is_gone_is_listed_again() {
    let mut server = server();
    server.put_all([pod("a", "n1"), pod("b", "n1")]).unwrap();
    let mut known = Known::of(&server, Selection::default()).await;
    known.until_known(&["a", "b"]).await;
    known.until_watching(&server).await;
    server.stop();
    server.delete("v1", "pods", "shop", "a");
    server.put(pod("c", "n1")).unwrap();
    server.compact();
    server.resume().unwrap();
    known.until_known(&["b", "c"]).await;
    assert_eq!(known.lists, 2);
    assert!(known.troubles.contains(&Reason::Expired), "{:?}", known.troubles);
}

/// Fails if 410 as the status of a watch's start, not within it, were asked for again and again with the same version.
#[tokio::test]
async fn a_watch_refused_with_410_starts_over() {
    let server = server();
    server.put(pod("a", "n1")).unwrap();
    let mut known = Known::of(&server, Selection::default()).await;
    known.until_known(&["a"]).await;
    known.until_watching(&server).await;
    server.inject(Fault::status("pods", 410));
    server.end_watches();
    known.until("a second list", |known| known.lists == 2).await;
}

/// Fails if refusals ended the watch, were repeated without a pause, or were told without what helps.
#[tokio::test]
async fn refusals_are_told_and_outlived() {
    let server = server();
    server.put(pod("a", "n1")).unwrap();
    for status in [429, 500, 403, 404] {
        server.inject(Fault::status("pods", status));
    }
    let began = std::time::Instant::now();
    let mut known = Known::of(&server, Selection::default()).await;
    known.until_known(&["a"]).await;
    let expected = [Reason::Overloaded, Reason::Overloaded, Reason::Forbidden, Reason::Absent];
    assert_eq!(known.troubles, expected);
    // Half of 250 ms, 500 ms, 1 s and 2 s.
    assert!(began.elapsed() > Duration::from_millis(1_800), "{:?}", began.elapsed());
}

/// Fails if a bookmark were taken for an object, or forgotten: with it a quiet watch resumes after a compaction.
#[tokio::test]
async fn bookmarks_keep_a_quiet_watch_from_listing_again() {
    let server = server();
    server.put(pod("a", "n1")).unwrap();
    let mut known = Known::of(&server, Selection::of_node("n1")).await;
    known.until_known(&["a"]).await;
    known.until_watching(&server).await;
    // Happens outside of the selection, so only a bookmark tells of it.
    server.put(pod("other", "n2")).unwrap();
    server.compact();
    server.bookmark();
    // The bookmark has been read once a change after it has.
    server.put(pod("b", "n1")).unwrap();
    known.until_known(&["a", "b"]).await;
    server.cut_watches();
    server.put(pod("c", "n1")).unwrap();
    known.until_known(&["a", "b", "c"]).await;
    assert_eq!(known.lists, 1);
}

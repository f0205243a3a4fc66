//! What a daemon is told, request by request, without a network.

use proto::{
    discovery::DeltaDiscoveryRequest,
    workload::{NetworkAddress, PortList, Service, Workload},
};

use super::subscription::{Due, Hopeless, Subscription};
use crate::book::{Book, Kind, Resource, Update};

fn workload(uid: &str, node: &str) -> (Kind, Resource) {
    let services = [("shop/web".to_owned(), PortList::default())].into();
    let addresses = vec![uid.bytes().cycle().take(4).collect::<Vec<u8>>().into()];
    let workload =
        Workload { uid: uid.into(), node: node.into(), services, addresses, ..Workload::default() };
    (Kind::Address, Resource::workload(workload))
}

fn service() -> (Kind, Resource) {
    let addresses = vec![NetworkAddress { address: vec![10, 0, 0, 1].into(), ..NetworkAddress::default() }];
    let (namespace, hostname) = ("shop".into(), "web".into());
    (Kind::Address, Resource::service(Service { namespace, hostname, addresses, ..Service::default() }))
}

fn book(present: Vec<(Kind, Resource)>) -> Book {
    let book = Book::default();
    book.publish(Update { present, removed: vec![] });
    book
}

fn publish(book: &Book, present: Vec<(Kind, Resource)>, removed: &[&str]) {
    let removed = removed.iter().map(|name| (Kind::Address, (*name).to_owned())).collect();
    book.publish(Update { present, removed });
}

fn request(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Names of what is due, `-` for removed ones; `None` if nothing is to be sent.
fn due(subscription: &mut Subscription, book: &Book) -> Option<Vec<String>> {
    let Due { resources, removed } = subscription.due(Kind::Address, book).unwrap()?;
    let names = resources.into_iter().map(|resource| resource.name);
    Some(names.chain(removed.into_iter().map(|name| format!("-{name}"))).collect())
}

/// Fails if the first answer did not come though there is nothing, or if changes came before the last were answered.
#[test]
fn all_of_it_and_then_each_change_once_the_last_is_answered() {
    let book = book(vec![]);
    let mut subscription = Subscription::default();
    assert_eq!(due(&mut subscription, &book), None, "nobody asked");
    subscription.ask(request(&[], &[])).unwrap();
    assert_eq!(due(&mut subscription, &book), Some(vec![]), "the daemon waits for it");
    assert_eq!(due(&mut subscription, &book), None);
    publish(&book, vec![workload("a", "1")], &[]);
    assert_eq!(due(&mut subscription, &book).unwrap(), ["a"]);
    subscription.unanswered = Some("1".into());
    publish(&book, vec![workload("a", "2"), workload("b", "1")], &[]);
    publish(&book, vec![workload("a", "3")], &["b"]);
    assert_eq!(due(&mut subscription, &book), None, "the last is not answered");
    subscription.unanswered = None;
    assert_eq!(due(&mut subscription, &book).unwrap(), ["a", "-b"]);
}

/// Fails if a daemon that comes back were sent what it has, or kept what is gone.
#[test]
fn who_comes_back_gets_what_differs() {
    let book = book(vec![workload("a", "1"), workload("b", "1"), workload("c", "1")]);
    let version = |name: &str| book.named(Kind::Address, name)[0].version.clone();
    let mut asked = request(&[], &[]);
    asked.initial_resource_versions = [
        ("a".to_owned(), version("a")),
        ("b".to_owned(), "another".to_owned()),
        ("gone".to_owned(), "x".to_owned()),
    ]
    .into();
    let mut subscription = Subscription::default();
    subscription.ask(asked).unwrap();
    assert_eq!(due(&mut subscription, &book).unwrap(), ["b", "c", "-gone"]);
}

/// Fails if on-demand daemons were told of what they did not ask for, or waited for what is not there; or if a change of
/// what they asked for were missed.
#[test]
fn on_demand_what_was_asked_for() {
    let book = book(vec![
        workload("aaaa", "1"),
        service(),
        (Kind::Address, {
            let workload = Workload { uid: "zzzz".into(), ..Workload::default() };
            Resource::workload(workload)
        }),
    ]);
    let mut subscription = Subscription::default();
    subscription.ask(request(&["*"], &["*"])).unwrap();
    assert_eq!(due(&mut subscription, &book), Some(vec![]));
    subscription.ask(request(&["/10.0.0.1", "/10.0.0.9"], &[])).unwrap();
    assert_eq!(due(&mut subscription, &book).unwrap(), ["aaaa", "shop/web", "-/10.0.0.9"]);
    publish(&book, vec![workload("aaaa", "2")], &["zzzz"]);
    assert_eq!(due(&mut subscription, &book).unwrap(), ["aaaa"]);
    publish(&book, vec![], &["aaaa"]);
    assert_eq!(due(&mut subscription, &book).unwrap(), ["-aaaa"]);
    publish(&book, vec![workload("cccc", "1")], &[]);
    assert_eq!(due(&mut subscription, &book).unwrap(), ["cccc"], "the service has got another endpoint");
    subscription.ask(request(&[], &["/10.0.0.1"])).unwrap();
    publish(&book, vec![workload("bbbb", "1"), workload("cccc", "2")], &[]);
    assert_eq!(due(&mut subscription, &book), None, "nobody asks for these any more");
}

/// Fails if one daemon could make the controller keep whatever it likes.
#[test]
fn names_are_bounded() {
    let mut subscription = Subscription::default();
    let names: Vec<String> = (0..100_001).map(|number| number.to_string()).collect();
    let asked = DeltaDiscoveryRequest { resource_names_subscribe: names, ..DeltaDiscoveryRequest::default() };
    assert_eq!(subscription.ask(asked), Err(Hopeless::TooMuch));
    let long = "x".repeat(2_000);
    assert_eq!(Subscription::default().ask(request(&[&long], &[])), Err(Hopeless::TooMuch));
}

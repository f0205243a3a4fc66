//! What streams are told, whatever happened in between.

use proto::{security::Authorization, workload::Workload};

use super::*;

fn workload(name: &str, service: &str, node: &str) -> (Kind, Resource) {
    let services = [(service.to_owned(), proto::workload::PortList::default())].into();
    let octets = name.bytes().cycle().take(4).collect::<Vec<u8>>();
    let (uid, node) = (name.to_owned(), node.to_owned());
    let workload = Workload { uid, node, services, addresses: vec![octets.into()], ..Workload::default() };
    (Kind::Address, Resource::workload(workload))
}

fn names(entries: &[Entry]) -> Vec<String> {
    let name = |entry: &Entry| match entry {
        Entry::Present(resource) => format!("+{}", resource.name),
        Entry::Removed(name) => format!("-{name}"),
    };
    entries.iter().map(name).collect()
}

/// Fails if one who is behind got anything twice, missed it, or got what did not change; or if what stays the same were
/// told at all.
#[test]
fn who_is_behind_gets_what_changed_once() {
    let book = Book::default();
    let update = Update { present: vec![workload("a", "s", "1"), workload("b", "s", "1")], removed: vec![] };
    assert_eq!(book.publish(update), 2);
    let (entries, seen) = book.since(Kind::Address, 0).unwrap();
    assert_eq!(names(&entries), ["+a", "+b"]);
    assert_eq!(book.publish(Update { present: vec![workload("a", "s", "1")], removed: vec![] }), 0);
    assert!(book.since(Kind::Address, seen).unwrap().0.is_empty());
    for node in ["2", "3"] {
        book.publish(Update { present: vec![workload("a", "s", node)], removed: vec![] });
    }
    book.publish(Update {
        present: vec![],
        removed: vec![(Kind::Address, "b".into()), (Kind::Address, "x".into())],
    });
    let (entries, seen) = book.since(Kind::Address, seen).unwrap();
    assert_eq!(names(&entries), ["+a", "-b"]);
    assert!(book.since(Kind::Authorization, 0).unwrap().0.is_empty());
    assert_eq!(names(&book.since(Kind::Address, 0).unwrap().0), ["+a"], "who begins is not told of the dead");
    book.publish(Update { present: vec![workload("b", "s", "1")], removed: vec![] });
    assert_eq!(names(&book.since(Kind::Address, seen).unwrap().0), ["+b"]);
    assert_eq!(book.count(Kind::Address), 2);
}

/// Fails if the names of what is gone were kept for ever, or if a stream that needs them went on without.
#[test]
fn what_is_gone_is_forgotten_in_the_end() {
    let book = Book::default();
    for number in 0..GRAVES + 10 {
        let name = format!("p{number}");
        book.publish(Update { present: vec![workload(&name, "s", "1")], removed: vec![] });
        book.publish(Update { present: vec![], removed: vec![(Kind::Address, name)] });
    }
    assert!(book.since(Kind::Address, 1).is_none());
    assert!(book.since(Kind::Address, 0).unwrap().0.is_empty());
    assert_eq!(book.count(Kind::Address), 0);
    let shelves = book.shelves.read();
    assert_eq!((shelves.address.places.len(), shelves.address.changes.len()), (GRAVES, GRAVES));
    assert!(shelves.address.relations.is_empty());
}

/// Fails if on-demand streams could not ask by address, or got a service without its workloads.
#[test]
fn resources_are_found_by_every_name() {
    let book = Book::default();
    let service = proto::workload::Service {
        namespace: "shop".into(),
        hostname: "web".into(),
        addresses: vec![proto::workload::NetworkAddress {
            address: vec![10, 0, 0, 1].into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let policy = Authorization { name: "p".into(), namespace: "shop".into(), ..Default::default() };
    let present = vec![
        workload("a", "shop/web", "1"),
        workload("b", "shop/other", "1"),
        (Kind::Address, Resource::service(service)),
        (Kind::Authorization, Resource::authorization(&policy)),
    ];
    book.publish(Update { present, removed: vec![] });
    let found = |kind, name: &str| -> Vec<String> {
        book.named(kind, name).iter().map(|resource| resource.name.to_string()).collect()
    };
    assert_eq!(found(Kind::Address, "a"), ["a"]);
    assert_eq!(found(Kind::Address, "/97.97.97.97"), ["a"]);
    assert_eq!(found(Kind::Address, "shop/web"), ["a", "shop/web"]);
    assert_eq!(found(Kind::Address, "/10.0.0.1"), ["a", "shop/web"]);
    assert!(found(Kind::Address, "/10.0.0.2").is_empty());
    assert_eq!(found(Kind::Authorization, "shop/p"), ["shop/p"]);
    book.publish(Update { present: vec![workload("a", "shop/other", "1")], removed: vec![] });
    assert_eq!(found(Kind::Address, "shop/web"), ["shop/web"]);
}

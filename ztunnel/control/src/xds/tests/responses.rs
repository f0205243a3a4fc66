//! What the state machine makes of responses, of good ones and of others.

use std::collections::{BTreeMap, BTreeSet};

use model::Snapshot;
use proptest::prelude::*;
use proto::{ADDRESS_TYPE, discovery::DeltaDiscoveryRequest, security};

use super::resources::{
    addresses, known, of_policy, of_service, of_workload, policies, policy, protocol, removal, resource,
    service, uid, workload,
};
use crate::xds::{kind::Kind, protocol::Protocol};

/// The good resource of a response must not pay for the bad one, nor the last good version for its successor.
#[test]
fn one_bad_resource_is_refused_by_name_and_takes_nothing_with_it() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    let mut bad = workload("bad", "10.0.0.9");
    protocol.receive(&addresses("n-1", vec![of_workload(bad.clone(), "1")]), &mut snapshot);
    bad.addresses = vec![vec![1, 2, 3].into()];
    let both = vec![of_workload(bad, "2"), of_workload(workload("good", "10.0.0.1"), "3")];
    let reaction = protocol.receive(&addresses("n-2", both), &mut snapshot);
    let reply = reaction.reply.unwrap();
    assert_eq!((&*reply.type_url, &*reply.response_nonce), (ADDRESS_TYPE, "n-2"));
    let message = reply.error_detail.unwrap().message;
    assert!(message.starts_with(&format!("{}: ", uid("bad"))) && message.contains("found 3"), "{message}");
    assert_eq!(known(&snapshot).len(), 2, "the good one, and the last good version of the other");
    let versions = protocol.holding.versions(Kind::Address);
    assert_eq!((&*versions[&uid("bad")], &*versions[&uid("good")]), ("1", "3"), "what is in force");
    assert_eq!(protocol.rejected().len(), 1);
    let mended = addresses("n-3", vec![of_workload(workload("bad", "10.0.0.8"), "4")]);
    let reply = protocol.receive(&mended, &mut snapshot).reply.unwrap();
    assert_eq!((reply.error_detail, protocol.rejected().len()), (None, 0));
}

#[test]
fn what_is_no_resource_of_its_type_or_name_is_refused() {
    let elsewhere = {
        let mut elsewhere = of_workload(workload("a", "10.0.0.1"), "1");
        elsewhere.name = uid("b");
        elsewhere
    };
    let mut nowhere = of_workload(workload("a", "10.0.0.1"), "1");
    nowhere.resource = None;
    for (what, resource) in [
        ("not protobuf", resource(ADDRESS_TYPE, "x", "1", vec![0xff, 0xff, 0xff])),
        ("neither workload nor service", resource(ADDRESS_TYPE, "x", "1", Vec::new())),
        ("of another type", of_policy(&policy("p", security::Action::Allow, Default::default()), "1")),
        ("of another name", elsewhere),
        ("nothing", nowhere),
    ] {
        let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
        let reaction = protocol.receive(&addresses("n", vec![resource]), &mut snapshot);
        assert!(reaction.reply.unwrap().error_detail.is_some(), "{what}");
        assert!(snapshot.workloads().next().is_none() && snapshot.services().next().is_none(), "{what}");
    }
}

/// A control plane that starts anew sends everything again: nothing may move for that.
#[test]
fn a_full_push_of_what_is_known_changes_nothing() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    let all = || {
        vec![
            of_workload(workload("a", "10.0.0.1"), "1"),
            of_workload(workload("b", "10.0.0.2"), "1"),
            of_service(service("web", "10.96.0.1"), "1"),
        ]
    };
    assert_eq!(protocol.receive(&addresses("n-1", all()), &mut snapshot).effect.changed, 3);
    assert_eq!(protocol.receive(&addresses("n-2", all()), &mut snapshot).effect.changed, 0);
    let gone = removal("n-3", &[&uid("b"), "default/web.default.svc.cluster.local", "nobody", ""]);
    assert_eq!(protocol.receive(&gone, &mut snapshot).effect.changed, 2);
    assert_eq!(known(&snapshot).len(), 1);
    assert_eq!(
        protocol.open()[0].initial_resource_versions.len(),
        1,
        "the next stream begins with what is left"
    );
}

/// More than a first request has room for. Would break if what is gone stayed for ever, or what is still there went because
/// its control plane takes its time.
#[test]
fn what_a_first_request_had_no_room_for_and_is_not_sent_again_is_gone() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    let name = |number: usize| format!("{number:0>900}");
    let all: Vec<_> = (0..6000).map(|number| of_workload(workload(&name(number), "10.0.0.1"), "1")).collect();
    protocol.receive(&addresses("n-1", all.clone()), &mut snapshot);
    let told = protocol.open()[0].initial_resource_versions.len();
    assert!((1000..5000).contains(&told), "{told}");
    let asked = |protocol: &mut Protocol, snapshot: &mut Snapshot| {
        let changed = protocol.forget_untold(snapshot);
        (changed, snapshot.workloads().count())
    };
    for _ in 0..3 {
        assert_eq!(asked(&mut protocol, &mut snapshot), (false, 6000), "nothing was said yet");
    }
    let first_half = all[..3000].to_vec();
    protocol.receive(&addresses("n-2", first_half.clone()), &mut snapshot);
    assert_eq!(asked(&mut protocol, &mut snapshot), (false, 6000), "more may be on its way");
    let gone = snapshot.workloads().count() - {
        let known = protocol.open()[0].initial_resource_versions.clone();
        protocol.receive(&addresses("n-3", first_half), &mut snapshot);
        let kept = |number: &usize| *number < 3000 || known.contains_key(&uid(&name(*number)));
        (0..6000).filter(kept).count()
    };
    assert_eq!(asked(&mut protocol, &mut snapshot), (false, 6000), "it is another stream");
    assert_eq!(asked(&mut protocol, &mut snapshot), (true, 6000 - gone));
    assert!(gone > 500 && asked(&mut protocol, &mut snapshot) == (false, 6000 - gone));
}

/// A type that was never answered is what readiness waits for; an empty answer is one.
#[test]
fn an_empty_response_is_an_answer() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    assert_eq!(protocol.unanswered().count(), 2);
    protocol.receive(&addresses("n-1", Vec::new()), &mut snapshot);
    assert_eq!(protocol.unanswered().collect::<Vec<_>>(), [Kind::Authorization]);
    protocol.receive(&policies("n-2", Vec::new()), &mut snapshot);
    assert_eq!(protocol.unanswered().count(), 0);
}

#[test]
fn a_refusal_is_short_however_much_is_wrong() {
    let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
    let junk =
        |number: usize| resource(ADDRESS_TYPE, &format!("{}{number}", "ü".repeat(999)), "1", vec![0xff]);
    let reaction = protocol.receive(&addresses("n", (0..1000).map(junk).collect()), &mut snapshot);
    let message = reaction.reply.unwrap().error_detail.unwrap().message;
    assert!(message.len() <= 4096, "{}", message.len());
    assert_eq!(protocol.rejected().len(), 100);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Break(u8),
    Remove(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0u8..4;
    prop_oneof![
        4 => (name.clone(), 0u8..3).prop_map(|(name, ip)| Step::Put(name, ip)),
        1 => name.clone().prop_map(Step::Break),
        2 => name.prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    /// Whatever is sent in whatever order, each response is answered once under its nonce, and what is held, what is
    /// told of at a new stream and what is in the snapshot are one and the same: the last good version of each, and the
    /// addresses of those that came broken since.
    #[test]
    fn what_is_held_is_what_was_sent_last(steps in proptest::collection::vec(step(), 0..40)) {
        let (mut protocol, mut snapshot) = (protocol(), Snapshot::default());
        let (mut reference, mut closed) = (BTreeMap::new(), BTreeSet::new());
        for (number, step) in steps.into_iter().enumerate() {
            let nonce = format!("n-{number}");
            let version = number.to_string();
            let response = match step {
                Step::Put(name, ip) => {
                    let name = format!("w{name}");
                    reference.insert(uid(&name), (version.clone(), ip));
                    closed.remove(&uid(&name));
                    addresses(&nonce, vec![of_workload(workload(&name, &format!("10.0.0.{ip}")), &version)])
                }
                Step::Break(name) => {
                    let mut broken = workload(&format!("w{name}"), "10.0.0.1");
                    broken.namespace = "not a namespace".to_owned();
                    closed.insert(broken.uid.clone());
                    addresses(&nonce, vec![of_workload(broken, &version)])
                }
                Step::Remove(name) => {
                    let name = uid(&format!("w{name}"));
                    reference.remove(&name);
                    closed.remove(&name);
                    removal(&nonce, &[&name])
                }
                Step::Reopen => {
                    prop_assert!(protocol.open().iter().all(|request| request.response_nonce.is_empty()));
                    continue;
                }
            };
            let reply = protocol.receive(&response, &mut snapshot).reply.unwrap();
            prop_assert_eq!(reply.response_nonce, nonce);
            let open: DeltaDiscoveryRequest = protocol.open().swap_remove(0);
            let told: BTreeMap<_, _> = open.initial_resource_versions.into_iter().collect();
            let good = reference.iter().map(|(name, (version, _))| (name.clone(), version.clone()));
            let expected = closed.iter().map(|name| (name.clone(), String::new())).chain(good).collect();
            prop_assert_eq!(told, expected);
            for name in (0..4).map(|name| uid(&format!("w{name}"))) {
                prop_assert_eq!(snapshot.closed_by(&name).is_empty(), !closed.contains(&name));
            }
            let ips = |(name, ip): (String, String)| format!("{name} {ip}");
            let held: Vec<_> = snapshot.workloads().map(|w| ips((w.uid.to_string(), w.workload_ips[0].to_string()))).collect();
            let sent: Vec<_> = reference.iter().map(|(name, (_, ip))| ips((name.clone(), format!("10.0.0.{ip}")))).collect();
            prop_assert_eq!(held, sent);
        }
    }
}

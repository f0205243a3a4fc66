//! Which resources a change touches.
#![expect(clippy::needless_pass_by_value, reason = "values are written where they are handed over")]

use std::collections::BTreeMap;

use proto::{
    prost::Message,
    workload::{Address, TunnelProtocol, Workload, WorkloadStatus, address::Type},
};
use serde_json::{Value, json};

use super::*;
use crate::{book::Book, convert::cluster};

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn pod(name: &str, node: &str) -> Object {
    let own = Own { namespace: "root".into() };
    Object::Pod(Pod::of(
        read(json!({
            "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "app": name } },
            "spec": { "nodeName": node, "serviceAccountName": name, "containers": [] },
            "status": { "phase": "Running", "podIP": "10.0.0.1" },
        })),
        &own,
    ))
}

fn policy(kind: PolicyKind, namespace: &str, spec: Value) -> Object {
    let object = json!({
        "apiVersion": "v1", "kind": "x", "metadata": { "name": "p", "namespace": namespace }, "spec": spec,
    });
    Object::Policy(kind, Policy::of(&read(object), kind))
}

fn service(selector: &str) -> Object {
    Object::Service(Service::of(read(json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "clusterIP": "10.9.0.1", "selector": { "app": selector }, "ports": [{ "port": 80 }] },
    }))))
}

/// What daemons would know by now.
struct Known {
    inventory: Inventory,
    book: Book,
}

impl Known {
    /// Two pods in a namespace without a label.
    fn start() -> Self {
        let mut inventory = Inventory::new(cluster(), Own { namespace: "root".into() });
        for sort in Sort::ALL {
            assert!(inventory.settle().is_none(), "told before {sort:?} was known");
            let objects = match sort {
                Sort::Pod => vec![pod("a", "n1"), pod("b", "n2")],
                Sort::Namespace => vec![Object::Namespace("shop".into(), None)],
                _ => Vec::new(),
            };
            inventory.take(Told::All(sort, objects));
        }
        let book = Book::default();
        let settled = inventory.settle().unwrap();
        assert_eq!(book.publish(settled.update), 2);
        Self { inventory, book }
    }

    /// How many resources a change changes.
    fn take(&mut self, told: Told) -> usize {
        self.inventory.take(told);
        let settled = self.inventory.settle().unwrap();
        self.book.publish(settled.update)
    }

    fn workload(&self, name: &str) -> Workload {
        let found = self.book.named(Kind::Address, &format!("Kubernetes//Pod/shop/{name}"));
        match Address::decode(found[0].value.clone()).unwrap().r#type {
            Some(Type::Workload(workload)) => workload,
            other => panic!("{other:?}"),
        }
    }

    fn protocols(&self) -> BTreeMap<&'static str, TunnelProtocol> {
        ["a", "b"].map(|name| (name, self.workload(name).tunnel_protocol())).into()
    }
}

/// Fails if a label did not reach its namespace's pods, or if what is equal were told again.
#[test]
fn a_namespace_s_label_enrols_its_pods() {
    let mut known = Known::start();
    let labelled =
        |mode: Option<&str>| Told::Applied(Object::Namespace("shop".into(), mode.map(str::to_owned)));
    assert_eq!(known.take(labelled(Some("ambient"))), 2);
    assert_eq!(known.protocols()["a"], TunnelProtocol::Hbone);
    assert_eq!(known.take(labelled(Some("ambient"))), 0);
    assert_eq!(known.take(Told::Applied(pod("a", "n1"))), 0, "nothing of it has changed");
    assert_eq!(known.take(labelled(None)), 2);
    assert_eq!(known.protocols()["b"], TunnelProtocol::None);
}

/// Fails if a pod stayed a service's endpoint when its selector moved on, or if the deletion of either were lost.
#[test]
fn selectors_move_from_pod_to_pod() {
    let mut known = Known::start();
    assert_eq!(known.take(Told::Applied(service("a"))), 2, "the service and its pod");
    assert_eq!(known.workload("a").services.len(), 1);
    assert_eq!(known.take(Told::Applied(service("b"))), 2, "both pods; the service itself says the same");
    assert_eq!((known.workload("a").services.len(), known.workload("b").services.len()), (0, 1));
    assert_eq!(known.take(Told::Deleted(service("b"))), 2);
    assert!(known.workload("b").services.is_empty());
    assert_eq!(known.take(Told::Deleted(pod("b", "n2"))), 1);
    assert!(known.book.named(Kind::Address, "Kubernetes//Pod/shop/b").is_empty());
}

/// Fails if pods did not name the policies that take them, of their own namespace and of the mesh's.
#[test]
fn policies_with_selectors_are_named_by_their_pods() {
    let mut known = Known::start();
    let spec = json!({ "selector": { "matchLabels": { "app": "a" } }, "rules": [{}] });
    let take = |known: &mut Known, namespace: &str| {
        known.take(Told::Applied(policy(PolicyKind::Authorization, namespace, spec.clone())))
    };
    assert_eq!(take(&mut known, "shop"), 2, "the policy and the pod");
    assert_eq!(take(&mut known, "root"), 2);
    assert_eq!(take(&mut known, "elsewhere"), 1, "another namespace's policy is not about this pod");
    assert_eq!(known.workload("a").authorization_policies, ["shop/p", "root/p"]);
    let strict = policy(PolicyKind::PeerAuthentication, "shop", json!({ "mtls": { "mode": "STRICT" } }));
    assert_eq!(known.take(Told::Applied(strict)), 3, "the strict policy and both pods");
    assert_eq!(known.workload("b").authorization_policies, ["root/istio_converted_static_strict"]);
    let gone = policy(PolicyKind::PeerAuthentication, "shop", json!({}));
    assert_eq!(known.take(Told::Deleted(gone)), 3);
    assert!(known.workload("b").authorization_policies.is_empty());
}

fn slice(endpoints: Value) -> Object {
    let object = json!({
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }], "endpoints": endpoints,
    });
    Object::Slice(Slice::of(read(object)))
}

/// Fails if endpoints that are no pods were not served, or before their service is known; if they stayed when they are gone;
/// or if an address that stands there twice were told again and again.
#[test]
fn endpoints_kept_by_hand() {
    let mut known = Known::start();
    let ready =
        |address: &str, ready: bool| json!({ "addresses": [address], "conditions": { "ready": ready } });
    let pod = json!({ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": "a" } });
    let both = json!([ready("192.0.2.1", false), ready("192.0.2.1", true), ready("192.0.2.2", false), pod]);
    assert_eq!(known.take(Told::Applied(slice(both.clone()))), 0, "of which service?");
    assert_eq!(known.take(Told::Applied(service("nobody"))), 3, "the service and two endpoints");
    assert_eq!(known.take(Told::Applied(slice(both))), 0, "nothing has changed");
    let endpoint = |known: &Known, address: &str| {
        let name = format!("Kubernetes/discovery.k8s.io/EndpointSlice/shop/web-1/{address}");
        let found = known.book.named(Kind::Address, &name);
        found.first().map(|resource| match Address::decode(resource.value.clone()).unwrap().r#type {
            Some(Type::Workload(workload)) => workload,
            other => panic!("{other:?}"),
        })
    };
    let first = endpoint(&known, "192.0.2.1").unwrap();
    assert_eq!((first.status(), first.tunnel_protocol()), (WorkloadStatus::Healthy, TunnelProtocol::None));
    assert_eq!(first.services["shop/web.shop.svc.cluster.local"].ports[0].target_port, 8080);
    assert_eq!(endpoint(&known, "192.0.2.2").unwrap().status(), WorkloadStatus::Unhealthy);
    assert_eq!(known.take(Told::Applied(slice(json!([ready("192.0.2.2", true)])))), 2, "one gone, one ready");
    assert_eq!(known.take(Told::Deleted(service("nobody"))), 2);
    assert_eq!(known.take(Told::Applied(service("nobody"))), 2);
    assert_eq!(known.take(Told::Deleted(slice(json!([])))), 1);
    assert_eq!(endpoint(&known, "192.0.2.2"), None);
}

/// Fails if a pod named a policy of which there is no resource: that refuses everybody.
#[test]
fn what_workloads_name_is_there() {
    let mut known = Known::start();
    for (number, (namespace, action)) in
        [("shop", "AUDIT"), ("shop", "CUSTOM"), ("root", "AUDIT"), ("shop", "DENY"), ("root", "ALLOW")]
            .into_iter()
            .enumerate()
    {
        let spec = json!({ "action": action, "selector": { "matchLabels": { "app": "a" } }, "rules": [{}] });
        known.take(Told::Applied(policy(PolicyKind::Authorization, namespace, spec)));
        let named = known.workload("a").authorization_policies;
        assert_eq!(named.len(), [0, 0, 0, 1, 2][number], "{action}");
        for name in named {
            assert!(!known.book.named(Kind::Authorization, &name).is_empty(), "{name} is not there");
        }
    }
}

/// Fails if what vanished while a watch was down stayed for ever.
#[test]
fn a_new_list_takes_away_what_is_not_in_it() {
    let mut known = Known::start();
    assert_eq!(known.take(Told::All(Sort::Pod, vec![pod("a", "n1")])), 1);
    assert!(known.book.named(Kind::Address, "Kubernetes//Pod/shop/b").is_empty());
    assert_eq!(known.book.count(Kind::Address), 1);
}

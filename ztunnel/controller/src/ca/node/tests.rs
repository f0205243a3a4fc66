//! Which node may have which identity.

use kubernetes::Own;
use serde_json::json;

use super::*;
use crate::{
    convert::cluster,
    facts::Pod,
    inventory::{Object, Told},
};

fn inventory() -> Inventory {
    let own = Own { namespace: "mesh".into() };
    let mut inventory = Inventory::new(cluster(), own.clone());
    inventory.take(Told::Applied(Object::Namespace("shop".into(), Some("ambient".into()))));
    let mirror = json!({
        "metadata": { "name": "m", "namespace": "shop", "annotations": { "kubernetes.io/config.mirror": "x" } },
        "spec": { "nodeName": "n1", "containers": [] },
    });
    inventory.take(Told::Applied(Object::Pod(Pod::of(serde_json::from_value(mirror).unwrap(), &own))));
    for (namespace, name, node, account, phase) in [
        ("mesh", "ztunnel-1", "n1", "ztunnel", "Running"),
        ("shop", "a", "n1", "web", "Pending"),
        ("shop", "b", "n2", "db", "Running"),
        ("shop", "c", "n1", "old", "Succeeded"),
    ] {
        let pod = json!({
            "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{name}") },
            "spec": { "nodeName": node, "serviceAccountName": account, "containers": [] },
            "status": { "phase": phase },
        });
        inventory.take(Told::Applied(Object::Pod(Pod::of(serde_json::from_value(pod).unwrap(), &own))));
    }
    inventory
}

fn caller(pod: Option<&str>, uid: Option<&str>, node: Option<&str>) -> Caller {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Caller { pod: owned(pod), pod_uid: owned(uid), node: owned(node) }
}

fn ask(caller: &Caller, namespace: &str, account: &str) -> Result<String, Denied> {
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap();
    authorize(&inventory(), caller, &identity)
}

/// Fails if a daemon, or who stole its token, got an identity of another node, or of a pod that has ended; or if the pods of
/// its own node had to wait until they run; or if a node's root could make a mirror pod and be a namespace's `default`.
#[test]
fn a_node_gets_the_identities_of_its_own_pods() {
    for caller in
        [caller(Some("ztunnel-1"), Some("uid-ztunnel-1"), Some("n1")), caller(Some("ztunnel-1"), None, None)]
    {
        assert_eq!(ask(&caller, "shop", "web"), Ok("n1".into()));
        for (namespace, account) in
            [("shop", "db"), ("shop", "old"), ("other", "web"), ("shop", "default"), ("mesh", "ztunnel")]
        {
            assert_eq!(ask(&caller, namespace, account), Err(Denied::NotOnNode { node: "n1".into() }));
        }
    }
}

/// Fails if a token were believed that says something else than the API server's own objects.
#[test]
fn tokens_that_do_not_fit_are_refused() {
    let cases = [
        (caller(None, None, Some("n1")), Denied::NoPod),
        (caller(Some("ztunnel-9"), None, Some("n1")), Denied::UnknownDaemon),
        (caller(Some("ztunnel-1"), Some("another"), Some("n1")), Denied::UnknownDaemon),
        (caller(Some("ztunnel-1"), None, Some("n2")), Denied::OtherNode),
        (caller(Some("a"), None, None), Denied::UnknownDaemon),
    ];
    for (caller, denied) in cases {
        assert_eq!(ask(&caller, "shop", "web"), Err(denied), "{caller:?}");
    }
}

//! Several replicas: any of them serves, one of them leads, and another does when that one is gone.

use std::time::Duration;

use proto::ADDRESS_TYPE;
use serde_json::json;

use super::{Cluster, Daemon, OWN, Replica, within};

/// The Lease, and what a round of each replica takes.
const TAKEOVER: Duration = Duration::from_secs(30);

/// Fails if two that start at once made two roots, or told daemons two different things.
#[test]
fn two_that_start_at_once_serve_the_same() {
    Cluster::each(|cluster| {
        let replicas = ["one", "two"].map(|name| Replica::begin(&cluster, name, &[]));
        replicas.iter().for_each(|replica| replica.until_ready(&cluster));
        within(TAKEOVER, "one of them leads", || replicas.iter().any(Replica::leads).then_some(()));
        assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1, "both lead");
        let daemon = Daemon::of(&cluster, 1);
        let issued: Vec<_> = replicas
            .iter()
            .map(|replica| daemon.certificate(&cluster, replica, "account-1").unwrap())
            .collect();
        assert_eq!(issued[0].roots.len(), 1);
        assert_eq!(issued[0].roots, issued[1].roots, "two roots");
        let versions = replicas.each_ref().map(|replica| {
            let response = daemon.stream(&cluster, replica, ADDRESS_TYPE, &[]).unwrap().take();
            let versions = response.resources.into_iter().map(|resource| (resource.name, resource.version));
            versions.collect::<std::collections::BTreeMap<_, _>>()
        });
        assert!(versions[0].contains_key("Kubernetes//Pod/shop/pod-1"), "{versions:?}");
        assert_eq!(versions[0], versions[1]);
    });
}

/// Fails if a leader that vanished without a word were never replaced, or if nothing were served meanwhile.
#[test]
fn another_leads_when_the_leader_vanishes() {
    Cluster::each(|cluster| {
        let mut first = Replica::start(&cluster, "one", &[]);
        within(TAKEOVER, "the first leads", || first.leads().then_some(()));
        let second = Replica::start(&cluster, "two", &[]);
        assert!(!second.leads());
        first.vanish();
        let daemon = Daemon::of(&cluster, 2);
        daemon.certificate(&cluster, &second, "account-2").unwrap();
        assert!(!second.leads(), "it did not wait for the Lease to end");
        within(TAKEOVER, "the second leads", || second.leads().then_some(()));
        let lease = cluster.get("coordination.k8s.io/v1", "leases", OWN, "ztunnel-controller").unwrap();
        assert_eq!(lease["spec"]["holderIdentity"], "two");
        assert_eq!(lease["spec"]["leaseTransitions"], 1);
        // And does what leaders do.
        cluster.put(&json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "p", "namespace": "shop" }, "spec": { "action": "DENY", "rules": [] },
        }));
        within(TAKEOVER, "the policy's status", || {
            let policy = cluster.get("security.istio.io/v1", "authorizationpolicies", "shop", "p")?;
            (policy["status"]["conditions"][0]["reason"] == "Accepted").then_some(())
        });
        daemon.certificate(&cluster, &second, "account-2").unwrap();
    });
}

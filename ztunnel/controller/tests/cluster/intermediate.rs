//! An intermediate that another keeps in a Secret, as cert-manager does.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use control::fingerprint;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use testkit::ca::Root;

use super::{Cluster, Daemon, OWN, Replica, within};

const NAME: &str = "from-cert-manager";

fn put(cluster: &Cluster, certificate: &str, key: &str, root: &str) {
    let encoded = |text: &str| STANDARD.encode(text);
    cluster.put(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": NAME, "namespace": OWN },
        "type": "kubernetes.io/tls",
        "data": { "tls.crt": encoded(certificate), "tls.key": encoded(key), "ca.crt": encoded(root) },
    }));
}

fn first(pem: &str) -> String {
    fingerprint(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

/// Fails if a certificate did not lead to the root over the intermediate; if a new intermediate were not taken up, or one that
/// does not fit were; or if a root of ours were made beside it.
#[test]
fn an_intermediate_and_its_successor() {
    Cluster::each(|cluster| {
        let root = Root::new("the company's root");
        let [older, newer] = ["older", "newer"].map(|name| root.intermediate(name));
        put(&cluster, &older.0, &older.1, root.pem());
        let replica = Replica::start(&cluster, "one", &["--intermediate-secret", NAME]);
        let daemon = Daemon::of(&cluster, 1);
        let signer = || {
            let issued = daemon.certificate(&cluster, &replica, "account-1").unwrap();
            assert_eq!(issued.chain.len(), 2, "leaf and intermediate");
            assert_eq!(issued.roots.iter().map(fingerprint).collect::<Vec<_>>(), [first(root.pem())]);
            fingerprint(&issued.chain[1])
        };
        assert_eq!(signer(), first(&older.0));
        // The new certificate without its key: agents write one after the other.
        put(&cluster, &newer.0, &older.1, root.pem());
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(signer(), first(&older.0), "it signs with what does not fit");
        put(&cluster, &newer.0, &newer.1, root.pem());
        within(Duration::from_secs(20), "the new intermediate signs", || {
            (signer() == first(&newer.0)).then_some(())
        });
        cluster.delete("v1", "secrets", OWN, NAME);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(signer(), first(&newer.0), "a Secret that is gone for a moment stopped it");
        assert_eq!(cluster.get("v1", "secrets", OWN, "ztunnel-ca"), None, "a root of its own");
    });
}

//! The root is replaced: what was signed at each stage is believed as long as it lives.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use clap::Parser;
use control::Issued;
use rustls::{RootCertStore, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use tokio::runtime::Runtime;
use ztunnel_controller::{RotateRoot, Step};

use super::{Cluster, Daemon, OWN, Replica, within};

const LIFETIME: Duration = Duration::from_secs(6);
const SETTLE: Duration = Duration::from_secs(2);

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    rotation: RotateRoot,
}

/// Takes a step as the command does.
fn rotate(cluster: &Cluster, step: Step) -> Result<String, String> {
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let settle = format!("{}s", SETTLE.as_secs());
    let line = ["rotate-root", "--kubeconfig", &kubeconfig, "--namespace", OWN, "--settle", &settle];
    let rotation = RotateRoot { step, ..Line::parse_from(line).rotation };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(rotation.run()).map_err(|error| format!("{error:#}"))
}

fn when_it_may(cluster: &Cluster, step: Step) {
    within(2 * (LIFETIME + SETTLE), "the step", || match rotate(cluster, step) {
        Ok(_) => Some(()),
        Err(error) => {
            assert!(error.contains("too early"), "{error}");
            None
        }
    });
}

/// As a peer would look at it whose daemon has these roots.
fn is_believed(issued: &Issued, roots: &str) -> bool {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let (leaf, rest) = issued.chain.split_first().unwrap();
    verifier.verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(now)).is_ok()
}

/// What was signed, with the roots that came along, and when.
struct Signed(Issued, Instant);

/// A certificate of each replica. Those that live are believed by who has the roots of now, or of any that lives.
fn sign_and_look(cluster: &Cluster, replicas: &[Replica], signed: &mut Vec<Signed>) {
    let daemon = Daemon::of(cluster, 1);
    for replica in replicas {
        let issued = daemon.certificate(cluster, replica, "account-1").unwrap();
        signed.push(Signed(issued, Instant::now()));
    }
    // A while before its end it is no longer held against anybody.
    signed.retain(|Signed(_, at)| at.elapsed() < LIFETIME - Duration::from_secs(1));
    for Signed(one, _) in &*signed {
        assert!(is_believed(one, &cluster.roots().unwrap()), "it is not believed by who starts now");
        for Signed(other, _) in &*signed {
            let roots: String = other.roots.iter().map(|root| pem(root)).collect();
            assert!(is_believed(one, &roots), "two that live do not believe each other");
        }
    }
}

fn pem(certificate: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
}

/// Fails if two certificates that live did not believe each other at any moment of a rotation, whichever replica signed them;
/// if a replica did not follow; or if two operators at once began two rotations.
#[test]
fn a_rotation_and_those_who_hold_certificates() {
    Cluster::each(|cluster| {
        let lifetime = format!("{}s", LIFETIME.as_secs());
        let replicas =
            ["one", "two"].map(|name| Replica::start(&cluster, name, &["--certificate-lifetime", &lifetime]));
        let follow = |stage: u64| {
            within(Duration::from_secs(20), "all replicas follow", || {
                replicas.iter().all(|one| one.metric("root_rotation_stage") == Some(stage)).then_some(())
            });
        };
        let mut signed = Vec::new();
        within(Duration::from_secs(10), "the Secret says how long certificates live", || {
            cluster.get("v1", "secrets", OWN, "ztunnel-ca")?["data"]["lifetime"].as_str().map(drop)
        });
        sign_and_look(&cluster, &replicas, &mut signed);
        let both = std::thread::scope(|scope| {
            let steps = [(); 2].map(|()| scope.spawn(|| rotate(&cluster, Step::Prepare)));
            steps.map(|step| step.join().unwrap())
        });
        assert!(both.iter().any(Result::is_ok), "{both:?}");
        let refused = both.iter().filter_map(|step| step.as_ref().err());
        refused.for_each(|error| assert!(error.contains("changed by somebody else"), "{error}"));
        let until = |step: Option<Step>, stage: u64, signed: &mut Vec<Signed>| {
            if let Some(step) = step {
                let began = Instant::now();
                while rotate(&cluster, step).is_err_and(|error| error.contains("too early")) {
                    sign_and_look(&cluster, &replicas, signed);
                    assert!(began.elapsed() < 2 * (LIFETIME + SETTLE) + Duration::from_secs(20), "{step:?}");
                }
            }
            follow(stage);
            sign_and_look(&cluster, &replicas, signed);
        };
        until(None, 1, &mut signed);
        let old = signed.last().unwrap().0.chain.clone();
        assert_eq!(signed.last().unwrap().0.roots.len(), 2);
        until(Some(Step::Switch), 2, &mut signed);
        until(Some(Step::Finish), 0, &mut signed);
        within(Duration::from_secs(20), "one root is left", || {
            (cluster.roots()?.matches("BEGIN").count() == 1).then_some(())
        });
        let roots = cluster.roots().unwrap();
        assert!(
            !is_believed(&Issued { chain: old, roots: vec![] }, &roots),
            "the old root is believed for ever"
        );
        when_it_may(&cluster, Step::Finish);
    });
}

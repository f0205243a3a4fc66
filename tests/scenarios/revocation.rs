//! Certificates are revoked and un-revoked by revocation lists while all runs.

use std::{fs, io::ErrorKind, net::SocketAddr, path::PathBuf};

use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use testkit::{
    Daemon, Mesh, MeshPlan, Place,
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};
use time::{Duration, OffsetDateTime};

use crate::{
    held::Held,
    support::{FAMILIES, last_logged, logged},
};

/// A mesh whose nodes heed one file of lists each, so that what one end knows the other need not.
struct Revoking {
    mesh: Mesh,
    directory: tempfile::TempDir,
}

impl Revoking {
    /// Nothing is revoked.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mesh = MeshPlan::new(&["client other", "server"]).start().unwrap();
        // The first start makes the root, without which there is no list.
        for node in [1, 2] {
            let path = directory.path().join(format!("{node}.pem"));
            fs::write(&path, list(&mesh, &[], Duration::days(1))).unwrap();
            drop(mesh.take_daemon(node));
            mesh.change(|plan| {
                plan.settings.insert("revocationLists".to_owned(), json!([path]));
            })
            .unwrap();
            mesh.start_daemon(node).unwrap();
        }
        Self { mesh, directory }
    }

    fn path(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("{node}.pem"))
    }

    fn write(&self, node: usize, text: &str) {
        let staged = self.directory.path().join("new");
        fs::write(&staged, text).unwrap();
        fs::rename(&staged, self.path(node)).unwrap();
    }

    fn revoke(&self, node: usize, serials: &[String]) {
        self.write(node, &list(&self.mesh, serials, Duration::days(1)));
    }

    fn of_lists(&self, node: usize, metric: &str) -> f64 {
        let path = self.path(node).display().to_string();
        self.mesh.daemon(node).metric(metric, &[("file", &path)]).unwrap()
    }
}

/// A list of the mesh's root.
fn list(mesh: &Mesh, serials: &[String], left: Duration) -> String {
    let of = |name: &str| fs::read_to_string(mesh.directory().join(name)).unwrap();
    let root = CertificateDer::from_pem_slice(of("ca.pem").as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&root, KeyPair::from_pem(&of("ca.key")).unwrap()).unwrap();
    let now = OffsetDateTime::now_utc();
    let entry = |serial: &String| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&bytes(serial)),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let parameters = CertificateRevocationListParams {
        this_update: now - Duration::days(7),
        next_update: now + left,
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    parameters.signed_by(&issuer).unwrap().pem().unwrap()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap();
    (0..hexadecimal.len()).step_by(2).map(pair).collect()
}

/// The serial number of a pod's certificate, as its node's daemon shows it.
fn serial(daemon: &Daemon, pod: &str) -> String {
    eventually("the certificate is shown", || {
        let certificates = daemon.admin("/certificates").unwrap();
        let of_pod = |one: &&Value| one["identity"] == Mesh::identity(pod).as_str();
        certificates.as_array()?.iter().find(of_pod)?["serial"].as_str().map(str::to_owned)
    })
}

fn echo(from: &Place, target: SocketAddr) -> std::io::Result<()> {
    from.run(move || Dial::to(target).exchange(b"may I?")).map(drop)
}

/// Catches: a revoked client that goes on or comes again, an end without its reason at either end, somebody else whose
/// connections end too, or what is un-revoked and stays out.
#[test]
fn a_revoked_client_is_cut_refused_and_let_in_again() {
    let revoking = Revoking::start();
    let mesh = &revoking.mesh;
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut cut = targets.map(|target| Held::open(mesh.pod("client"), target));
    let mut stays = targets.map(|target| Held::open(mesh.pod("other"), target));
    let revoked = serial(mesh.daemon(1), "client");
    revoking.revoke(2, std::slice::from_ref(&revoked));
    for (held, target) in cut.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset), "it is still open");
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["reason"], "certificate_revoked", "{line}");
        assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "{line}");
        assert!(echo(mesh.pod("client"), target).is_err(), "it was let in");
        let line = eventually("the source knows why", || {
            // An alert may be lost with the connection, but not every time.
            assert!(echo(mesh.pod("client"), target).is_err(), "it was let in");
            let lines = logged(mesh.daemon(1), "outbound", target);
            lines.into_iter().find(|line| line["reason"] == "certificate_revoked")
        });
        assert!(line["error"].as_str().unwrap().contains("revoked"), "{line}");
    }
    let refused = [("reason", "certificate_revoked")];
    for metric in ["ztunnel_handshake_failures_total", "ztunnel_broken_sessions_total"] {
        eventually(metric, || (mesh.daemon(2).metric(metric, &refused).unwrap() >= 1.0).then_some(()));
    }
    assert_eq!(revoking.of_lists(2, "ztunnel_revoked_certificates"), 1.0);
    for (held, target) in stays.iter_mut().zip(targets) {
        held.still_works(b"of whom nothing was said");
        echo(mesh.pod("other"), target).unwrap();
    }
    revoking.revoke(2, &[]);
    for target in targets {
        eventually("it is let in again", || echo(mesh.pod("client"), target).ok());
    }
    // Its own node hears of it: another certificate takes its place, and nobody is left out.
    let mut held = targets.map(|target| Held::open(mesh.pod("client"), target));
    revoking.revoke(1, std::slice::from_ref(&revoked));
    held.iter_mut().for_each(|held| assert!(held.ended().is_some(), "it is still open"));
    eventually("another was issued", || (serial(mesh.daemon(1), "client") != revoked).then_some(()));
    targets.into_iter().for_each(|target| echo(mesh.pod("client"), target).unwrap());
    revoking.revoke(2, &[revoked]);
    eventually("it is heeded", || {
        (revoking.of_lists(2, "ztunnel_revoked_certificates") == 1.0).then_some(())
    });
    targets.into_iter().for_each(|target| echo(mesh.pod("client"), target).unwrap());
}

/// Catches: a client that goes on to talk to a server whose certificate is revoked.
#[test]
fn a_revoked_server_is_left_and_not_called_again() {
    let revoking = Revoking::start();
    let mesh = &revoking.mesh;
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut held = targets.map(|target| Held::open(mesh.pod("client"), target));
    revoking.revoke(1, &[serial(mesh.daemon(2), "server")]);
    for (held, target) in held.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(ErrorKind::ConnectionReset), "it is still open");
        assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["reason"], "certificate_revoked");
        assert!(echo(mesh.pod("client"), target).is_err(), "it was called");
    }
    eventually("the server's node is told", || {
        let failures =
            mesh.daemon(2).metric("ztunnel_handshake_failures_total", &[("reason", "certificate_revoked")]);
        (failures.unwrap() >= 1.0).then_some(())
    });
}

/// Catches: a file that cannot be used and un-revokes, or a list past its time that is not told of or revokes no more.
#[test]
fn a_bad_file_keeps_what_was_revoked_and_a_late_list_is_told() {
    let revoking = Revoking::start();
    let mesh = &revoking.mesh;
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let target = mesh.address("server", 0, 8080);
    echo(mesh.pod("client"), target).unwrap();
    let revoked = [serial(mesh.daemon(1), "client")];
    revoking.revoke(2, &revoked);
    eventually("it is heeded", || echo(mesh.pod("client"), target).is_err().then_some(()));
    revoking.write(2, "garbage\n");
    eventually("the metric says so", || (revoking.of_lists(2, "ztunnel_file_problem") == 1.0).then_some(()));
    let status = mesh.daemon(2).admin("/state").unwrap()["revocationLists"][0].take();
    let problem = status["problem"]["error"].as_str().unwrap();
    assert!(problem.contains("2.pem:1:") && problem.contains("no revocation list"), "{problem}");
    assert!(echo(mesh.pod("client"), target).is_err(), "a bad file let it in");

    revoking.write(2, &list(mesh, &revoked, -Duration::days(1)));
    eventually("the metric says so", || {
        (revoking.of_lists(2, "ztunnel_revocation_lists_expired") == 1.0).then_some(())
    });
    assert!(echo(mesh.pod("client"), target).is_err(), "a late list let it in");
    let is_told = |line: &Value| line["level"] != "INFO" && line.to_string().contains("past its time");
    eventually("the log tells", || mesh.daemon(2).log_lines().unwrap().iter().any(is_told).then_some(()));
    // The page that told of the late list may have been made before the file's account was.
    eventually("the file is good again", || {
        (revoking.of_lists(2, "ztunnel_file_problem") == 0.0).then_some(())
    });
}

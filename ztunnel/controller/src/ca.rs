//! Certificates for the workloads of each daemon's node.

mod keep;
mod node;
mod root_config_map;
mod rotate;
mod rotation;
mod secret;
mod service;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use control::SigningCa;
use tokio::sync::watch;

pub(crate) use keep::keep;
pub use rotate::RotateRoot;
use rotation::Rotation;
pub use rotation::Step;
pub(crate) use service::{CertificateService, MAX_REQUEST};

/// What signs, as soon as its Secret is known.
pub(crate) type CurrentCa = watch::Receiver<Option<Held>>;

/// A CA as its Secret has it now. Each change of the Secret makes another.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) ca: Arc<SigningCa>,
    /// Of the certificate that signs.
    pub(crate) fingerprint: String,
    /// All that are believed, in PEM.
    pub(crate) roots: String,
    /// Certificates may live so long, if the Secret says.
    longest: Option<Duration>,
    rotation: Option<Rotation>,
}

impl Held {
    fn of(ca: SigningCa) -> Self {
        let fingerprint = control::fingerprint(&ca.certificate());
        let roots = ca.roots().iter().map(|root| pem(root)).collect();
        Self { ca: Arc::new(ca), fingerprint, roots, longest: None, rotation: None }
    }

    /// Of the rotation that is under way; 0 is none.
    pub(crate) fn stage(&self) -> u64 {
        self.rotation.map_or(0, |rotation| rotation.stage.number())
    }

    pub(crate) fn seconds_left(&self) -> u64 {
        self.ca.not_after().duration_since(SystemTime::now()).map_or(0, |left| left.as_secs())
    }
}

/// RFC 7468: lines of 64 characters.
fn pem(certificate: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in certificate.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

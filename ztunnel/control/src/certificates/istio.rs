//! Istio's CA, and whoever speaks its protocol: one signing request, one answer, over the shared kind of channel.
//!
//! Which workload a certificate is for says the request's metadata: our token is the node's, and the CA knows which
//! workloads run there. Of the answer nothing is believed here; the keeper checks it.

use std::{error::Error, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use model::SpiffeId;
use parking_lot::Mutex;
use proto::{
    certificates::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_client::IstioCertificateServiceClient,
    },
    prost_types::{Struct, Value, value::Kind},
    tonic::{Code, Status},
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};

use super::{AuthorityError, CertificateAuthority, Issued};
use crate::channel::{ChannelError, ChannelSettings, Connection};

/// A few certificates.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// One signing request.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Of what a CA says of a refusal, in the log and for people.
const MAX_WORDS: usize = 200;

pub struct IstioCa {
    channel: ChannelSettings,
    lifetime: Duration,
    /// Shared by all requests until one fails on it.
    connection: Mutex<Option<(u64, Connection)>>,
    connecting: tokio::sync::Mutex<()>,
}

/// The connection of one request. Unless it was answered, others do not try it again.
struct Lease<'a> {
    ca: &'a IstioCa,
    number: u64,
    answered: bool,
}

impl IstioCa {
    /// Certificates are asked for `lifetime`; how long they live is the CA's to say.
    pub fn new(channel: ChannelSettings, lifetime: Duration) -> Self {
        Self { channel, lifetime, connection: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    async fn connection(&self) -> Result<(u64, Connection), ChannelError> {
        let _only_one = self.connecting.lock().await;
        let last = self.connection.lock().clone();
        if let Some(open) = last.filter(|(_, connection)| !connection.is_closed()) {
            return Ok(open);
        }
        let made = (rand::random(), self.channel.connect().await?);
        *self.connection.lock() = Some(made.clone());
        Ok(made)
    }
}

impl CertificateAuthority for IstioCa {
    async fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'static>,
    ) -> Result<Issued, AuthorityError> {
        let (number, connection) = self.connection().await.map_err(unreachable)?;
        let mut lease = Lease { ca: self, number, answered: false };
        let mut client = IstioCertificateServiceClient::new(connection)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES);
        let asked = message(identity, request, self.lifetime);
        let answer = client.create_certificate(asked).await;
        lease.answered = answer.as_ref().err().is_none_or(|status| !is_of_the_connection(status));
        issued(answer.map_err(|status| refused(&status))?.get_ref())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut connection = self.ca.connection.lock();
        if !self.answered && connection.as_ref().is_some_and(|(number, _)| *number == self.number) {
            *connection = None;
        }
    }
}

pub(super) fn message(
    identity: &SpiffeId,
    request: &CertificateSigningRequestDer<'static>,
    lifetime: Duration,
) -> IstioCertificateRequest {
    let named = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    IstioCertificateRequest {
        csr: pem(request),
        validity_duration: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
        metadata: Some(Struct { fields: [("ImpersonatedIdentity".to_owned(), named)].into() }),
    }
}

/// RFC 7468: lines of 64 characters.
fn pem(request: &CertificateSigningRequestDer<'_>) -> String {
    let mut text = "-----BEGIN CERTIFICATE REQUEST-----".to_owned();
    for line in request.chunks(48) {
        text.push('\n');
        STANDARD.encode_string(line, &mut text);
    }
    text.push_str("\n-----END CERTIFICATE REQUEST-----\n");
    text
}

/// The leaf first and the roots last; each part may hold several certificates.
fn issued(answer: &IstioCertificateResponse) -> Result<Issued, AuthorityError> {
    let wrong = |what: &str| AuthorityError::Answer(what.to_owned());
    let parts: Result<Vec<_>, _> = answer.cert_chain.iter().map(|part| certificates(part)).collect();
    let mut parts = parts.map_err(|_| wrong("not certificates in PEM"))?;
    let roots = if parts.len() > 1 { parts.pop().unwrap_or_default() } else { Vec::new() };
    let chain: Vec<_> = parts.into_iter().flatten().collect();
    if chain.is_empty() { Err(wrong("an empty chain")) } else { Ok(Issued { chain, roots }) }
}

fn certificates(part: &str) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(part.as_bytes()).collect()
}

fn unreachable(error: ChannelError) -> AuthorityError {
    match error {
        ChannelError::Deadline { .. } => AuthorityError::Deadline,
        other => AuthorityError::Unreachable(other.to_string()),
    }
}

fn refused(status: &Status) -> AuthorityError {
    let said: String = status.message().chars().take(MAX_WORDS).collect();
    match status.code() {
        Code::Unauthenticated => AuthorityError::Unauthenticated(said),
        Code::DeadlineExceeded => AuthorityError::Deadline,
        _ if is_of_the_connection(status) => {
            let cause = status.source().map(|source| format!(": {source}")).unwrap_or_default();
            AuthorityError::Unreachable(format!("{said}{cause}"))
        }
        code => AuthorityError::Refused(format!("{code:?}: {said}")),
    }
}

/// Whether another connection may fare better. What a proxy in between makes up counts as such.
fn is_of_the_connection(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded
    )
}

//! Istio's CA service: one signing request, one answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use control::AuthorityError;
use model::SpiffeId;
use parking_lot::RwLock;
use proto::{
    certificates::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::IstioCertificateService,
    },
    prost_types::value::Kind,
    tonic::{Request, Response, Status, async_trait},
};
use tokio::sync::{Semaphore, watch};

use super::{CurrentCa, node, pem};
use crate::{authentication::Authenticator, inventory::Inventory, probes::Counters, server::Guest};

const SHORTEST: Duration = Duration::from_secs(60);
/// Of a whole request.
pub(crate) const MAX_REQUEST: usize = 16 << 10;
/// At once: a storm of daemons takes turns.
const SIGNATURES: usize = 64;

/// Clones serve the same.
#[derive(Clone)]
pub(crate) struct CertificateService {
    pub(crate) ca: CurrentCa,
    pub(crate) inventory: Arc<RwLock<Inventory>>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) longest: Duration,
    pub(crate) places: Arc<Semaphore>,
}

impl CertificateService {
    pub(crate) fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(SIGNATURES))
    }
}

#[async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = self.authenticator.daemon(request.metadata()).await.inspect_err(|_| {
            self.counters.refused_tokens.fetch_add(1, Ordering::Relaxed);
        })?;
        if let Some(guest) = request.extensions().get::<Guest>() {
            guest.prove();
        }
        let asked = request.into_inner();
        let identity = impersonated(&asked)?;
        let daemon = caller.pod.clone().unwrap_or_default();
        let mut changed = self.changed.clone();
        let node = node::authorize_soon(&self.inventory, &mut changed, &caller, &identity).await;
        let node = node.map_err(|denied| {
            self.counters.refused_identities.fetch_add(1, Ordering::Relaxed);
            let (reason, words) = (denied.reason(), denied.words());
            tracing::warn!(target: "audit", %identity, daemon, reason, "a certificate was refused: {words}");
            Status::permission_denied(words)
        })?;
        let _place = self.places.acquire().await.map_err(|_| Status::unavailable("ending"))?;
        let Some(held) = self.ca.borrow().clone() else {
            return Err(Status::unavailable("the CA's Secret is not there yet"));
        };
        let wanted = u64::try_from(asked.validity_duration).ok().filter(|seconds| *seconds > 0);
        // A rotation of the root counts on what the Secret says.
        let longest = held.longest.map_or(self.longest, |longest| longest.min(self.longest));
        let lifetime = wanted.map_or(longest, Duration::from_secs).clamp(SHORTEST.min(longest), longest);
        let issued =
            held.ca.sign(&identity, asked.csr.as_bytes(), lifetime, SystemTime::now()).map_err(refused)?;
        self.counters.certificates.fetch_add(1, Ordering::Relaxed);
        let fingerprint = issued.chain.first().map(control::fingerprint).unwrap_or_default();
        let lifetime = humantime::format_duration(lifetime).to_string();
        tracing::info!(target: "audit", %identity, node, daemon, fingerprint, lifetime, "a certificate was signed");
        let mut cert_chain: Vec<String> = issued.chain.iter().map(|certificate| pem(certificate)).collect();
        cert_chain.push(held.roots);
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A daemon has no certificate of its own.
fn impersonated(asked: &IstioCertificateRequest) -> Result<SpiffeId, Status> {
    let fields = asked.metadata.as_ref().map(|metadata| &metadata.fields);
    let named =
        fields.and_then(|fields| fields.get("ImpersonatedIdentity")).and_then(|value| value.kind.as_ref());
    let Some(Kind::StringValue(name)) = named else {
        return Err(Status::invalid_argument("for which workload? (ImpersonatedIdentity)"));
    };
    name.parse()
        .map_err(|error: model::identity::InvalidIdentity| Status::invalid_argument(error.to_string()))
}

fn refused(error: AuthorityError) -> Status {
    match error {
        AuthorityError::RootExpired => Status::failed_precondition(error.to_string()),
        AuthorityError::OtherTrustDomain(_) => Status::permission_denied(error.to_string()),
        other => Status::invalid_argument(other.to_string()),
    }
}

//! Whose token it is: asked of the API server by TokenReview, for our audience only, and remembered for a moment, which never
//! outlives the token.
//!
//! Only daemons are served: their service account, and nobody else's.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kubernetes::{
    k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    kube::{Api, Client, api::PostParams},
};
use parking_lot::Mutex;
use proto::tonic::{Status, metadata::MetadataMap};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::settings::Settings;

/// A token that was revoked may be used for so long.
const REMEMBERED: Duration = Duration::from_secs(30);
const REFUSALS_REMEMBERED: Duration = Duration::from_secs(5);
/// Tokens: several for each daemon.
const CACHE: usize = 8_192;
/// Larger ones are no tokens.
const MAX_TOKEN: usize = 16 << 10;
/// At once, so that a storm of daemons is none of the API server's.
const REVIEWS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(5);
/// Requests that wait for that: whoever floods it with tokens of his own making fills no memory.
const WAITING: usize = 1_024;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A daemon, as the API server vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) pod: Option<String>,
    pub(crate) pod_uid: Option<String>,
    /// Not told by API servers before 1.29.
    pub(crate) node: Option<String>,
}

pub(crate) struct Authenticator {
    reviews: Api<TokenReview>,
    audience: String,
    /// As the API server names it.
    account: String,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
    places: Semaphore,
    waiting: Semaphore,
}

type Answer = Result<Arc<Caller>, String>;

struct Remembered {
    answer: Answer,
    until: Instant,
}

impl Authenticator {
    pub(crate) fn new(client: Client, settings: &Settings) -> Self {
        Self {
            reviews: Api::all(client),
            audience: settings.audience.clone(),
            account: format!("system:serviceaccount:{}:{}", settings.namespace, settings.daemon_account),
            remembered: Mutex::default(),
            places: Semaphore::new(REVIEWS),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// By the token of a request.
    pub(crate) async fn daemon(&self, metadata: &MetadataMap) -> Result<Arc<Caller>, Status> {
        let given = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = given.and_then(|given| given.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(Status::unauthenticated(
                "a service account's token is needed (authorization: Bearer)",
            ));
        }
        let digest = digest(&SHA256, token.as_bytes());
        let key = <[u8; 32]>::try_from(digest.as_ref()).map_err(|_| Status::internal("SHA-256"))?;
        if let Some(answer) = self.recall(&key) {
            return answer.map_err(Status::unauthenticated);
        }
        let busy = || Status::unavailable("too many tokens are looked at");
        let _seat = self.waiting.try_acquire().map_err(|_| busy())?;
        let _place = timeout(DEADLINE, self.places.acquire()).await.map_err(|_| busy())?;
        // Others may have asked the same while this waited.
        if let Some(answer) = self.recall(&key) {
            return answer.map_err(Status::unauthenticated);
        }
        let answer = self.review(token).await?;
        self.remember(key, answer.clone(), left(token));
        answer.map_err(Status::unauthenticated)
    }

    fn recall(&self, key: &[u8; 32]) -> Option<Answer> {
        let remembered = self.remembered.lock();
        remembered.get(key).filter(|known| known.until > Instant::now()).map(|known| known.answer.clone())
    }

    fn remember(&self, key: [u8; 32], answer: Answer, left: Option<Duration>) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= CACHE {
            // Anybody can be refused; only daemons are not.
            remembered.retain(|_, known| known.until > now && known.answer.is_ok());
        }
        if remembered.len() >= CACHE {
            remembered.clear();
        }
        let time = if answer.is_ok() { REMEMBERED } else { REFUSALS_REMEMBERED };
        remembered.insert(key, Remembered { answer, until: now + left.map_or(time, |left| left.min(time)) });
    }

    async fn review(&self, token: &str) -> Result<Answer, Status> {
        let spec =
            TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let unavailable = |cause: String| {
            tracing::warn!(
                cause,
                "the API server did not review a token; may this service account create tokenreviews?"
            );
            Status::unavailable("the API server did not review the token")
        };
        let parameters = PostParams::default();
        let asking = timeout(DEADLINE, self.reviews.create(&parameters, &review));
        let answered = asking.await.map_err(|_| unavailable("no answer in time".to_owned()))?;
        let status = answered.map_err(|error| unavailable(error.to_string()))?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(Err(format!("the token is not good: {}", status.error.unwrap_or_default())));
        }
        // A server that knows of no audiences would take a token for anybody.
        if !status.audiences.iter().flatten().any(|audience| *audience == self.audience) {
            return Ok(Err(format!("the token is not for the audience {}", self.audience)));
        }
        Ok(self.caller(status.user.unwrap_or_default()).map(Arc::new))
    }

    fn caller(&self, user: UserInfo) -> Result<Caller, String> {
        let name = user.username.unwrap_or_default();
        if name != self.account {
            return Err(format!("{name} is not the service account of the daemons, {}", self.account));
        }
        let mut extra = user.extra.unwrap_or_default();
        let mut first = |name: &str| extra.remove(name).and_then(|values| values.into_iter().next());
        Ok(Caller { pod: first(POD_NAME), pod_uid: first(POD_UID), node: first(NODE_NAME) })
    }
}

/// For how long a token is good by its own word, which the API server has verified if it took it; `None` if it says nothing.
fn left(token: &str) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { exp } = serde_json::from_slice(&payload).ok()?;
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp))?;
    Some(end.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests;

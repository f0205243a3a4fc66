//! Whose tokens are taken, and for how long, against a test API server.

use std::net::{IpAddr, Ipv4Addr};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser as _;
use proto::tonic::Code;
use testkit::api_server::{ApiServer, Fault, Reviewed};

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

struct Reviewing {
    api: ApiServer,
    authenticator: Authenticator,
}

impl Reviewing {
    async fn start() -> Self {
        let api = ApiServer::start(IpAddr::V4(Ipv4Addr::LOCALHOST), None).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        api.write_kubeconfig(file.path(), "controller").unwrap();
        let client = kubernetes::connect(Some(file.path())).await.unwrap();
        let settings = Line::parse_from(["controller", "--namespace", "mesh"]).settings;
        Self { authenticator: Authenticator::new(client, &settings), api }
    }

    async fn ask(&self, token: &str) -> Result<Arc<Caller>, Code> {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.authenticator.daemon(&metadata).await.map_err(|status| status.code())
    }

    fn reviews(&self) -> usize {
        self.api.asked().iter().filter(|asked| asked.resource == "tokenreviews").count()
    }
}

fn daemon() -> Reviewed {
    Reviewed::pod("mesh", "ztunnel", "ztunnel-1", "n1", "istio-ca")
}

/// As a service account's token is built; its signature is the API server's to look at.
fn token(left: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let payload = serde_json::json!({ "exp": now.saturating_add_signed(left) }).to_string();
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

/// Fails if anybody but a daemon's own service account, by a token that is meant for us, were served.
#[tokio::test]
async fn only_daemons_with_a_token_for_us_are_served() {
    let reviewing = Reviewing::start().await;
    let other_audience = Reviewed { audiences: vec!["vault".into()], ..daemon() };
    let other_account = Reviewed::pod("mesh", "default", "x", "n1", "istio-ca");
    let other_namespace = Reviewed::pod("shop", "ztunnel", "x", "n1", "istio-ca");
    let person = Reviewed { username: "mallory".into(), ..daemon() };
    for (token, reviewed) in [
        ("audience", other_audience),
        ("account", other_account),
        ("namespace", other_namespace),
        ("person", person),
        ("good", daemon()),
    ] {
        reviewing.api.accept_token(token, reviewed);
    }
    for token in ["audience", "account", "namespace", "person", "unknown", "", " "] {
        assert_eq!(reviewing.ask(token).await, Err(Code::Unauthenticated), "{token}");
    }
    assert_eq!(reviewing.ask(&"x".repeat(MAX_TOKEN + 1)).await, Err(Code::Unauthenticated));
    let caller = reviewing.ask("good").await.unwrap();
    assert_eq!((caller.pod.as_deref(), caller.node.as_deref()), (Some("ztunnel-1"), Some("n1")));
    let without = reviewing.authenticator.daemon(&MetadataMap::new()).await.unwrap_err();
    assert_eq!(without.code(), Code::Unauthenticated);
}

/// Fails if an API server that fails were taken for a refusal, or its failure were remembered.
#[tokio::test]
async fn an_api_server_that_fails_says_nothing_of_the_token() {
    let reviewing = Reviewing::start().await;
    reviewing.api.accept_token("good", daemon());
    for status in [500, 429, 403] {
        reviewing.api.inject(Fault::status("tokenreviews", status));
        assert_eq!(reviewing.ask("good").await, Err(Code::Unavailable), "{status}");
    }
    assert!(reviewing.ask("good").await.is_ok());
}

/// Fails if each request cost the API server a review, or if a token were believed after its own end.
#[tokio::test]
async fn an_answer_is_remembered_and_never_outlives_the_token() {
    let reviewing = Reviewing::start().await;
    let (lasting, ending) = (token(3600), token(2));
    for token in [&lasting, &ending] {
        reviewing.api.accept_token(token, daemon());
        for _ in 0..3 {
            reviewing.ask(token).await.unwrap();
        }
    }
    assert_eq!(reviewing.reviews(), 2);
    for token in [&lasting, &ending] {
        reviewing.api.revoke_token(token);
    }
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(reviewing.ask(&ending).await, Err(Code::Unauthenticated), "it outlived itself");
    assert!(reviewing.ask(&lasting).await.is_ok(), "remembered for {REMEMBERED:?}");
    assert_eq!(left("opaque"), None);
    assert_eq!(left(&token(-5)), Some(Duration::ZERO));
}

/// Fails if refusals, which anybody can cause, filled memory or pushed daemons out.
#[tokio::test]
async fn what_is_remembered_is_bounded_and_strangers_push_no_daemon_out() {
    let reviewing = Reviewing::start().await;
    reviewing.api.accept_token("good", daemon());
    reviewing.ask("good").await.unwrap();
    let authenticator = &reviewing.authenticator;
    for number in 0..2 * CACHE {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        authenticator.remember(key, Err("no".into()), None);
    }
    assert!(authenticator.remembered.lock().len() <= CACHE);
    reviewing.ask("good").await.unwrap();
    assert_eq!(reviewing.reviews(), 1, "the daemon was forgotten");
    for number in 0..2 * CACHE {
        let mut key = [1; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        let caller = Caller { pod: None, pod_uid: None, node: None };
        authenticator.remember(key, Ok(Arc::new(caller)), None);
    }
    assert!(authenticator.remembered.lock().len() <= CACHE);
}

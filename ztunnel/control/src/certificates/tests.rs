//! Issue and renewal in paused time; what is issued; how roots are kept.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use model::{SpiffeId, SvidError, SvidSource, revocation::RevocationList};
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::time::{Instant, advance, sleep};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;

mod embedded;
mod intermediate;
mod istio;
mod roots;
mod secrets;
mod trust;

const HOUR: Duration = Duration::from_secs(3600);
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

fn id(text: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{text}").parse().unwrap()
}

/// A wall clock that goes with tokio's.
fn paused_clock() -> Clock {
    let (start, epoch) = (Instant::now(), SystemTime::now());
    Arc::new(move || epoch + start.elapsed())
}

fn embedded_ca(clock: &Clock) -> (EmbeddedCa, tempfile::TempDir) {
    embedded_ca_for(LIFETIME, clock)
}

fn embedded_ca_for(lifetime: Duration, clock: &Clock) -> (EmbeddedCa, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (key, certificate) = (directory.path().join("key.pem"), directory.path().join("root.pem"));
    let trust_domain = "cluster.local".parse().unwrap();
    let files = CaFiles::Root { key, certificate };
    (EmbeddedCa::open(files, trust_domain, lifetime, Arc::clone(clock)).unwrap(), directory)
}

/// The embedded CA, slowed down, counted, and broken at will.
struct Moody {
    ca: EmbeddedCa,
    _files: tempfile::TempDir,
    asked: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    /// Requests for this one are answered with a certificate for another.
    confused_by: Option<SpiffeId>,
    /// Requests for this one are never answered.
    hangs_on: Option<SpiffeId>,
}

impl CertificateAuthority for Moody {
    async fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'static>,
    ) -> Result<Issued, AuthorityError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(50)).await;
        if self.hangs_on.as_ref() == Some(identity) {
            std::future::pending::<()>().await;
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(AuthorityError::Unreachable("it is broken".into()));
        }
        if self.confused_by.as_ref() == Some(identity) {
            let other = request::Request::new(&id("other"))?;
            return self.ca.sign(&id("other"), other.der()).await;
        }
        self.ca.sign(identity, request).await
    }
}

struct House {
    certificates: Arc<Certificates>,
    clock: Clock,
    asked: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

fn house(mood: impl FnOnce(&mut Moody)) -> House {
    let clock = paused_clock();
    let (ca, files) = embedded_ca(&clock);
    let (asked, broken) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
    let (counter, switch) = (Arc::clone(&asked), Arc::clone(&broken));
    let mut authority =
        Moody { ca, _files: files, asked: counter, broken: switch, confused_by: None, hangs_on: None };
    mood(&mut authority);
    let mut settings = CertificateSettings::new("cluster.local".parse().unwrap());
    settings.clock = Arc::clone(&clock);
    House { certificates: Arc::new(Certificates::start(authority, settings)), clock, asked, broken }
}

impl House {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn status(&self) -> CertificateStatus {
        self.certificates.statuses().remove(0)
    }

    /// Lets time pass in steps, as timers fire one after the other.
    async fn pass(&self, time: Duration) {
        let steps = time.as_secs() / 30;
        for _ in 0..steps {
            advance(Duration::from_secs(30)).await;
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_ask_at_once_wait_for_one_issue_and_share_it() {
    let house = house(|_| ());
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let certificates = Arc::clone(&house.certificates);
            tokio::spawn(async move { certificates.svid(&id("a")).await.unwrap() })
        })
        .collect();
    let mut serials = HashSet::new();
    for asking in asking {
        serials.insert(asking.await.unwrap().serial.clone());
    }
    assert_eq!((house.asked(), serials.len()), (1, 1));
}

/// Certificates are backdated by as much as the shortest lives. Counted from there, one would be due when it is issued,
/// and the daemon would do nothing but issue.
#[tokio::test(start_paused = true)]
async fn a_certificate_of_a_minute_is_renewed_twice_a_minute_and_not_all_the_time() {
    let house = house(|moody| {
        (moody.ca, moody._files) = embedded_ca_for(Duration::from_secs(60), &paused_clock());
    });
    house.certificates.svid(&id("a")).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert!((20..=26).contains(&house.asked()), "issued {} times", house.asked());
}

/// Fails if a revoked certificate is given out again, if another identity's goes with it, or if the authority is asked
/// again for what it has just issued.
#[tokio::test(start_paused = true)]
async fn a_revoked_certificate_is_replaced_at_once_and_others_stay() {
    let house = house(|_| ());
    let a = house.certificates.svid(&id("a")).await.unwrap();
    let b = house.certificates.svid(&id("b")).await.unwrap();
    let (_, leaf) = X509Certificate::from_der(&a.chain[0]).unwrap();
    let list =
        RevocationList::new([a.identity.trust_domain().clone()], leaf.issuer().as_raw(), [leaf.raw_serial()]);
    house.certificates.revoke(Arc::new([Arc::new(list)].into_iter().collect()));
    let again = house.certificates.svid(&id("a")).await.unwrap();
    assert_ne!(again.serial, a.serial);
    assert!(Arc::ptr_eq(&b, &house.certificates.svid(&id("b")).await.unwrap()));
    house.pass(HOUR).await;
    assert_eq!(house.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_by_half_life_with_a_fresh_key_and_the_old_one_lives_on_with_its_users() {
    let house = house(|_| ());
    let first = house.certificates.svid(&id("a")).await.unwrap();
    house.pass(9 * HOUR).await;
    assert_eq!(house.asked(), 1, "renewed far too early");
    house.pass(3 * HOUR).await;
    let second = house.certificates.svid(&id("a")).await.unwrap();
    assert_eq!(house.asked(), 2);
    assert_ne!(first.serial, second.serial);
    assert_ne!(first.key.expose().secret_der(), second.key.expose().secret_der());
    assert!((house.clock)() < first.not_after, "there was time to spare");
}

#[tokio::test(start_paused = true)]
async fn a_failing_authority_is_asked_ever_less_and_the_old_certificate_serves_until_it_expires() {
    let house = house(|_| ());
    let first = house.certificates.svid(&id("a")).await.unwrap();
    house.broken.store(true, Ordering::SeqCst);
    house.pass(13 * HOUR).await;
    assert_eq!(house.certificates.svid(&id("a")).await.unwrap().serial, first.serial);
    let status = house.status();
    assert_eq!(status.state, CertificateState::Stale);
    assert!(status.failures > 0 && status.error.unwrap().contains("it is broken"));
    assert!(house.asked() < 60, "{} attempts in an hour or three are a siege", house.asked());

    house.pass(12 * HOUR).await;
    assert_eq!(house.status().state, CertificateState::Expired);
    let asked = house.asked();
    for _ in 0..100 {
        let answer = house.certificates.svid(&id("a")).await;
        assert!(matches!(answer, Err(SvidError::Expired(_))), "{answer:?}");
    }
    assert_eq!(house.asked(), asked, "callers must not push a failing authority");

    house.broken.store(false, Ordering::SeqCst);
    house.pass(HOUR / 6).await;
    assert_ne!(house.certificates.svid(&id("a")).await.unwrap().serial, first.serial);
    assert_eq!(house.status().state, CertificateState::Valid);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_past_expiry_issues_before_it_answers() {
    let house = house(|_| ());
    let first = house.certificates.svid(&id("a")).await.unwrap();
    advance(30 * HOUR).await;
    let second = house.certificates.svid(&id("a")).await.unwrap();
    assert_ne!(first.serial, second.serial);
    assert!((house.clock)() < second.not_after);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_hangs_is_given_up_and_delays_no_other_identity() {
    let house = house(|moody| moody.hangs_on = Some(id("stuck")));
    let start = Instant::now();
    house.certificates.prefetch(&id("stuck")).unwrap();
    house.certificates.svid(&id("a")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    let refused = house.certificates.svid(&id("stuck")).await.unwrap_err();
    assert!(refused.to_string().contains("in time"), "{refused}");
    assert!(start.elapsed() < Duration::from_secs(11));
}

/// Fails if a node that starts with many pods makes a connection wait until all are provided for.
#[tokio::test(start_paused = true)]
async fn what_a_connection_waits_for_is_fetched_before_what_none_does() {
    let house = house(|_| ());
    for number in 0..200 {
        house.certificates.prefetch(&id(&format!("ahead{number}"))).unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(house.asked(), 12, "not all places are for what nobody waits for");
    let start = Instant::now();
    house.certificates.svid(&id("waited-for")).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(60), "{:?}", start.elapsed());
    assert!(house.asked() < 30, "{}", house.asked());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_dropped_and_its_waiters_are_told() {
    let house = house(|moody| moody.hangs_on = Some(id("stuck")));
    house.certificates.svid(&id("a")).await.unwrap();
    house.certificates.svid(&id("b")).await.unwrap();
    let waiter = {
        let certificates = Arc::clone(&house.certificates);
        tokio::spawn(async move { certificates.svid(&id("stuck")).await })
    };
    sleep(Duration::from_secs(1)).await;
    house.certificates.retain(&HashSet::from([id("b")]));
    assert!(matches!(waiter.await.unwrap(), Err(SvidError::Unavailable { .. })));
    assert_eq!(
        house.certificates.svids().iter().map(|svid| svid.identity.clone()).collect::<Vec<_>>(),
        [id("b")]
    );
    let asked = house.asked();
    house.pass(13 * HOUR).await;
    assert_eq!(house.asked(), asked + 1, "only the one in use is renewed");
}

#[tokio::test(start_paused = true)]
async fn other_trust_domains_and_answers_for_others_are_refused() {
    let house = house(|moody| moody.confused_by = Some(id("a")));
    let foreign = "spiffe://elsewhere/ns/default/sa/a".parse().unwrap();
    assert!(house.certificates.svid(&foreign).await.is_err());
    assert!(house.certificates.prefetch(&foreign).is_err());
    assert!(house.certificates.statuses().is_empty(), "nothing is kept for a stranger");
    let refused = house.certificates.svid(&id("a")).await.unwrap_err();
    assert!(refused.to_string().contains("another identity"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn events_and_statuses_tell_what_happened_and_no_secret() {
    let clock = paused_clock();
    let (ca, _files) = embedded_ca(&clock);
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut settings = CertificateSettings::new("cluster.local".parse().unwrap());
    settings.clock = clock;
    let sink = Arc::clone(&told);
    settings.events = Arc::new(move |event| sink.lock().push(event));
    let certificates = Certificates::start(ca, settings);
    let svid = certificates.svid(&id("a")).await.unwrap();
    assert!(matches!(&told.lock()[..], [CertificateEvent::Issued { identity, .. }] if *identity == id("a")));
    let shown = serde_json::to_value(certificates.statuses()).unwrap();
    assert_eq!((&shown[0]["serial"], &shown[0]["state"]), (&svid.serial.clone().into(), &"valid".into()));
    assert!(shown[0]["notAfter"].as_str().unwrap().ends_with('Z'));
}

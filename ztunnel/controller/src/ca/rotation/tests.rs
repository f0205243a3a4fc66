//! A rotation step by step, without a cluster: who signs, who is believed, and what is too early.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use kubernetes::k8s_openapi::api::core::v1::Secret;
use model::TrustDomain;

use super::*;
use crate::ca::secret::{CERTIFICATES, KEY, LIFETIME, OTHER_KEY, OWN, own};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SETTLE: Duration = Duration::from_secs(300);

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// As the first leader makes it, and a replica completes it.
fn fresh() -> Secret {
    let (key, certificate) = control::new_root(&domain(), SystemTime::now()).unwrap();
    let fields = [(KEY, key.to_string()), (CERTIFICATES, certificate), (LIFETIME, DAY.as_secs().to_string())];
    let data = fields.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret { data: Some(data.into()), ..Secret::default() }
}

struct Rotating {
    secret: Secret,
    now: Timestamp,
}

impl Rotating {
    fn start() -> Self {
        Self { secret: fresh(), now: "2026-01-01T00:00:00Z".parse().unwrap() }
    }

    fn later(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).unwrap();
    }

    /// Whether it changed anything; else the Secret is as it was.
    fn step(&mut self, step: Step, force: bool) -> Result<bool, String> {
        let trust_domain = domain();
        let terms = Terms { trust_domain: &trust_domain, now: self.now, settle: SETTLE, force };
        match take(&self.secret, step, &terms) {
            Ok(Outcome::Changed(secret)) => {
                self.secret = *secret;
                Ok(true)
            }
            Ok(Outcome::Stands(_)) => Ok(false),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    fn stage(&self) -> Option<Stage> {
        Rotation::read(self.secret.data.as_ref().unwrap()).unwrap().map(|rotation| rotation.stage)
    }

    /// What signs, and all that are believed.
    fn roots(&self) -> (String, BTreeSet<String>) {
        let ca = own(self.secret.data.as_ref().unwrap(), KEY, &domain(), OWN).unwrap();
        let roots = ca.roots();
        let believed: BTreeSet<String> = roots.iter().map(control::fingerprint).collect();
        assert_eq!(believed.len(), roots.len(), "a root stands there twice");
        (control::fingerprint(&ca.certificate()), believed)
    }

    fn has_other_key(&self) -> bool {
        self.secret.data.as_ref().unwrap().contains_key(OTHER_KEY)
    }
}

/// Fails if a step signed with a root that is not announced yet, or dropped one that still counts, or if a step that is
/// taken twice did something twice.
#[test]
fn a_whole_rotation() {
    let mut rotating = Rotating::start();
    let (old, before) = rotating.roots();
    assert_eq!(rotating.step(Step::Prepare, false), Ok(true));
    let (signs, both) = rotating.roots();
    assert_eq!((signs, both.len(), rotating.stage()), (old.clone(), 2, Some(Stage::Prepared)));
    assert!(both.is_superset(&before));
    assert_eq!(rotating.step(Step::Prepare, false), Ok(false), "a second root was made");
    assert!(rotating.step(Step::Finish, false).is_err(), "it ended before it began");
    rotating.later(DAY);
    assert!(
        rotating.step(Step::Switch, false).unwrap_err().contains("too early"),
        "replicas had no time to follow"
    );
    rotating.later(SETTLE);
    assert_eq!(rotating.step(Step::Switch, false), Ok(true));
    let (new, believed) = rotating.roots();
    assert_ne!(new, old);
    assert_eq!((believed, rotating.stage()), (both, Some(Stage::Switched)));
    assert_eq!(rotating.step(Step::Switch, false), Ok(false), "it went back");
    rotating.later(DAY);
    assert!(rotating.step(Step::Finish, false).unwrap_err().contains("too early"));
    rotating.later(SETTLE);
    assert_eq!(rotating.step(Step::Finish, false), Ok(true));
    assert_eq!(rotating.roots(), (new.clone(), [new].into()));
    assert_eq!((rotating.stage(), rotating.has_other_key()), (None, false), "the old key stayed");
    assert_eq!(rotating.step(Step::Finish, false), Ok(false));
    assert_eq!(rotating.step(Step::Prepare, false), Ok(true), "there is no second rotation");
}

/// Fails if there were no way back, or if the way back dropped a root too early.
#[test]
fn back_to_the_old_root_at_each_stage() {
    let mut rotating = Rotating::start();
    let before = rotating.roots();
    assert_eq!(rotating.step(Step::Abort, false), Ok(false));
    rotating.step(Step::Prepare, false).unwrap();
    assert_eq!(rotating.step(Step::Abort, false), Ok(true), "nothing is signed with it yet");
    assert_eq!((rotating.roots(), rotating.has_other_key()), (before.clone(), false));

    rotating.step(Step::Prepare, false).unwrap();
    rotating.later(DAY + SETTLE);
    rotating.step(Step::Switch, false).unwrap();
    assert_eq!(rotating.step(Step::Abort, false), Ok(true));
    let (signs, believed) = rotating.roots();
    assert_eq!((&signs, believed.len(), rotating.stage()), (&before.0, 2, Some(Stage::Returned)));
    assert!(
        rotating.step(Step::Abort, false).unwrap_err().contains("too early"),
        "certificates of the new root live"
    );
    assert!(rotating.step(Step::Finish, false).is_err());
    assert_eq!(rotating.step(Step::Switch, false), Ok(true), "all daemons know the new root");
    assert_eq!(rotating.step(Step::Abort, false), Ok(true));
    rotating.later(DAY + SETTLE);
    assert_eq!(rotating.step(Step::Abort, false), Ok(true));
    assert_eq!((rotating.roots(), rotating.stage()), (before, None));
}

/// Fails if force were needed where nothing is lost, or did not help where the owner knows better.
#[test]
fn force_does_not_wait() {
    let mut rotating = Rotating::start();
    rotating.step(Step::Prepare, false).unwrap();
    assert_eq!(rotating.step(Step::Switch, true), Ok(true));
    assert_eq!(rotating.step(Step::Finish, true), Ok(true));
    assert_eq!(rotating.stage(), None);
}

/// Fails if what cannot be known were taken for granted: how long certificates live, whose root it is, what stage it is.
#[test]
fn what_is_not_known_is_refused() {
    let mut rotating = Rotating::start();
    rotating.secret.data.as_mut().unwrap().remove(LIFETIME);
    assert!(rotating.step(Step::Prepare, false).unwrap_err().contains("how long certificates live"));
    assert_eq!(rotating.stage(), None);

    let mut rotating = Rotating::start();
    rotating.secret.data.as_mut().unwrap().insert(ROTATION.to_owned(), ByteString(b"{}".to_vec()));
    assert!(rotating.step(Step::Prepare, false).unwrap_err().contains("is not what a rotation writes"));

    let rotating = Rotating::start();
    let trust_domain: TrustDomain = "other.example".parse().unwrap();
    let terms = Terms { trust_domain: &trust_domain, now: rotating.now, settle: SETTLE, force: false };
    assert!(
        take(&rotating.secret, Step::Prepare, &terms).is_err(),
        "a root of another trust domain was made"
    );
    assert!(!format!("{:?}", take(&Secret::default(), Step::Prepare, &terms)).contains("PRIVATE"));
}

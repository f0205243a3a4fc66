//! From one stage to the next.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use control::SigningCa;
use kubernetes::k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use model::TrustDomain;

use super::{Rotation, Stage};
use crate::ca::{
    pem,
    secret::{CERTIFICATES, Data, KEY, LIFETIME, OTHER_KEY, OWN, ROTATION, lifetime, own},
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Tell at which stage it is, and what comes next and when.
    Status,
    /// Make a new root. Daemons are told of it beside the old one, which goes on signing.
    Prepare,
    /// Sign with the new root, once every daemon believes it.
    Switch,
    /// Drop the old root, once no certificate under it lives.
    Finish,
    /// Go back: sign with the old root again, and drop the new one once no certificate under it lives.
    Abort,
}

/// What a step depends on besides the Secret.
pub(in crate::ca) struct Terms<'a> {
    pub(in crate::ca) trust_domain: &'a TrustDomain,
    pub(in crate::ca) now: Timestamp,
    /// Until all replicas, and the files that daemons read, have followed.
    pub(in crate::ca) settle: Duration,
    /// Does not wait, whatever it breaks.
    pub(in crate::ca) force: bool,
}

#[derive(Debug)]
pub(in crate::ca) enum Outcome {
    /// It is so already.
    Stands(&'static str),
    /// To be written in place of what was read.
    Changed(Box<Secret>),
}

/// Decides what a step makes of the Secret.
pub(in crate::ca) fn take(secret: &Secret, step: Step, terms: &Terms<'_>) -> anyhow::Result<Outcome> {
    let mut data = secret.data.clone().unwrap_or_default();
    let rotation = Rotation::read(&data)?;
    match (step, rotation.map(|rotation| rotation.stage)) {
        (Step::Status, _) => return Ok(Outcome::Stands("")),
        (Step::Prepare, None) => prepare(&mut data, terms)?,
        (Step::Prepare, Some(_)) => return Ok(Outcome::Stands("a rotation is under way already")),
        (Step::Switch, Some(Stage::Switched)) => return Ok(Outcome::Stands("the new root signs already")),
        (Step::Switch, Some(Stage::Prepared | Stage::Returned)) => {
            wait(
                &data,
                terms,
                rotation.map(|rotation| rotation.announced),
                "a daemon may not know the new root yet",
            )?;
            swap(&mut data, terms, Stage::Switched)?;
        }
        (Step::Finish, Some(Stage::Switched)) => {
            wait(
                &data,
                terms,
                rotation.map(|rotation| rotation.since),
                "a certificate of the old root may live",
            )?;
            drop_other(&mut data, terms)?;
        }
        (Step::Finish, Some(Stage::Prepared | Stage::Returned)) => {
            bail!("the new root does not sign: `switch` comes first, or `abort`")
        }
        (Step::Abort, Some(Stage::Prepared)) => drop_other(&mut data, terms)?,
        (Step::Abort, Some(Stage::Switched)) => swap(&mut data, terms, Stage::Returned)?,
        (Step::Abort, Some(Stage::Returned)) => {
            wait(
                &data,
                terms,
                rotation.map(|rotation| rotation.since),
                "a certificate of the new root may live",
            )?;
            drop_other(&mut data, terms)?;
        }
        (Step::Finish | Step::Abort, None) => return Ok(Outcome::Stands("no rotation is under way")),
        (Step::Switch, None) => bail!("no rotation is under way: `prepare` comes first"),
    }
    // What is written must be what replicas can sign with.
    own(&data, KEY, terms.trust_domain, OWN)?;
    Ok(Outcome::Changed(Box::new(Secret { data: Some(data), ..secret.clone() })))
}

/// When a step that began to be prepared then may be taken. The error says what is missing to know it.
pub(in crate::ca) fn ready(data: &Data, settle: Duration, from: Timestamp) -> anyhow::Result<Timestamp> {
    let longest = lifetime(data).with_context(|| {
        format!("the Secret does not say how long certificates live (`{LIFETIME}`); a running controller of this version writes it")
    })?;
    from.checked_add(longest.saturating_add(settle)).context("certificates live for ever")
}

fn wait(data: &Data, terms: &Terms<'_>, from: Option<Timestamp>, because: &str) -> anyhow::Result<()> {
    if terms.force {
        return Ok(());
    }
    let ready = ready(data, terms.settle, from.unwrap_or(terms.now))?;
    if terms.now < ready {
        bail!("too early: {because}; come back at {ready}, or use --force and break what relies on it");
    }
    Ok(())
}

fn prepare(data: &mut Data, terms: &Terms<'_>) -> anyhow::Result<()> {
    let signing = own(data, KEY, terms.trust_domain, OWN)?;
    // How long to wait is asked before there is anything to wait for.
    if !terms.force {
        ready(data, terms.settle, terms.now)?;
    }
    let (key, certificate) = control::new_root(terms.trust_domain, SystemTime::now())?;
    put(data, OTHER_KEY, key.as_bytes());
    put(data, CERTIFICATES, (bundle(&signing, None) + &certificate).as_bytes());
    write(data, Stage::Prepared, terms.now, terms.now)
}

/// The other root signs from now on.
fn swap(data: &mut Data, terms: &Terms<'_>, stage: Stage) -> anyhow::Result<()> {
    let announced = Rotation::read(data)?.map_or(terms.now, |rotation| rotation.announced);
    let other = own(data, OTHER_KEY, terms.trust_domain, OWN)?;
    let (Some(before), Some(after)) = (data.remove(KEY), data.remove(OTHER_KEY)) else {
        bail!("a key is gone");
    };
    data.insert(KEY.to_owned(), after);
    data.insert(OTHER_KEY.to_owned(), before);
    put(data, CERTIFICATES, bundle(&other, None).as_bytes());
    write(data, stage, announced, terms.now)
}

/// The root that does not sign is no longer believed.
fn drop_other(data: &mut Data, terms: &Terms<'_>) -> anyhow::Result<()> {
    let [signing, other] = [KEY, OTHER_KEY].map(|key| own(data, key, terms.trust_domain, OWN));
    put(data, CERTIFICATES, bundle(&signing?, Some(&other?)).as_bytes());
    data.remove(OTHER_KEY);
    data.remove(ROTATION);
    Ok(())
}

/// All that are believed but one, and first what signs.
fn bundle(signing: &SigningCa, without: Option<&SigningCa>) -> String {
    let first = signing.certificate();
    let without = without.map(SigningCa::certificate);
    let rest = signing.roots().into_iter().filter(|root| *root != first && Some(root) != without.as_ref());
    std::iter::once(first.clone()).chain(rest).map(|root| pem(&root)).collect()
}

fn write(data: &mut Data, stage: Stage, announced: Timestamp, since: Timestamp) -> anyhow::Result<()> {
    let written = Rotation { stage, announced, since }.written()?;
    data.insert(ROTATION.to_owned(), written);
    Ok(())
}

fn put(data: &mut Data, name: &str, value: &[u8]) {
    data.insert(name.to_owned(), ByteString(value.to_vec()));
}

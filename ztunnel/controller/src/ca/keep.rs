//! Follows the Secret with what signs. The leader makes it, once, if it is ours to make.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use futures::StreamExt;
use kubernetes::{
    Change, Selection,
    k8s_openapi::{ByteString, api::core::v1::Secret},
    kube::{
        Api, Client, Error,
        api::{ObjectMeta, PostParams},
    },
    watch,
};
use tokio::{
    sync::watch::{Receiver, Sender},
    time::sleep,
};

use super::{Held, root_config_map, secret};
use crate::settings::Settings;

const INTERVAL: Duration = Duration::from_secs(10);

/// Until the process ends. What cannot be used changes nothing and is told.
pub(crate) async fn keep(
    client: Client,
    settings: Arc<Settings>,
    mut leads: Receiver<bool>,
    current: Sender<Option<Held>>,
) {
    let name = settings.intermediate_secret.as_deref().unwrap_or(secret::OWN);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let mut changes = Box::pin(watch(secrets.clone(), Selection::named(name), |secret| secret));
    let mut is_missing = false;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Change::Complete(mut found)) => {
                    is_missing = found.is_empty();
                    if let Some(secret) = found.pop() {
                        take(&secret, &settings, &current);
                        tell_lifetime(&secrets, secret, &settings).await;
                    }
                }
                Some(Change::Applied(secret)) => {
                    is_missing = false;
                    take(&secret, &settings, &current);
                    tell_lifetime(&secrets, secret, &settings).await;
                }
                // What signed goes on signing: whoever deletes the Secret by mistake may put it back.
                Some(Change::Deleted(_)) => tracing::error!(secret = name, "the CA's Secret was deleted; put it back"),
                Some(Change::Failed(_)) => {}
                None => return,
            },
            changed = leads.changed() => if changed.is_err() { return },
            // What failed is tried again, and what others took away is put back.
            () = sleep(INTERVAL) => {}
        }
        if !*leads.borrow() {
            continue;
        }
        if is_missing && settings.intermediate_secret.is_none() && current.borrow().is_none() {
            is_missing = false;
            if let Err(error) = make(&client, &secrets, &settings).await {
                is_missing = true;
                tracing::error!("the mesh's root could not be made: {error:#}");
            }
        }
        let roots = current.borrow().as_ref().map(|held| held.roots.clone());
        if let Some(roots) = roots
            && let Err(error) = root_config_map::write(&client, &settings.namespace, &roots).await
        {
            tracing::error!("daemons will not know the roots: {error:#}");
        }
    }
}

fn take(secret: &Secret, settings: &Settings, current: &Sender<Option<Held>>) {
    match secret::open(secret, settings) {
        Ok(held) => {
            audit(current.borrow().as_ref(), &held);
            current.send_replace(Some(held));
        }
        Err(error) => tracing::error!("the CA's Secret cannot be used; what was before goes on: {error:#}"),
    }
}

fn audit(before: Option<&Held>, after: &Held) {
    let stage = |held: &Held| held.rotation.map_or("none", |rotation| rotation.stage.name());
    let (signed, signs, roots) =
        (before.map(|held| &held.fingerprint), &after.fingerprint, after.ca.roots().len());
    if signed != Some(signs) {
        tracing::warn!(target: "audit", before = signed, after = signs, roots, "the CA signs with this certificate from now on");
    }
    if before.is_some_and(|before| before.rotation != after.rotation) {
        let before = before.map(stage);
        tracing::warn!(target: "audit", before, after = stage(after), signs, roots, "the rotation of the root is at another stage");
    } else if before.is_some_and(|before| before.roots != after.roots) {
        tracing::warn!(target: "audit", signs, roots, "other roots are believed from now on");
    }
}

/// Whoever rotates the root has to know how long certificates live. Any replica says so if it signs for longer than the
/// Secret tells; one that is refused since another wrote first will be told of the Secret again.
async fn tell_lifetime(secrets: &Api<Secret>, mut secret: Secret, settings: &Settings) {
    let seconds = settings.certificate_lifetime.as_secs();
    let told = secret.data.as_ref().and_then(secret::lifetime);
    if settings.intermediate_secret.is_some() || told.is_some_and(|told| told.as_secs() >= seconds) {
        return;
    }
    let data = secret.data.get_or_insert_default();
    data.insert(secret::LIFETIME.to_owned(), ByteString(seconds.to_string().into_bytes()));
    let written = secrets.replace(secret::OWN, &PostParams::default(), &secret).await;
    match written {
        Ok(_) => {}
        Err(Error::Api(status)) if status.code == 409 => {}
        Err(error) => {
            tracing::warn!("the Secret {} does not say how long certificates live: {error}", secret::OWN);
        }
    }
}

/// Two leaders at once, as may be for a moment, do not make two: whoever comes second is refused.
async fn make(client: &Client, secrets: &Api<Secret>, settings: &Settings) -> anyhow::Result<()> {
    let namespace = &settings.namespace;
    // Daemons believe that one. Another would take the mesh apart, one certificate after the other.
    if root_config_map::read(client, namespace).await?.is_some() {
        bail!(
            "Secret {namespace}/{} is gone, but not the root in ConfigMap {namespace}/{}; put the Secret back, or delete the \
             ConfigMap to have a new root, which ends trust in all certificates of the old",
            secret::OWN,
            root_config_map::NAME
        );
    }
    let (key, certificate) = control::new_root(&settings.trust_domain, SystemTime::now())?;
    let data = [(secret::KEY, key.as_bytes()), (secret::CERTIFICATES, certificate.as_bytes())];
    let data: BTreeMap<String, ByteString> =
        data.into_iter().map(|(name, value)| (name.to_owned(), ByteString(value.to_vec()))).collect();
    let metadata = ObjectMeta { name: Some(secret::OWN.to_owned()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => {
            let trust_domain = &settings.trust_domain;
            tracing::warn!(target: "audit", secret = secret::OWN, %trust_domain, "a new root was made");
            Ok(())
        }
        Err(Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).context(format!("creating Secret {}/{}", settings.namespace, secret::OWN)),
    }
}

#[cfg(test)]
mod tests;

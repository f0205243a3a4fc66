//! Follows the Secret with what signs. The leader makes it, once, if it is ours to make.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use control::{CaMaterial, SigningCa};
use futures::StreamExt;
use kubernetes::{
    Change, Selection,
    k8s_openapi::{ByteString, api::core::v1::Secret},
    kube::{
        Api, Client,
        api::{ObjectMeta, PostParams},
    },
    watch,
};
use tokio::{
    sync::watch::{Receiver, Sender},
    time::sleep,
};
use zeroize::Zeroizing;

use super::{Held, root_config_map};
use crate::settings::Settings;

const INTERVAL: Duration = Duration::from_secs(10);
/// Of the root that is made here.
const OWN_SECRET: &str = "ztunnel-ca";
const OWN_KEY: &str = "ca.key";
const OWN_CERTIFICATES: &str = "ca.crt";

/// Until the process ends. What cannot be used changes nothing and is told.
pub(crate) async fn keep(
    client: Client,
    settings: Arc<Settings>,
    mut leads: Receiver<bool>,
    current: Sender<Option<Held>>,
) {
    let name = settings.intermediate_secret.as_deref().unwrap_or(OWN_SECRET);
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
                    }
                }
                Some(Change::Applied(secret)) => {
                    is_missing = false;
                    take(&secret, &settings, &current);
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
            if let Err(error) = make(&secrets, &settings).await {
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
    match open(secret, settings) {
        Ok(held) => {
            let before = current.borrow().as_ref().map(|held| held.fingerprint.clone());
            let (after, roots) = (&held.fingerprint, held.ca.roots().len());
            if before.as_ref() != Some(after) {
                tracing::warn!(target: "audit", before, after, roots, "the CA signs with this certificate from now on");
            }
            current.send_replace(Some(held));
        }
        Err(error) => tracing::error!("the CA's Secret cannot be used; what was before goes on: {error:#}"),
    }
}

fn open(secret: &Secret, settings: &Settings) -> anyhow::Result<Held> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let place = format!("Secret {}/{name}", settings.namespace);
    let data = secret.data.as_ref().with_context(|| format!("{place} is empty"))?;
    let field = |name: &str| match data.get(name) {
        Some(value) if !value.0.is_empty() => Ok(value.0.clone()),
        _ => bail!("{place} has no {name}"),
    };
    let material = if settings.intermediate_secret.is_some() {
        let key = Zeroizing::new(field("tls.key")?);
        CaMaterial { key, certificates: field("tls.crt")?, roots: Some(field("ca.crt")?), place }
    } else {
        let key = Zeroizing::new(field(OWN_KEY)?);
        CaMaterial { key, certificates: field(OWN_CERTIFICATES)?, roots: None, place }
    };
    Ok(Held::of(SigningCa::open(&material, settings.trust_domain.clone(), SystemTime::now())?))
}

/// Two leaders at once, as may be for a moment, do not make two: whoever comes second is refused.
async fn make(secrets: &Api<Secret>, settings: &Settings) -> anyhow::Result<()> {
    let (key, certificate) = control::new_root(&settings.trust_domain, SystemTime::now())?;
    let data = [(OWN_KEY, key.as_bytes()), (OWN_CERTIFICATES, certificate.as_bytes())];
    let data: BTreeMap<String, ByteString> =
        data.into_iter().map(|(name, value)| (name.to_owned(), ByteString(value.to_vec()))).collect();
    let metadata = ObjectMeta { name: Some(OWN_SECRET.to_owned()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => {
            let trust_domain = &settings.trust_domain;
            tracing::warn!(target: "audit", secret = OWN_SECRET, %trust_domain, "a new root was made");
            Ok(())
        }
        Err(kubernetes::kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).context(format!("creating Secret {}/{OWN_SECRET}", settings.namespace)),
    }
}

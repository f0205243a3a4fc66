//! `ztunnel controller rotate-root`: one step of a rotation, as one write of the CA's Secret, which all replicas follow.
//!
//! Who reads and writes at once with somebody else is refused by the Secret's version and has changed nothing.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use kubernetes::{
    k8s_openapi::{api::core::v1::Secret, jiff::Timestamp},
    kube::{Api, Error, api::PostParams},
};
use model::TrustDomain;

use super::{
    rotation::{Outcome, Rotation, Stage, Step, Terms, ready, take},
    secret::{KEY, OTHER_KEY, OWN, own},
};
use crate::settings;

/// What a step is told.
#[derive(Clone, Debug, clap::Args)]
pub struct RotateRoot {
    /// Which step to take.
    #[arg(value_enum, default_value = "status")]
    pub step: Step,
    /// Does not wait for what still relies on the other root: connections fail until certificates are renewed.
    #[arg(long)]
    pub force: bool,
    /// How long, besides the longest life of a certificate, until all replicas and the files that daemons read have followed.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub settle: Duration,
    /// Read the API server's address and credentials from here; by default from the pod that this runs in.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the controller.
    #[arg(long, env = "POD_NAMESPACE", default_value = "ztunnel-system", value_name = "NAME")]
    pub namespace: String,
    /// The trust domain of all identities.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local", value_parser = settings::trust_domain)]
    pub trust_domain: TrustDomain,
    /// Set where the controller signs with another's intermediate: then there is nothing to rotate here.
    #[arg(long, env = "ZTUNNEL_INTERMEDIATE_SECRET", value_name = "NAME")]
    pub intermediate_secret: Option<String>,
}

impl RotateRoot {
    /// Takes the step, and says for people where the rotation is by then.
    pub async fn run(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.intermediate_secret {
            bail!(
                "the controller signs with the intermediate of Secret {name}: whoever keeps that rotates it"
            );
        }
        let client = kubernetes::connect(self.kubeconfig.as_deref()).await?;
        let secrets: Api<Secret> = Api::namespaced(client, &self.namespace);
        let place = format!("Secret {}/{OWN}", self.namespace);
        let found = secrets.get_opt(OWN).await.with_context(|| format!("reading {place}"))?;
        let secret = found
            .with_context(|| format!("{place} is not there; the controller makes it at its first start"))?;
        let now = Timestamp::now();
        let terms = Terms { trust_domain: &self.trust_domain, now, settle: self.settle, force: self.force };
        match take(&secret, self.step, &terms).with_context(|| place.clone())? {
            Outcome::Stands(word) => self.words(word, &secret),
            Outcome::Changed(changed) => {
                // The version that was read goes along.
                let written = secrets.replace(OWN, &PostParams::default(), &changed).await;
                let written = match written {
                    Err(Error::Api(status)) if status.code == 409 => {
                        bail!(
                            "{place} was changed by somebody else meanwhile, and nothing by this; look at its status, and repeat"
                        )
                    }
                    other => other.with_context(|| format!("writing {place}"))?,
                };
                self.words("", &written)
            }
        }
    }

    fn words(&self, first: &str, secret: &Secret) -> anyhow::Result<String> {
        let data = secret.data.clone().unwrap_or_default();
        let signing = own(&data, KEY, &self.trust_domain, OWN)?;
        let mut text = if first.is_empty() { String::new() } else { format!("{first}\n") };
        let rotation = Rotation::read(&data)?;
        let stage = rotation
            .map_or_else(|| "none".to_owned(), |at| format!("{} since {}", at.stage.name(), at.since));
        let _ = writeln!(text, "stage: {stage}");
        let _ = writeln!(text, "signs: {}", control::fingerprint(&signing.certificate()));
        for root in signing.roots() {
            let _ = writeln!(text, "believed: {}", control::fingerprint(&root));
        }
        let Some(Rotation { stage, announced, since }) = rotation else {
            text.push_str("next: prepare\n");
            return Ok(text);
        };
        let other = own(&data, OTHER_KEY, &self.trust_domain, OWN)?;
        let _ = writeln!(text, "the other: {}", control::fingerprint(&other.certificate()));
        let from = |from| {
            ready(&data, self.settle, from)
                .map_or_else(|error| format!("when? {error:#}"), |at| at.to_string())
        };
        let _ = match stage {
            Stage::Prepared => writeln!(text, "next: switch, from {} on; or abort", from(announced)),
            Stage::Switched => writeln!(text, "next: finish, from {} on; or abort", from(since)),
            Stage::Returned => {
                writeln!(
                    text,
                    "next: abort again, from {} on; or switch, from {} on",
                    from(since),
                    from(announced)
                )
            }
        };
        Ok(text)
    }
}

//! Which replica writes: the one that holds the Lease.
//!
//! It gives up sooner than others may take over, so that at no time two believe that they lead, as long as their clocks run at
//! the same pace: each counts from when it last saw the Lease change, and never compares another's clock with its own.

use std::time::Duration;

use anyhow::Context;
use kubernetes::{
    k8s_openapi::{
        api::coordination::v1::{Lease, LeaseSpec},
        apimachinery::pkg::apis::meta::v1::MicroTime,
        jiff::Timestamp,
    },
    kube::{
        Api, Client, Error,
        api::{ObjectMeta, PostParams},
    },
};
use tokio::{
    sync::watch::Sender,
    time::{Instant, sleep, timeout},
};

use crate::settings::Settings;

const NAME: &str = "ztunnel-controller";
const DURATION: Duration = Duration::from_secs(15);
/// Without a renewal for so long, the leader stops leading.
const GIVE_UP: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

pub(crate) struct Election {
    leases: Api<Lease>,
    identity: String,
    /// What the Lease said when it last changed, and when that was.
    seen: Option<(String, Instant)>,
    renewed: Option<Instant>,
}

impl Election {
    pub(crate) fn new(client: Client, settings: &Settings) -> Self {
        let leases = Api::namespaced(client, &settings.namespace);
        Self { leases, identity: settings.pod_name.clone(), seen: None, renewed: None }
    }

    /// Until the process ends.
    pub(crate) async fn run(mut self, leads: Sender<bool>) {
        loop {
            match timeout(RETRY, self.round()).await {
                Ok(Ok(true)) => self.renewed = Some(Instant::now()),
                Ok(Ok(false)) => self.renewed = None,
                Ok(Err(error)) => tracing::warn!("the Lease: {error:#}"),
                Err(_) => tracing::warn!("the Lease: no answer in time"),
            }
            let is_leader = self.renewed.is_some_and(|renewed| renewed.elapsed() < GIVE_UP);
            let has_changed =
                leads.send_if_modified(|leads| std::mem::replace(leads, is_leader) != is_leader);
            if has_changed {
                tracing::info!(is_leader, identity = self.identity, "leadership changed");
            }
            sleep(RETRY).await;
        }
    }

    /// Lets go of it, so that another need not wait.
    pub(crate) async fn release(client: Client, settings: &Settings) {
        let election = Self::new(client, settings);
        let Ok(Some(mut lease)) = election.leases.get_opt(NAME).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&election.identity) {
            return;
        }
        spec.holder_identity = None;
        let _ = election.leases.replace(NAME, &PostParams::default(), &lease).await;
    }

    /// Whether it is ours now.
    async fn round(&mut self) -> anyhow::Result<bool> {
        let Some(mut lease) = self.leases.get_opt(NAME).await.context("reading")? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.ours(None)) };
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let is_free = holder.is_empty() || since.elapsed() > duration.map_or(DURATION, Duration::from_secs);
        if holder != self.identity && !is_free {
            return Ok(false);
        }
        lease.spec = Some(self.ours(Some(&spec)));
        // The version that was read goes along: whoever else took it meanwhile keeps it.
        won(self.leases.replace(NAME, &PostParams::default(), &lease).await)
    }

    fn ours(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let is_same = before.is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let now = MicroTime(Timestamp::now());
        let acquired = before.and_then(|spec| spec.acquire_time.clone()).filter(|_| is_same);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: acquired.or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(before.is_some() && !is_same)),
            ..LeaseSpec::default()
        }
    }
}

fn won(written: Result<Lease, Error>) -> anyhow::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error).context("writing"),
    }
}

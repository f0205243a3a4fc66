//! What the leader writes to policies: what became of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kubernetes::{
    k8s_openapi::jiff::Timestamp,
    kube::{
        Api, Client, Error,
        api::{Patch, PatchParams},
        core::DynamicObject,
    },
    policies::{CONDITION, authorization_policies, peer_authentications},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch::Receiver},
    time::{Instant, sleep},
};

use crate::{
    convert::Verdict,
    facts::{Key, Policy, PolicyKind},
};

const RETRY: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 2_000;

/// What is to be written, and not before when.
struct Task {
    policy: Arc<Policy>,
    verdict: Verdict,
    not_before: Instant,
}

/// The latest verdict of each policy that is to be written.
#[derive(Default)]
pub(crate) struct Verdicts {
    pending: Mutex<BTreeMap<(PolicyKind, Key), Task>>,
    more: Notify,
}

impl Verdicts {
    /// `gone` are policies that are no longer there.
    pub(crate) fn put(
        &self,
        verdicts: Vec<(PolicyKind, Arc<Policy>, Verdict)>,
        gone: impl IntoIterator<Item = (PolicyKind, Key)>,
    ) {
        let mut pending = self.pending.lock();
        for id in gone {
            pending.remove(&id);
        }
        for (kind, policy, verdict) in verdicts {
            let id = (kind, policy.key.clone());
            if is_written(&policy, &verdict) {
                pending.remove(&id);
            } else {
                pending.insert(id, Task { policy, verdict, not_before: Instant::now() });
            }
        }
        drop(pending);
        self.more.notify_one();
    }

    /// Until the process ends.
    pub(crate) async fn write(&self, client: Client, mut leads: Receiver<bool>) {
        loop {
            if leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            match self.next() {
                Ok((id, task)) => self.patch(&client, id, task).await,
                Err(wait) => tokio::select! {
                    () = self.more.notified() => {}
                    _ = leads.changed() => {}
                    () = sleep(wait) => {}
                },
            }
        }
    }

    /// The first whose time has come; or how long there is nothing to do.
    fn next(&self) -> Result<((PolicyKind, Key), Task), Duration> {
        let (mut pending, now) = (self.pending.lock(), Instant::now());
        let first = pending.iter().min_by_key(|(_, task)| task.not_before);
        let Some((id, task)) = first else { return Err(RETRY) };
        if task.not_before > now {
            return Err(task.not_before - now);
        }
        let id = id.clone();
        pending.remove_entry(&id).ok_or(RETRY)
    }

    /// One that cannot be written keeps no other waiting.
    async fn patch(&self, client: &Client, id: (PolicyKind, Key), mut task: Task) {
        let (kind, key) = &id;
        if let Err(error) = patch(client, *kind, &task.policy, &task.verdict).await {
            let policy = format!("{}/{}", key.0, key.1);
            tracing::warn!(policy, "the status was not written: {error}");
            task.not_before = Instant::now() + RETRY;
            self.pending.lock().entry(id).or_insert(task);
        }
    }
}

async fn patch(client: &Client, kind: PolicyKind, policy: &Policy, verdict: &Verdict) -> Result<(), Error> {
    let resource = match kind {
        PolicyKind::Authorization => authorization_policies(),
        PolicyKind::PeerAuthentication => peer_authentications(),
    };
    let (namespace, name) = &policy.key;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let status = json!({ "status": { "conditions": conditions(policy, verdict) } });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await {
        Ok(_) => Ok(()),
        // It is gone, and so is the need.
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ours in place of ours; those of others stay.
fn conditions(policy: &Policy, verdict: &Verdict) -> Vec<Value> {
    let (status, reason, message) = words(verdict);
    let before = ours(policy);
    let since =
        before.filter(|before| before["status"] == status).map(|before| before["lastTransitionTime"].clone());
    let own = json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "observedGeneration": policy.generation,
        "lastTransitionTime": since.unwrap_or_else(|| json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
    });
    let others =
        policy.conditions.as_array().into_iter().flatten().filter(|other| other["type"] != CONDITION);
    others.cloned().chain([own]).collect()
}

fn ours(policy: &Policy) -> Option<&Value> {
    policy.conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == CONDITION)
}

fn is_written(policy: &Policy, verdict: &Verdict) -> bool {
    let (status, reason, message) = words(verdict);
    ours(policy).is_some_and(|own| {
        own["status"] == status
            && own["reason"] == reason
            && own["message"] == message
            && own["observedGeneration"] == policy.generation
    })
}

/// Status, reason and message.
fn words(verdict: &Verdict) -> (&'static str, &'static str, String) {
    let joined = |parts: &[String]| -> String { parts.join("; ").chars().take(MAX_MESSAGE).collect() };
    match verdict {
        Verdict { wrong, .. } if !wrong.is_empty() => (
            "False",
            "Invalid",
            format!("{}. Until this is mended the policy denies more than it says.", joined(wrong)),
        ),
        Verdict { ignored: Some(why), .. } => {
            ("False", "UnsupportedValue", format!("{why}: no part of it is enforced."))
        }
        Verdict { unenforced, .. } if !unenforced.is_empty() => (
            "False",
            "UnsupportedValue",
            format!(
                "{}. An ALLOW rule with such a field matches nothing; a DENY rule keeps its layer-4 part.",
                joined(unenforced)
            ),
        ),
        _ => ("True", "Accepted", "accepted and enforced".to_owned()),
    }
}

#[cfg(test)]
mod tests;

//! Texts that many objects of the state say alike, kept once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    Network, SpiffeId, TrustDomain, Workload,
    identity::InvalidIdentity,
    policy::PolicyKey,
    service::{Service, ServiceKey},
    workload::Locality,
};

/// Of one source of state; each text it is given comes back as the one that was there first.
#[derive(Debug, Default)]
pub struct Texts {
    known: HashSet<Arc<str>>,
    localities: HashSet<Arc<Locality>>,
    identities: HashMap<Arc<str>, SpiffeId>,
}

/// More than a mesh says of anything but its pods. Beyond that all is forgotten, which costs sharing and nothing else.
const MAX_KNOWN: usize = 1 << 16;

impl Texts {
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(Arc::clone(&text));
        text
    }

    pub fn service_key(&mut self, namespace: &str, hostname: &str) -> ServiceKey {
        ServiceKey { namespace: self.share(namespace), hostname: self.share(hostname) }
    }

    pub fn locality(&mut self, locality: Locality) -> Arc<Locality> {
        if let Some(known) = self.localities.get(&locality) {
            return Arc::clone(known);
        }
        if self.localities.len() >= MAX_KNOWN {
            self.localities.clear();
        }
        let locality = Arc::new(locality);
        self.localities.insert(Arc::clone(&locality));
        locality
    }

    pub fn identity(
        &mut self,
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<SpiffeId, InvalidIdentity> {
        let identity = SpiffeId::new(trust_domain.clone(), namespace, service_account)?;
        if let Some(known) = self.identities.get(identity.as_str()) {
            return Ok(known.clone());
        }
        if self.identities.len() >= MAX_KNOWN {
            self.identities.clear();
        }
        self.identities.insert(identity.as_str().into(), identity.clone());
        Ok(identity)
    }

    /// Everything but what only this workload is likely to say.
    pub fn share_workload(&mut self, workload: &mut Workload) {
        for text in [
            &mut workload.namespace,
            &mut workload.node,
            &mut workload.hostname,
            &mut workload.cluster_id,
            &mut workload.canonical_name,
            &mut workload.canonical_revision,
            &mut workload.workload_name,
        ] {
            *text = self.share(text);
        }
        workload.locality = self.locality((*workload.locality).clone());
        workload.network = Network::from(self.share(workload.network.as_str()));
        let shared = std::mem::take(&mut workload.services).into_iter();
        workload.services =
            shared.map(|(key, ports)| (self.service_key(&key.namespace, &key.hostname), ports)).collect();
        for policy in &mut workload.authorization_policies {
            *policy = PolicyKey { namespace: self.share(&policy.namespace), name: self.share(&policy.name) };
        }
        workload.authorization_policies.shrink_to_fit();
    }

    /// So that its endpoints' keys are the service's own texts.
    pub fn share_service(&mut self, service: &mut Service) {
        for text in [&mut service.name, &mut service.namespace, &mut service.hostname] {
            *text = self.share(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_is_kept_once() {
        let mut texts = Texts::default();
        assert!(Arc::ptr_eq(&texts.share("a"), &texts.share("a")));
        let domain: TrustDomain = "td".parse().unwrap();
        let one = texts.identity(&domain, "n", "s").unwrap();
        let other = texts.identity(&domain, "n", "s").unwrap();
        assert!(std::ptr::eq(one.as_str(), other.as_str()));
    }

    #[test]
    fn it_holds_only_so_many() {
        let mut texts = Texts::default();
        (0..=MAX_KNOWN).for_each(|number| drop(texts.share(&number.to_string())));
        assert!(texts.known.len() <= MAX_KNOWN);
    }
}

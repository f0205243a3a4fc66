//! Makes the model's objects of what the file says, and refuses what contradicts itself, naming both sides.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    fmt::Display,
    hash::Hash,
    path::Path,
};

use model::{
    NetworkAddress, Settings, TrustDomain, Workload, WorkloadUid,
    policy::{Action, Policy, PolicyKey},
    service::{Service, ServiceKey},
    texts::Texts,
    workload::NetworkMode,
};
use serde_saphyr::Spanned;

use super::format::{EndpointText, MeshText, ServiceText, WorkloadText};
use crate::{
    file::{FileError, Place},
    sound,
};

/// The whole mesh as one file says it.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    pub(super) workloads: BTreeMap<WorkloadUid, Workload>,
    pub(super) services: BTreeMap<ServiceKey, Service>,
    pub(super) policies: BTreeMap<PolicyKey, Policy>,
    pub(super) settings: Settings,
    /// How many policies have a part that is not enforced.
    pub(super) unenforced: usize,
    pub(super) warnings: Vec<String>,
}

pub(super) fn build(
    path: &Path,
    text: MeshText<Policy>,
    trust_domain: &TrustDomain,
) -> Result<Mesh, FileError> {
    let mut mesh = Mesh::default();
    let (mut owners, mut texts) = (Owners::default(), Texts::default());
    for Spanned { value, referenced, .. } in text.workloads {
        mesh.add_workload(
            value,
            trust_domain,
            &mut texts,
            &mut owners,
            Place { path, location: referenced },
        )?;
    }
    for Spanned { value, referenced, .. } in text.services {
        mesh.add_service(value, &mut texts, Place { path, location: referenced })?;
    }
    for Spanned { value, referenced, .. } in text.policies {
        mesh.add_policy(value, Place { path, location: referenced })?;
    }
    if let Some(Spanned { value, referenced, .. }) = text.settings {
        let place = Place { path, location: referenced };
        value.check().map_err(|error| place.error(format!("settings: {error}")))?;
        mesh.settings = value;
    }
    mesh.warn_of_unknown_policies();
    mesh.warn_of_settings_for_nobody();
    Ok(mesh)
}

impl Mesh {
    fn add_workload(
        &mut self,
        text: WorkloadText,
        trust_domain: &TrustDomain,
        texts: &mut Texts,
        owners: &mut Owners<NetworkAddress>,
        place: Place<'_>,
    ) -> Result<(), FileError> {
        let subject = format!("workload `{}`", text.uid);
        if text.network_gateway.is_some() {
            self.warnings.push(format!(
                "{subject}: `networkGateway` has no effect yet: who is in another network is refused"
            ));
        }
        let mut workload = workload(text, trust_domain, texts)
            .map_err(|error| place.error(format!("{subject}: {error}")))?;
        sound::workload(&workload).map_err(|error| place.error(format!("{subject}: {error}")))?;
        texts.share_workload(&mut workload);
        if workload.network_mode == NetworkMode::Standard {
            workload.addresses().try_for_each(|address| owners.take(address, &subject, place))?;
        }
        insert(&mut self.workloads, workload.uid.clone(), workload, &subject, place)
    }

    /// Several may have one address: which of them a client means is the model's to say.
    fn add_service(
        &mut self,
        text: ServiceText,
        texts: &mut Texts,
        place: Place<'_>,
    ) -> Result<(), FileError> {
        let subject = format!("service `{}/{}`", text.namespace, text.hostname);
        let endpoints = text.endpoints;
        let mut service = Service {
            name: text.name,
            namespace: text.namespace,
            hostname: text.hostname,
            vips: text.vips,
            ports: text.ports,
            port_names: text.port_names,
            subject_alt_names: text.subject_alt_names,
            waypoint: text.waypoint,
            load_balancer: text.load_balancer,
            ip_families: text.ip_families,
            visibility: text.visibility,
            canonical: text.canonical,
        };
        sound::service(&service).map_err(|error| place.error(format!("{subject}: {error}")))?;
        texts.share_service(&mut service);
        for endpoint in endpoints.into_values() {
            self.add_endpoint(endpoint, &service.key(), &subject, place)?;
        }
        insert(&mut self.services, service.key(), service, &subject, place)
    }

    /// What the workload says of its ports goes before what the service does.
    fn add_endpoint(
        &mut self,
        endpoint: EndpointText,
        service: &ServiceKey,
        subject: &str,
        place: Place<'_>,
    ) -> Result<(), FileError> {
        sound::ports(&endpoint.port).map_err(|error| place.error(format!("{subject}: {error}")))?;
        let Some(workload) = self.workloads.get_mut(&endpoint.workload_uid) else {
            let uid = endpoint.workload_uid;
            return Err(place.error(format!("{subject}: its endpoint `{uid}` is not among the workloads")));
        };
        if !workload.services.contains_key(service) {
            workload.services.insert(service.clone(), endpoint.port);
        }
        Ok(())
    }

    fn add_policy(&mut self, policy: Policy, place: Place<'_>) -> Result<(), FileError> {
        let subject = format!("policy `{}`", policy.key());
        sound::policy(&policy).map_err(|error| place.error(format!("{subject}: {error}")))?;
        self.warn_of_unenforced(&policy, &subject);
        insert(&mut self.policies, policy.key(), policy, &subject, place)
    }

    fn warn_of_unenforced(&mut self, policy: &Policy, subject: &str) {
        self.unenforced += usize::from(!policy.unenforced().is_empty());
        let fields = policy.layer_7();
        if fields.is_empty() {
            return;
        }
        let effect = match policy.action {
            Action::Allow => "rules that have them allow nothing",
            Action::Deny => "rules that have them deny without regard to them",
        };
        let fields = fields.join("`, `");
        self.warnings.push(format!("{subject}: `{fields}` are of layer 7 and not enforced here; {effect}"));
    }

    fn warn_of_unknown_policies(&mut self) {
        let unknown = self.workloads.values().flat_map(|workload| {
            let missing =
                workload.authorization_policies.iter().filter(|key| !self.policies.contains_key(key));
            missing.map(|key| {
                format!("workload `{}`: without policy `{key}` nobody may connect to it", workload.uid)
            })
        });
        self.warnings.extend(unknown.collect::<Vec<_>>());
    }
}

/// What the settings say of services and workloads that are not there, misspelled or yet to come.
impl Mesh {
    fn warn_of_settings_for_nobody(&mut self) {
        let names: HashSet<(&str, &str)> = self
            .workloads
            .values()
            .flat_map(|w| [(&*w.namespace, &*w.name), (&*w.namespace, &*w.workload_name)])
            .collect();
        let services: HashSet<(&str, &str)> =
            self.services.values().map(|s| (&*s.namespace, &*s.hostname)).collect();
        let mut warnings = Vec::new();
        for (namespace, own) in &self.settings.namespaces {
            let absent = |what: &str, name: &str| {
                format!("settings: namespace `{namespace}`: {what} `{name}` is not in the mesh state")
            };
            let nobody = own.workloads.keys().filter(|name| !names.contains(&(namespace, name)));
            warnings.extend(nobody.map(|name| absent("workload", name)));
            let nothing = own.services.keys().filter(|name| !services.contains(&(namespace, name)));
            warnings.extend(nothing.map(|name| absent("service", name)));
        }
        self.warnings.extend(warnings);
    }
}

fn workload(text: WorkloadText, trust_domain: &TrustDomain, texts: &mut Texts) -> Result<Workload, String> {
    let trust_domain = text.trust_domain.unwrap_or_else(|| trust_domain.clone());
    let identity = texts.identity(&trust_domain, &text.namespace, &text.service_account);
    Ok(Workload {
        uid: text.uid,
        name: text.name,
        namespace: text.namespace,
        identity: identity.map_err(|error| error.to_string())?,
        workload_ips: text.workload_ips,
        network: text.network,
        network_mode: text.network_mode,
        protocol: text.protocol,
        status: text.status,
        node: text.node,
        hostname: text.hostname,
        cluster_id: text.cluster_id,
        canonical_name: text.canonical_name,
        canonical_revision: text.canonical_revision,
        workload_name: text.workload_name,
        workload_type: text.workload_type,
        locality: text.locality.into(),
        capacity: text.capacity,
        services: text.services,
        authorization_policies: text.authorization_policies,
        native_tunnel: text.native_tunnel,
        waypoint: text.waypoint.map(Box::new),
        application_tunnel: text.application_tunnel,
    })
}

fn insert<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    subject: &str,
    place: Place<'_>,
) -> Result<(), FileError> {
    match map.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
        Entry::Occupied(_) => Err(place.error(format!("{subject} is there twice"))),
    }
}

/// Who has which address, by the name of the owner and its line.
struct Owners<A>(HashMap<A, (String, u64)>);

impl<A> Default for Owners<A> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<A: Hash + Eq + Display> Owners<A> {
    fn take(&mut self, address: A, subject: &str, place: Place<'_>) -> Result<(), FileError> {
        if let Some((owner, line)) = self.0.get(&address) {
            let message = format!("{subject}: the address `{address}` is that of {owner} in line {line}");
            return Err(place.error(message));
        }
        self.0.insert(address, (subject.to_owned(), place.location.line()));
        Ok(())
    }
}

//! What the mesh's owner decides for the whole mesh, a namespace, a service or a workload. The narrowest wins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{MtlsMode, Workload, service::ServiceKey};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    pub mtls: MtlsMode,
    /// Without a policy that allows it, nobody connects.
    pub default_deny: bool,
    pub egress: Egress,
    /// Evaluated, never enforced.
    pub audit: AuditSettings,
    pub namespaces: BTreeMap<String, NamespaceSettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NamespaceSettings {
    pub mtls: Option<MtlsMode>,
    pub default_deny: Option<bool>,
    /// Of the namespace's own workloads, wherever they connect to.
    pub egress: Option<Egress>,
    pub audit: AuditSettings,
    /// By host name.
    pub services: BTreeMap<String, ServiceSettings>,
    /// By the name of the pod, or of what it was made from, such as a Deployment. The pod's own goes first, field by field
    /// and port by port.
    pub workloads: BTreeMap<String, WorkloadSettings>,
}

/// Of the ports on which a service's endpoints serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSettings {
    pub mtls: MtlsMode,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadSettings {
    pub mtls: Option<MtlsMode>,
    /// By the application's own port.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// What would be decided if these were in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuditSettings {
    pub mtls: Option<MtlsMode>,
    pub default_deny: Option<bool>,
}

/// Where workloads may connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Egress {
    /// Anywhere.
    #[default]
    Passthrough,
    /// To what the mesh knows.
    RegistryOnly,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSettings {
    #[error(
        "namespace `{namespace}`, service `{hostname}`: `disable` cannot be meant for a service, as its endpoints \
         are reached by their own addresses and through other services too; disable it for a workload or its port"
    )]
    DisabledService { namespace: String, hostname: String },
    #[error("namespace `{namespace}`, workload `{workload}`: expected ports from 1 to 65535, found 0")]
    PortZero { namespace: String, workload: String },
}

/// Which of the two sets of rules: the one in force, or the one with all that is audited in force as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Regime {
    Enforced,
    Audited,
}

impl Settings {
    pub fn check(&self) -> Result<(), InvalidSettings> {
        for (namespace, settings) in &self.namespaces {
            let disabled = |(_, service): &(_, &ServiceSettings)| service.mtls == MtlsMode::Disable;
            if let Some((hostname, _)) = settings.services.iter().find(disabled) {
                let (namespace, hostname) = (namespace.clone(), hostname.clone());
                return Err(InvalidSettings::DisabledService { namespace, hostname });
            }
            let zero = |(_, workload): &(_, &WorkloadSettings)| workload.ports.contains_key(&0);
            if let Some((workload, _)) = settings.workloads.iter().find(zero) {
                let (namespace, workload) = (namespace.clone(), workload.clone());
                return Err(InvalidSettings::PortZero { namespace, workload });
            }
        }
        Ok(())
    }

    pub fn egress(&self, namespace: &str) -> Egress {
        self.namespaces.get(namespace).and_then(|settings| settings.egress).unwrap_or(self.egress)
    }

    pub(crate) fn default_deny(&self, namespace: &str, regime: Regime) -> bool {
        let namespace = self.namespaces.get(namespace);
        let own = namespace.and_then(|own| regime.choose(own.audit.default_deny, own.default_deny));
        let mesh = regime.choose(self.audit.default_deny, Some(self.default_deny));
        own.or(mesh).unwrap_or_default()
    }

    /// Whether anything is audited in `namespace`, besides policies.
    pub(crate) fn audits(&self, namespace: &str) -> bool {
        let none = AuditSettings::default();
        self.audit != none || self.namespaces.get(namespace).is_some_and(|own| own.audit != none)
    }

    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&ServiceSettings> {
        self.namespaces.get(&*key.namespace)?.services.get(&*key.hostname)
    }

    /// What is said of the pod, then of what it was made from: each speaks where the one before is silent.
    pub(crate) fn workload<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a WorkloadSettings> {
        let namespace = self.namespaces.get(&*workload.namespace);
        let names = [&workload.name, &workload.workload_name];
        names.into_iter().filter_map(move |name| namespace?.workloads.get(&**name))
    }
}

impl Regime {
    pub(crate) fn choose<T>(self, audited: Option<T>, enforced: Option<T>) -> Option<T> {
        match self {
            Self::Enforced => enforced,
            Self::Audited => audited.or(enforced),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_level_cannot_mean_is_refused_with_the_reason() {
        let service = settings(r#"{"namespaces": {"a": {"services": {"s.example": {"mtls": "disable"}}}}}"#);
        assert!(service.check().unwrap_err().to_string().contains("disable it for a workload or its port"));
        let port = settings(r#"{"namespaces": {"a": {"workloads": {"w": {"ports": {"0": "strict"}}}}}}"#);
        assert!(port.check().unwrap_err().to_string().contains("1 to 65535"));
        assert!(serde_json::from_str::<Settings>(r#"{"defaultdeny": true}"#).is_err());
    }

    #[test]
    fn a_namespace_goes_before_the_mesh_either_way() {
        let s = settings(
            r#"{"defaultDeny": true, "egress": "registryOnly", "audit": {"defaultDeny": false},
                "namespaces": {"open": {"defaultDeny": false, "egress": "passthrough"},
                               "tried": {"defaultDeny": false, "audit": {"defaultDeny": true}}}}"#,
        );
        let deny = |namespace, regime| s.default_deny(namespace, regime);
        assert!(deny("any", Regime::Enforced) && !deny("any", Regime::Audited));
        assert!(!deny("open", Regime::Enforced) && !deny("open", Regime::Audited));
        assert!(!deny("tried", Regime::Enforced) && deny("tried", Regime::Audited));
        assert_eq!((s.egress("any"), s.egress("open")), (Egress::RegistryOnly, Egress::Passthrough));
    }
}

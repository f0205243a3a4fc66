//! What the runtime calls us with: environment and configuration.

use std::{
    fs::File,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{VERSIONS, error::PluginError};

/// Our entry in the node's configuration, as the runtime hands it on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Configuration {
    cni_version: String,
    pub(super) socket: PathBuf,
    pub(super) enrolled_namespaces: PathBuf,
    /// Pods of these are not the mesh's, whatever happens.
    #[serde(default)]
    exempt_namespaces: Vec<String>,
    #[serde(default = "default_timeout")]
    timeout_seconds: u16,
    /// As it came: it is the result of those before us, not ours.
    #[serde(default)]
    prev_result: Option<Box<RawValue>>,
}

fn default_timeout() -> u16 {
    20
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) container: String,
    namespace_path: Option<PathBuf>,
    /// `None` if it is not Kubernetes that calls.
    pod: Option<PodName>,
    pub(super) configuration: Configuration,
    begun: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

impl Call {
    pub(super) fn new(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<Self, PluginError> {
        let configuration: Configuration =
            serde_json::from_slice(input).map_err(|error| PluginError::Input(error.to_string()))?;
        if !VERSIONS.contains(&configuration.cni_version.as_str()) {
            return Err(PluginError::Version(configuration.cni_version));
        }
        let container = variable("CNI_CONTAINERID").filter(|id| !id.is_empty());
        let container =
            container.ok_or_else(|| PluginError::Environment("CNI_CONTAINERID is not set".to_owned()))?;
        let namespace_path = variable("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from);
        let pod = variable("CNI_ARGS").as_deref().and_then(pod_of);
        Ok(Self { container, namespace_path, pod, configuration, begun: Instant::now() })
    }

    /// The pod, if it may be one of the mesh's.
    pub(super) fn mesh_pod(&self) -> Option<&PodName> {
        let exempt = |pod: &&PodName| !self.configuration.exempt_namespaces.contains(&pod.namespace);
        self.pod.as_ref().filter(exempt)
    }

    pub(super) fn namespace_file(&self) -> Result<File, PluginError> {
        let path = self.namespace_path.as_ref();
        let path = path.ok_or_else(|| PluginError::Environment("CNI_NETNS is not set".to_owned()))?;
        // Whatever stands there, opening it takes no time.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let opened = File::options().read(true).custom_flags(flags).open(path);
        opened.map_err(|error| PluginError::Namespace(format!("opening {}: {error}", path.display())))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.begun + Duration::from_secs(self.configuration.timeout_seconds.into())
    }
}

impl Configuration {
    pub(super) fn previous(&self) -> Result<&str, PluginError> {
        let missing =
            || PluginError::Configuration("no prevResult: this plugin has to come after others".to_owned());
        Ok(self.prev_result.as_ref().ok_or_else(missing)?.get())
    }

    /// Those of the pod's own interfaces; before version 0.3.0 they stood elsewhere.
    pub(super) fn addresses(&self) -> Result<Vec<IpAddr>, PluginError> {
        #[derive(Deserialize)]
        struct Outcome {
            #[serde(default)]
            ips: Vec<Address>,
        }
        #[derive(Deserialize)]
        struct Address {
            address: String,
        }
        let wrong =
            |error: &dyn std::fmt::Display| PluginError::Configuration(format!("prevResult: {error}"));
        let outcome: Outcome = serde_json::from_str(self.previous()?).map_err(|error| wrong(&error))?;
        let parse = |Address { address }: Address| {
            let ip = address.split('/').next().unwrap_or_default();
            ip.parse().map_err(|error| wrong(&format!("ips: `{address}`: {error}")))
        };
        outcome.ips.into_iter().map(parse).collect()
    }
}

/// For answers to calls that may be wrong in every other way.
pub(super) fn version_of(input: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        cni_version: String,
    }
    serde_json::from_slice(input).map_or_else(|_| "1.0.0".to_owned(), |Version { cni_version }| cni_version)
}

/// `K8S_POD_NAMESPACE=shop;K8S_POD_NAME=till-0;…`
fn pod_of(arguments: &str) -> Option<PodName> {
    let value = |wanted: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value.to_owned())
            .filter(|value| !value.is_empty())
    };
    let (namespace, name) = (value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?);
    Some(PodName { namespace, name, uid: value("K8S_POD_UID") })
}

//! The chart's pods, as a kubelet makes them from their manifests: environment, volumes, security context.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use chart::{Chart, parse};
use serde_json::Value;
use ztunnel_cri_tests::v1::{
    Capability, Int64Value, KeyValue, LinuxContainerSecurityContext, Mount, MountPropagation,
    SecurityProfile, security_profile::ProfileType,
};

use crate::pods::{Container, Pod};

/// What the API server gave out before the pod was to run.
pub(crate) struct Given<'g> {
    /// This pod's volumes on the node, and what is mounted into every container.
    pub(crate) home: PathBuf,
    pub(crate) config_map: &'g dyn Fn(&str) -> Option<Value>,
    pub(crate) token: &'g str,
    pub(crate) api_server: (String, u16),
    pub(crate) api_root: &'g str,
    pub(crate) hosts: String,
    /// Where the kubelet has its files.
    pub(crate) kubelet: &'g Path,
}

pub(crate) struct Manifests(Vec<Value>);

impl Manifests {
    pub(crate) fn render(values: &Value) -> Result<Self> {
        let documents = Chart::ours()?.render(values)?;
        Ok(Self(documents.iter().map(|text| parse(text)).collect::<Result<_>>()?))
    }

    pub(crate) fn find(&self, kind: &str, name: &str) -> Result<&Value> {
        let found = self.0.iter().find(|d| d["kind"] == kind && d["metadata"]["name"] == name);
        found.with_context(|| format!("the chart has no {kind} {name}"))
    }

    /// The specification of the pods of a workload.
    pub(crate) fn pods_of(&self, kind: &str, name: &str) -> Result<&Value> {
        Ok(&self.find(kind, name)?["spec"]["template"]["spec"])
    }
}

/// The image's name, as it is in the archive.
pub(crate) fn image_of(container: &Value) -> Result<String> {
    container["image"].as_str().map(str::to_owned).context("a container without an image")
}

impl Given<'_> {
    /// `container` of the pod of `spec`, which has its address already.
    pub(crate) fn container(&self, spec: &Value, container: &Value, pod: &Pod) -> Result<Container> {
        Ok(Container {
            image: image_of(container)?,
            command: words(&container["command"]),
            arguments: words(&container["args"]),
            environment: self.environment(container, pod)?,
            security: self.security(&container["securityContext"]),
            mounts: self.mounts(spec, container, pod)?,
        })
    }

    fn environment(&self, container: &Value, pod: &Pod) -> Result<Vec<KeyValue>> {
        let pair = |key: &str, value: String| KeyValue { key: key.to_owned(), value };
        let mut all = vec![
            pair("KUBERNETES_SERVICE_HOST", self.api_server.0.clone()),
            pair("KUBERNETES_SERVICE_PORT", self.api_server.1.to_string()),
        ];
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().context("a variable without a name")?;
            let value = match (&variable["value"], variable["valueFrom"]["fieldRef"]["fieldPath"].as_str()) {
                (Value::String(text), None) => text.clone(),
                (_, Some("spec.nodeName")) => pod.identity.node.clone(),
                (_, Some("metadata.name")) => pod.identity.name.clone(),
                (_, Some("metadata.namespace")) => pod.identity.namespace.clone(),
                (_, Some("status.podIP")) => pod.ip.clone(),
                _ => bail!("the variable {name} has a source that no test knows"),
            };
            all.push(pair(name, value));
        }
        Ok(all)
    }

    fn mounts(&self, spec: &Value, container: &Value, pod: &Pod) -> Result<Vec<Mount>> {
        let mut all = Vec::new();
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = spec["volumes"].as_array().context("no volumes")?;
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).context("a volume")?;
            all.push(Mount {
                container_path: mount["mountPath"].as_str().context("a place")?.to_owned(),
                host_path: self.volume(volume)?.display().to_string(),
                readonly: mount["readOnly"] == true,
                propagation: match mount["mountPropagation"].as_str() {
                    Some("HostToContainer") => MountPropagation::PropagationHostToContainer.into(),
                    Some(other) => bail!("a propagation that no test knows: {other}"),
                    None => MountPropagation::PropagationPrivate.into(),
                },
            });
        }
        let own = |path: &str, from: PathBuf| Mount {
            container_path: path.to_owned(),
            host_path: from.display().to_string(),
            readonly: true,
            ..Mount::default()
        };
        all.push(own("/etc/hosts", self.file("etc", "hosts", &self.hosts)?));
        if spec["automountServiceAccountToken"] == true {
            let files = [
                ("token", self.token),
                ("ca.crt", self.api_root),
                ("namespace", pod.identity.namespace.as_str()),
            ];
            for (name, content) in files {
                self.file("account", name, content)?;
            }
            all.push(own("/var/run/secrets/kubernetes.io/serviceaccount", self.home.join("account")));
        }
        Ok(all)
    }

    /// Where it is on the node.
    fn volume(&self, volume: &Value) -> Result<PathBuf> {
        let name = volume["name"].as_str().context("a volume without a name")?;
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            return Ok(path.into());
        }
        if let Some(map) = volume["configMap"]["name"].as_str() {
            let object = (self.config_map)(map).with_context(|| format!("no ConfigMap {map}"))?;
            for (file, content) in object["data"].as_object().into_iter().flatten() {
                self.file(name, file, content.as_str().unwrap_or_default())?;
            }
            return Ok(self.home.join(name));
        }
        for source in volume["projected"]["sources"].as_array().context("a volume that no test knows")? {
            let path =
                source["serviceAccountToken"]["path"].as_str().context("a source that no test knows")?;
            self.file(name, path, self.token)?;
        }
        Ok(self.home.join(name))
    }

    fn file(&self, directory: &str, name: &str, content: &str) -> Result<PathBuf> {
        let directory = self.home.join(directory);
        fs::create_dir_all(&directory)?;
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn security(&self, context: &Value) -> LinuxContainerSecurityContext {
        let profile = &context["seccompProfile"];
        let seccomp = match profile["localhostProfile"].as_str() {
            Some(file) => SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: self.kubelet.join("seccomp").join(file).display().to_string(),
            },
            None => {
                SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..Default::default() }
            }
        };
        LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: words(&context["capabilities"]["add"]),
                drop_capabilities: words(&context["capabilities"]["drop"]),
            }),
            privileged: context["privileged"] == true,
            run_as_user: context["runAsUser"].as_i64().map(|value| Int64Value { value }),
            readonly_rootfs: context["readOnlyRootFilesystem"] == true,
            no_new_privs: context["allowPrivilegeEscalation"] == false,
            seccomp: Some(seccomp),
            ..LinuxContainerSecurityContext::default()
        }
    }
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

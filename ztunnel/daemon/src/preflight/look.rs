//! Asking the API server. What the caller may not see is told, and not taken for absent.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use kubernetes::{
    k8s_openapi::api::{
        apps::v1::DaemonSet,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{ConfigMap, Namespace, Node, Pod},
        networking::v1::NetworkPolicy,
    },
    kube::{
        Api, Client, Error, Resource, ResourceExt,
        api::{ListParams, PostParams},
        core::NamespaceResourceScope,
    },
};
use serde::de::DeserializeOwned;

use super::report::{Level, Report};

/// Of one page of a list.
const PAGE: u32 = 500;
/// What `helm install` makes that not everybody may.
const TO_INSTALL: [(&str, &str, bool); 6] = [
    ("", "namespaces", false),
    ("apps", "daemonsets", true),
    ("apps", "deployments", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
];

/// A cluster as far as it may be seen.
#[derive(Default)]
pub(super) struct Found {
    /// Where the mesh is to be installed.
    pub(super) own: String,
    pub(super) nodes: Vec<Node>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    pub(super) pods: Vec<Pod>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) daemon_sets: Vec<DaemonSet>,
    pub(super) cilium: Option<ConfigMap>,
}

pub(super) async fn look(client: &Client, own: &str, report: &mut Report) -> anyhow::Result<Found> {
    // If even this is not answered, nothing is.
    let version = client.apiserver_version().await;
    if let Err(error) = &version
        && !matches!(error, Error::Api(_) | Error::SerdeError(_))
    {
        bail!("the API server does not answer: {error}");
    }
    let mut found = Found { own: own.to_owned(), ..Found::default() };
    found.nodes = listed(Api::all(client.clone()), "nodes", report).await?;
    let namespaces: Vec<Namespace> = listed(Api::all(client.clone()), "namespaces", report).await?;
    found.namespaces = namespaces.into_iter().map(|namespace| (namespace.name_any(), namespace)).collect();
    found.pods = listed(Api::all(client.clone()), "pods", report).await?;
    found.policies = listed(Api::all(client.clone()), "networkpolicies", report).await?;
    found.daemon_sets = listed(Api::all(client.clone()), "daemonsets", report).await?;
    found.cilium = one(client, "kube-system", "cilium-config", report).await?;
    for (group, resource, is_namespaced) in TO_INSTALL {
        may_create(client, group, resource, is_namespaced.then_some(own), report).await?;
    }
    Ok(found)
}

async fn listed<K>(api: Api<K>, name: &str, report: &mut Report) -> anyhow::Result<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut parameters = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = match api.list(&parameters).await {
            Ok(page) => page,
            Err(error) if is_refusal(&error) => {
                report.add(Level::Unknown, name, format!("you may not list them in all namespaces: {error}"));
                return Ok(Vec::new());
            }
            Err(error) => return Err(error).with_context(|| format!("listing {name}")),
        };
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(all),
        }
    }
}

async fn one<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    report: &mut Report,
) -> anyhow::Result<Option<K>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    match Api::<K>::namespaced(client.clone(), namespace).get_opt(name).await {
        Ok(found) => Ok(found),
        Err(error) if is_refusal(&error) => {
            report.add(
                Level::Unknown,
                format!("{namespace}/{name}"),
                format!("you may not read it: {error}"),
            );
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("reading {namespace}/{name}")),
    }
}

async fn may_create(
    client: &Client,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        namespace: namespace.map(str::to_owned),
        verb: Some("create".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let about = format!("create {resource}");
    match reviews.create(&PostParams::default(), &review).await {
        Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
        Ok(answer) => {
            let reason = answer.status.and_then(|status| status.reason).unwrap_or_default();
            let text = format!("you may not, and installing takes it {reason}");
            report.add(Level::Problem, about, text.trim_end());
        }
        Err(error) if is_refusal(&error) => {
            report.add(Level::Unknown, about, format!("whether you may is not told: {error}"));
        }
        Err(error) => return Err(error).context("asking what the caller may do"),
    }
    Ok(())
}

fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 403 || status.code == 401)
}

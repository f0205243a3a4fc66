//! The roots for those who are to trust the controller: a ConfigMap that daemons mount.

use anyhow::Context;
use kubernetes::k8s_openapi::api::core::v1::ConfigMap;
use kubernetes::kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};

/// As Istio calls it.
pub(super) const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";

/// What stands there.
pub(super) async fn read(client: &Client, namespace: &str) -> anyhow::Result<Option<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = maps.get_opt(NAME).await.with_context(|| format!("reading ConfigMap {namespace}/{NAME}"))?;
    let text = found.and_then(|map| map.data).and_then(|mut data| data.remove(KEY));
    Ok(text.filter(|text| !text.trim().is_empty()))
}

pub(super) async fn write(client: &Client, namespace: &str, roots: &str) -> anyhow::Result<()> {
    if read(client, namespace).await?.as_deref() == Some(roots) {
        return Ok(());
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
    let data = Some([(KEY.to_owned(), roots.to_owned())].into());
    let map = ConfigMap { metadata, data, ..ConfigMap::default() };
    let parameters = PatchParams::apply("ztunnel-controller").force();
    let written = maps.patch(NAME, &parameters, &Patch::Apply(&map)).await;
    written.map(drop).with_context(|| format!("writing ConfigMap {namespace}/{NAME}"))
}

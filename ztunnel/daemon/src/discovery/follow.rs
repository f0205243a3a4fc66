//! What the API server tells of this node's pods, and of namespaces.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt;
use kubernetes::{
    DATAPLANE_MODE, Selection,
    k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus},
    kube::{Api, Client},
    watch,
};

use super::book::{Book, KnownNamespace};

/// Forever.
pub(super) async fn follow(client: Client, node: String, book: Arc<Book>) {
    let pods = watch(Api::<Pod>::all(client.clone()), Selection::of_node(&node), essence);
    let namespaces = watch(Api::<Namespace>::all(client), Selection::default(), mode_of);
    let follow_pods = pods.for_each(|change| {
        book.told_of_pods(change);
        std::future::ready(())
    });
    let follow_namespaces = namespaces.for_each(|change| {
        book.told_of_namespaces(change);
        std::future::ready(())
    });
    tokio::join!(follow_pods, follow_namespaces);
}

/// What is kept of a pod: what says whether it is in the mesh, and where it is.
fn essence(pod: Pod) -> Pod {
    let mut metadata = pod.metadata;
    metadata.managed_fields = None;
    metadata.owner_references = None;
    for value in metadata.annotations.iter_mut().flat_map(BTreeMap::values_mut) {
        *value = String::new();
    }
    let names = |containers: Vec<Container>| {
        containers
            .into_iter()
            .map(|Container { name, .. }| Container { name, ..Container::default() })
            .collect()
    };
    let spec = pod.spec.map(|spec| PodSpec {
        containers: names(spec.containers),
        init_containers: spec.init_containers.map(names),
        host_network: spec.host_network,
        host_users: spec.host_users,
        service_account_name: spec.service_account_name,
        ..PodSpec::default()
    });
    let status = pod.status.map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        ..PodStatus::default()
    });
    Pod { metadata, spec, status }
}

fn mode_of(namespace: Namespace) -> KnownNamespace {
    let name = namespace.metadata.name.unwrap_or_default();
    let mut labels = namespace.metadata.labels.unwrap_or_default();
    labels.retain(|label, _| label == DATAPLANE_MODE);
    KnownNamespace { name, labels }
}

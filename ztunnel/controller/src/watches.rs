//! The watches: of each sort of object one, all into one channel.

use std::{
    fmt::Debug,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use futures::{Stream, StreamExt, stream::select_all};
use kubernetes::{
    Change, DATAPLANE_MODE, Own, Selection,
    k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice},
    kube::{Api, Client, Resource, core::DynamicObject},
    policies::{authorization_policies, peer_authentications},
    watch,
};
use serde::de::DeserializeOwned;

use crate::{
    facts::{Node, Pod, Policy, PolicyKind, Service, Slice},
    inventory::{Object, Sort, Told},
    probes::Counters,
};

pub(crate) type Telling = Pin<Box<dyn Stream<Item = Told> + Send>>;

/// All that the API server tells, from now on.
pub(crate) fn watch_all(
    client: &Client,
    own: Own,
    counters: &Arc<Counters>,
) -> impl Stream<Item = Told> + Send + use<> {
    let dynamic = |resource, kind: PolicyKind| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        (api, move |object: DynamicObject| Object::Policy(kind, Policy::of(&object, kind)))
    };
    let (authorizations, authorization) = dynamic(authorization_policies(), PolicyKind::Authorization);
    let (peers, peer) = dynamic(peer_authentications(), PolicyKind::PeerAuthentication);
    select_all([
        tell(Api::all(client.clone()), Sort::Namespace, counters, namespace),
        tell(Api::all(client.clone()), Sort::Node, counters, |node| Object::Node(Node::of(node))),
        tell(Api::all(client.clone()), Sort::Pod, counters, move |pod| Object::Pod(Pod::of(pod, &own))),
        tell(Api::all(client.clone()), Sort::Service, counters, |service| {
            Object::Service(Service::of(service))
        }),
        tell(Api::all(client.clone()), Sort::Slice, counters, |slice: EndpointSlice| {
            Object::Slice(Slice::of(slice))
        }),
        tell(authorizations, Sort::Authorization, counters, authorization),
        tell(peers, Sort::PeerAuthentication, counters, peer),
    ])
}

fn namespace(namespace: core::Namespace) -> Object {
    let metadata = namespace.metadata;
    let mode = metadata.labels.and_then(|mut labels| labels.remove(DATAPLANE_MODE));
    Object::Namespace(metadata.name.unwrap_or_default(), mode)
}

fn tell<K>(
    api: Api<K>,
    sort: Sort,
    counters: &Arc<Counters>,
    keep: impl Fn(K) -> Object + Send + 'static,
) -> Telling
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let counters = Arc::clone(counters);
    let changes = watch(api, Selection::default(), keep);
    Box::pin(changes.filter_map(move |change| {
        let told = match change {
            Change::Complete(objects) => Some(Told::All(sort, objects)),
            Change::Applied(object) => Some(Told::Applied(object)),
            Change::Deleted(object) => Some(Told::Deleted(object)),
            Change::Failed(_) => {
                counters.watch_failures.fetch_add(1, Ordering::Relaxed);
                None
            }
        };
        futures::future::ready(told)
    }))
}

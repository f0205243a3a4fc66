//! The headers that a CONNECT of ours carries: names from the state must not forge what they say.

use http::HeaderValue;
use model::{ClientAddr, Workload, WorkloadUid, workload::Locality};

/// The keys of our baggage, in its order.
const KEYS: [&str; 7] = [
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.deployment.name",
    "service.name",
    "service.version",
    "cloud.region",
    "cloud.availability_zone",
];

/// The lines are the names of a workload. Each is said as it is under its own key, or not at all.
pub fn connect_headers(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let identity = "spiffe://cluster.local/ns/a/sa/x".parse().expect("an id");
    let mut workload = Workload::new(WorkloadUid::new("w"), "w", identity, Vec::new());
    let mut lines = text.split('\n').map(str::to_owned);
    let names: [String; 7] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let mut locality = Locality::default();
    [
        workload.cluster_id,
        workload.namespace,
        workload.workload_name,
        workload.canonical_name,
        workload.canonical_revision,
        locality.region,
        locality.zone,
    ] = names.clone().map(Into::into);
    workload.locality = locality.into();
    let client = ClientAddr("[fd01::1]:80".parse().expect("an address"));
    let headers = proxy::connect_headers(&workload, client, None, proxy::new_trace());
    for header in [&headers.baggage, &headers.forwarded, &headers.traceparent] {
        assert!(HeaderValue::from_str(header).is_ok_and(|value| value.to_str().is_ok()), "{header:?}");
    }
    assert_eq!(headers.forwarded, r#"for="[fd01::1]:80""#);
    let fields: Vec<&str> = headers.traceparent.split('-').collect();
    assert_eq!(fields.iter().map(|field| field.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
    let mut last = 0;
    for member in headers.baggage.split(',').filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=').expect("a member");
        let place = KEYS.iter().position(|known| *known == key).unwrap_or_else(|| panic!("{key} is forged"));
        assert!(last <= place, "{key} is there twice");
        assert_eq!(value, names[place], "{key}");
        last = place + 1;
    }
}

//! What a CONNECT tells about where it comes from: `baggage`, `forwarded` (RFC 7239), `traceparent` (W3C Trace
//! Context). The far side takes none of it as proof.

use std::fmt::Write;

use model::{ClientAddr, Workload, service::Service, workload::WorkloadType};
use telemetry::TraceId;
use tunnel::ConnectHeaders;

/// `source` is who connects, from `client`; `service` whom it asked for, if it was one; `trace` the connection's.
pub fn connect_headers(
    source: &Workload,
    client: ClientAddr,
    service: Option<&Service>,
    trace: TraceId,
) -> ConnectHeaders {
    ConnectHeaders {
        baggage: baggage(source),
        forwarded: forwarded(client, service),
        traceparent: traceparent(trace, rand::random()),
    }
}

/// Who a workload is, for telemetry. What is empty or would break the list is left out.
pub(crate) fn baggage(workload: &Workload) -> String {
    let name = match workload.workload_type {
        WorkloadType::Deployment => "k8s.deployment.name",
        WorkloadType::Cronjob => "k8s.cronjob.name",
        WorkloadType::Pod => "k8s.pod.name",
        WorkloadType::Job => "k8s.job.name",
    };
    let members = [
        ("k8s.cluster.name", &workload.cluster_id),
        ("k8s.namespace.name", &workload.namespace),
        (name, &workload.workload_name),
        ("service.name", &workload.canonical_name),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ];
    let mut list = String::with_capacity(160);
    for (key, value) in members.into_iter().filter(|(_, value)| fits_a_list(value)) {
        let separator = if list.is_empty() { "" } else { "," };
        let _ = write!(list, "{separator}{key}={value}");
    }
    list
}

fn forwarded(ClientAddr(client): ClientAddr, service: Option<&Service>) -> String {
    match service.map(|service| &*service.hostname).filter(|host| fits_a_list(host)) {
        Some(host) => format!("for=\"{client}\";host={host}"),
        None => format!("for=\"{client}\""),
    }
}

/// Of one connection, whichever nodes it passes: what `traceparent` says, or else a new one.
pub(crate) fn trace_of(headers: &ConnectHeaders) -> TraceId {
    TraceId::of(&headers.traceparent).unwrap_or_else(new_trace)
}

pub fn new_trace() -> TraceId {
    TraceId::new(rand::random())
}

/// Not sampled: whether to record is not ours to decide.
fn traceparent(trace: TraceId, span: u64) -> String {
    // All zeros would mean "none".
    format!("00-{trace}-{:016x}-00", span.max(1))
}

fn fits_a_list(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !b",;=\"\\".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{WorkloadUid, workload::Locality};

    fn workload() -> Workload {
        let identity = "spiffe://cluster.local/ns/default/sa/sa-s2".parse().unwrap();
        let mut workload = Workload::new(WorkloadUid::new("s2"), "s2", identity, vec![]);
        workload.cluster_id = "Kubernetes".into();
        workload.workload_name = "s2".into();
        workload.canonical_name = "s2".into();
        workload.canonical_revision = "v1".into();
        workload.locality = Locality { region: "r1".into(), zone: "z2".into(), subzone: "".into() }.into();
        workload
    }

    /// The very header that Istio's ztunnel was recorded to send for this workload.
    #[test]
    fn baggage_is_spelled_as_istio_spells_it() {
        assert_eq!(
            baggage(&workload()),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=s2,\
             service.name=s2,service.version=v1,cloud.region=r1,cloud.availability_zone=z2"
        );
    }

    /// A name with a comma would forge further members; one with a line break is no header at all.
    #[test]
    fn baggage_leaves_out_what_is_empty_or_breaks_the_list() {
        let mut workload = workload();
        workload.cluster_id = "".into();
        workload.workload_name = "a,service.name=admin".into();
        workload.canonical_name = "a\r\nx: y".into();
        assert_eq!(
            baggage(&workload),
            "k8s.namespace.name=default,service.version=v1,cloud.region=r1,cloud.availability_zone=z2"
        );
    }

    #[test]
    fn forwarded_quotes_the_address_of_both_families() {
        let of = |client: &str| forwarded(ClientAddr(client.parse().unwrap()), None);
        assert_eq!(of("10.1.1.10:35480"), r#"for="10.1.1.10:35480""#);
        assert_eq!(of("[fd01::10]:80"), r#"for="[fd01::10]:80""#);
    }

    /// The far side must find the trace that we log.
    #[test]
    fn traceparent_has_the_w3c_shape_and_tells_the_trace() {
        for span in [0, u64::MAX] {
            let trace = TraceId::new(7);
            let headers = ConnectHeaders { traceparent: traceparent(trace, span), ..Default::default() };
            assert_eq!(headers.traceparent.len(), 55);
            assert_eq!(trace_of(&headers), trace);
        }
    }

    /// What is malformed belongs to no trace: it gets one of its own, and not everybody the same.
    #[test]
    fn what_has_no_proper_traceparent_gets_a_new_trace() {
        let headers = ConnectHeaders { traceparent: "00-0-0-00".to_owned(), ..Default::default() };
        assert_ne!(trace_of(&headers), trace_of(&headers));
    }
}

//! The names of all metrics of the data plane, and the counters that belong to no connection.

use ::metrics::{
    Histogram, SetRecorderError, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::recorder::{self, OVERFLOW};
pub use crate::recorder::{Exporter, Page, Recorder};

/// Istio's names where Istio has one, `ztunnel_` where it has none.
pub mod names {
    pub const OPENED: &str = "istio_tcp_connections_opened_total";
    pub const CLOSED: &str = "istio_tcp_connections_closed_total";
    pub const FAILED: &str = "istio_tcp_connections_failed_total";
    pub const RECEIVED: &str = "istio_tcp_received_bytes_total";
    pub const SENT: &str = "istio_tcp_sent_bytes_total";
    pub const BUILD: &str = "istio_build";
    pub const ACTIVE_PROXIES: &str = "workload_manager_active_proxy_count";
    pub const HANDSHAKE_FAILURES: &str = "ztunnel_handshake_failures_total";
    pub const REJECTED_REQUESTS: &str = "ztunnel_rejected_requests_total";
    pub const LIMITED: &str = "ztunnel_connections_limited_total";
    pub const BROKEN_SESSIONS: &str = "ztunnel_broken_sessions_total";
    pub const LIMIT_HITS: &str = "ztunnel_limit_hits_total";
    pub const LIMIT_USED: &str = "ztunnel_limit_used";
    pub const LIMIT_ALLOWED: &str = "ztunnel_limit_allowed";
    pub const ACCEPT_FAILURES: &str = "ztunnel_accept_failures_total";
    pub const RETRIES: &str = "ztunnel_connect_retries_total";
    pub const SET_ASIDE: &str = "ztunnel_endpoints_set_aside_total";
    pub const DECISIONS: &str = "ztunnel_policy_decisions_total";
    pub const PLAINTEXT: &str = "ztunnel_plaintext_connections_total";
    pub const DNS_REQUESTS: &str = "istio_dns_requests_total";
    pub const DNS_FORWARDED: &str = "istio_dns_upstream_requests_total";
    pub const DNS_FORWARD_FAILURES: &str = "istio_dns_upstream_failures_total";
    pub const NOT_ESTABLISHED: &str = "ztunnel_connection_failures_total";
    pub const SUPPRESSED_LINES: &str = "ztunnel_access_log_lines_suppressed_total";
    pub const HANDSHAKE_DURATION: &str = "ztunnel_handshake_duration_seconds";
    pub const APPLICATION_CONNECT_DURATION: &str = "ztunnel_application_connect_duration_seconds";
    pub const FIRST_BYTE_DURATION: &str = "ztunnel_first_byte_duration_seconds";

    /// Families whose series come and go with workloads and policies.
    pub(super) const IDLING: &[&str] = &[OPENED, CLOSED, FAILED, RECEIVED, SENT, DECISIONS, PLAINTEXT];
}

/// A recorder as the daemon has it, and what renders it.
pub fn recorder() -> (Recorder, Exporter) {
    recorder::recorder(names::IDLING)
}

/// Makes the process's one recorder. To be called once, before anything is recorded.
pub fn install() -> Result<Exporter, SetRecorderError<Recorder>> {
    let (recorder, exporter) = recorder();
    ::metrics::set_global_recorder(recorder)?;
    describe();
    Ok(exporter)
}

/// Says what each metric means.
pub fn describe() {
    describe_counter!(names::OPENED, "The total number of TCP connections opened.");
    describe_counter!(names::CLOSED, "The total number of TCP connections closed.");
    describe_counter!(names::FAILED, "The total number of TCP connections that failed to establish.");
    describe_counter!(names::RECEIVED, "Payload bytes that went from the source to the destination.");
    describe_counter!(names::SENT, "Payload bytes that went from the destination to the source.");
    describe_gauge!(names::BUILD, "The version of this daemon, as a label.");
    describe_gauge!(names::ACTIVE_PROXIES, "Pods that are served now.");
    describe_counter!(names::HANDSHAKE_FAILURES, "Inbound tunnels refused before the peer had an identity.");
    describe_counter!(
        names::REJECTED_REQUESTS,
        "HTTP/2 requests of proven peers that were no proper CONNECT, too many or too late, by reason."
    );
    describe_counter!(names::LIMITED, "Connections that waited, since others held all descriptors.");
    describe_counter!(
        names::BROKEN_SESSIONS,
        "Tunnels that ended by a breach of HTTP/2 or its limits by a proven peer, by our role in them."
    );
    describe_counter!(names::LIMIT_HITS, "How often a limit refused, cut or delayed something.");
    describe_gauge!(names::LIMIT_USED, "How much is in use of what is limited.");
    describe_gauge!(names::LIMIT_ALLOWED, "How much of it there may be.");
    describe_counter!(names::ACCEPT_FAILURES, "Failures of accept(2) on a pod's listeners.");
    describe_counter!(
        names::RETRIES,
        "Endpoints that failed a connection before another was tried, by reason."
    );
    describe_counter!(names::SET_ASIDE, "How often an endpoint that kept failing was set aside for a while.");
    describe_counter!(
        names::DECISIONS,
        "Inbound connections by what became of them and why, and by what would if what is audited were in force."
    );
    describe_counter!(names::PLAINTEXT, "Plaintext connections accepted where mutual TLS is accepted too.");
    describe_counter!(
        names::DNS_REQUESTS,
        "DNS requests of pods, by type, protocol and what became of them."
    );
    describe_counter!(names::DNS_FORWARDED, "DNS requests that were handed on to whom they were meant for.");
    describe_counter!(names::DNS_FORWARD_FAILURES, "DNS requests that could not be handed on, by reason.");
    describe_counter!(
        names::NOT_ESTABLISHED,
        "Connections that were refused, could not be made or broke, by the reason that the access log gives."
    );
    describe_counter!(
        names::SUPPRESSED_LINES,
        "Connections that went wrong and have no line in the access log, as their source has had too many."
    );
    describe_histogram!(
        names::HANDSHAKE_DURATION,
        "Successful handshakes of mutual TLS and HTTP/2, by our role in them."
    );
    describe_histogram!(
        names::APPLICATION_CONNECT_DURATION,
        "Connecting to a pod's application, when it accepted."
    );
    describe_histogram!(
        names::FIRST_BYTE_DURATION,
        "From accepting a connection until the first byte of the answer was handed to who waits for it."
    );
    describe_counter!(
        OVERFLOW,
        "New series that found no room in their family and are counted under `unknown`."
    );
}

/// The histograms of durations, their series at hand.
#[derive(Debug)]
pub struct Timings {
    pub handshake_inbound: Histogram,
    pub handshake_outbound: Histogram,
    pub application_connect: Histogram,
    pub(crate) first_byte_source: Histogram,
    pub(crate) first_byte_destination: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            handshake_inbound: histogram!(names::HANDSHAKE_DURATION, "role" => "inbound"),
            handshake_outbound: histogram!(names::HANDSHAKE_DURATION, "role" => "outbound"),
            application_connect: histogram!(names::APPLICATION_CONNECT_DURATION),
            first_byte_source: histogram!(names::FIRST_BYTE_DURATION, "reporter" => "source"),
            first_byte_destination: histogram!(names::FIRST_BYTE_DURATION, "reporter" => "destination"),
        }
    }
}

pub fn handshake_failed(reason: &'static str) {
    counter!(names::HANDSHAKE_FAILURES, "reason" => reason).increment(1);
}

pub fn requests_rejected(reason: &'static str, count: u64) {
    counter!(names::REJECTED_REQUESTS, "reason" => reason).increment(count);
}

/// `role` is ours.
pub fn session_broken(role: &'static str, reason: &'static str) {
    counter!(names::BROKEN_SESSIONS, "role" => role, "reason" => reason).increment(1);
}

pub fn accept_failed() {
    counter!(names::ACCEPT_FAILURES).increment(1);
}

/// An arrival had to wait for another connection's end.
pub fn connections_limited() {
    counter!(names::LIMITED).increment(1);
}

/// A limit refused, cut or delayed something.
pub fn limit_hit(limit: &'static str) {
    counter!(names::LIMIT_HITS, "limit" => limit).increment(1);
}

/// The same, of what is counted elsewhere: so often, ever.
pub fn limit_hits(limit: &'static str, ever: u64) {
    counter!(names::LIMIT_HITS, "limit" => limit).absolute(ever);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; nothing limited comes near 2^53")]
pub fn limit_used(limit: &'static str, used: usize, allowed: usize) {
    gauge!(names::LIMIT_USED, "limit" => limit).set(used as f64);
    gauge!(names::LIMIT_ALLOWED, "limit" => limit).set(allowed as f64);
}

/// An endpoint failed a connection, and another is tried.
pub fn connect_retried(reason: &'static str) {
    counter!(names::RETRIES, "reason" => reason).increment(1);
}

/// A DNS request came; `outcome` is what was decided about it.
pub fn dns_requested(query_type: &'static str, protocol: &'static str, outcome: &'static str) {
    counter!(
        names::DNS_REQUESTS,
        "request_query_type" => query_type, "request_protocol" => protocol, "outcome" => outcome
    )
    .increment(1);
}

/// A DNS request is handed on.
pub fn dns_forwarded() {
    counter!(names::DNS_FORWARDED).increment(1);
}

pub fn dns_forward_failed(reason: &'static str) {
    counter!(names::DNS_FORWARD_FAILURES, "reason" => reason).increment(1);
}

pub fn endpoint_set_aside() {
    counter!(names::SET_ASIDE).increment(1);
}

pub(crate) fn access_lines_suppressed() {
    counter!(names::SUPPRESSED_LINES).increment(1);
}

pub(crate) fn connection_failed(reporter: &'static str, reason: &'static str) {
    counter!(names::NOT_ESTABLISHED, "reporter" => reporter, "reason" => reason).increment(1);
}

pub fn build_info(version: &'static str) {
    gauge!(names::BUILD, "component" => "ztunnel", "tag" => version).set(1.0);
}

/// Counts a pod as served for as long as it is held.
#[derive(Debug)]
pub struct ActiveProxy(());

impl ActiveProxy {
    #[expect(
        clippy::new_without_default,
        reason = "making one has an effect that nobody expects of a default"
    )]
    pub fn new() -> Self {
        gauge!(names::ACTIVE_PROXIES).increment(1.0);
        Self(())
    }
}

impl Drop for ActiveProxy {
    fn drop(&mut self) {
        gauge!(names::ACTIVE_PROXIES).decrement(1.0);
    }
}

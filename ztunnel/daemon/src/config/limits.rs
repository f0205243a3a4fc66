//! The file's section `limits`: how much pods and peers may take. What each does is said where it takes effect, in
//! `proxy::ProxyLimits`, `tunnel::TunnelSettings` and `model::outlier::OutlierSettings`; the defaults are theirs.

use anyhow::bail;
use model::outlier::OutlierSettings;
use proxy::{ProxyLimits, ProxySettings};
use serde::{Deserialize, Serialize};
use tunnel::{FrameSettings, TunnelSettings, WindowSettings};

use super::Span;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) sockets: Option<usize>,
    turns: Option<usize>,
    pod_sockets_percent: usize,
    handshakes: usize,
    handshakes_per_pod: usize,
    pending_per_pod: usize,
    pending_per_source_percent: usize,
    accepts_per_second: u32,
    accept_burst: u32,
    outbound_connections_per_pod: usize,
    inbound_connections_per_source: usize,
    inbound_tunnels_per_source: usize,
    outbound_tunnels: usize,
    outbound_tunnels_per_pod: usize,
    streams_per_outbound_tunnel: u32,
    streams_per_inbound_tunnel: u32,
    /// In bytes, like the next three.
    stream_window: u32,
    stream_window_max: u32,
    window_growth: usize,
    window_bytes: usize,
    /// Of a peer's frames for nothing.
    frame_burst: u64,
    frames_per_second: u64,
    pub(crate) endpoint_attempts: u32,
    pub(crate) set_aside: SetAside,
    log_lines: u64,
    log_interval: Span,
    pub(crate) waiting_log_lines: usize,
}

/// When endpoints that keep failing are set aside.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct SetAside {
    failures: u32,
    shortest: Span,
    longest: Span,
    memory: Span,
    endpoints: usize,
    services: usize,
}

/// Some tens of megabytes at most.
const WAITING_LOG_LINES: usize = 32 << 10;
/// Half of what HTTP/2 allows, so that a connection's window can cover a few streams.
const LARGEST_WINDOW: u32 = 1 << 30;
/// RFC 9113, section 6.5.2: what a stream has before anything else is agreed on.
const SMALLEST_WINDOW: u32 = 65_535;

impl Limits {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let zero = [
            ("sockets", self.sockets == Some(0)),
            ("turns", self.turns == Some(0)),
            ("handshakes", self.handshakes == 0),
            ("handshakesPerPod", self.handshakes_per_pod == 0),
            ("pendingPerPod", self.pending_per_pod == 0),
            ("acceptsPerSecond", self.accepts_per_second == 0),
            ("acceptBurst", self.accept_burst == 0),
            ("outboundConnectionsPerPod", self.outbound_connections_per_pod == 0),
            ("inboundConnectionsPerSource", self.inbound_connections_per_source == 0),
            ("inboundTunnelsPerSource", self.inbound_tunnels_per_source == 0),
            ("outboundTunnels", self.outbound_tunnels == 0),
            ("outboundTunnelsPerPod", self.outbound_tunnels_per_pod == 0),
            ("streamsPerOutboundTunnel", self.streams_per_outbound_tunnel == 0),
            ("streamsPerInboundTunnel", self.streams_per_inbound_tunnel == 0),
            ("frameBurst", self.frame_burst == 0),
            ("framesPerSecond", self.frames_per_second == 0),
            ("endpointAttempts", self.endpoint_attempts == 0),
            ("setAside.failures", self.set_aside.failures == 0),
            ("waitingLogLines", self.waiting_log_lines == 0),
            ("logInterval", self.log_interval.0.is_zero()),
        ];
        if let Some((name, _)) = zero.into_iter().find(|&(_, is_zero)| is_zero) {
            bail!("limits.{name}: expected more than 0");
        }
        let shares = [
            ("podSocketsPercent", self.pod_sockets_percent),
            ("pendingPerSourcePercent", self.pending_per_source_percent),
        ];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(1..=100).contains(share)) {
            bail!("limits.{name}: expected 1 to 100, found {share}");
        }
        if self.set_aside.longest.0 < self.set_aside.shortest.0 {
            bail!("limits.setAside.longest: expected at least `shortest`, {}", self.set_aside.shortest);
        }
        self.check_windows()
    }

    fn check_windows(&self) -> anyhow::Result<()> {
        let Self { stream_window: start, stream_window_max: most, window_growth, window_bytes, .. } = *self;
        if !(SMALLEST_WINDOW..=LARGEST_WINDOW).contains(&start) {
            bail!("limits.streamWindow: expected {SMALLEST_WINDOW} to {LARGEST_WINDOW}, found {start}");
        }
        if !(start..=LARGEST_WINDOW).contains(&most) {
            bail!("limits.streamWindowMax: expected `streamWindow` to {LARGEST_WINDOW}, found {most}");
        }
        let windows =
            WindowSettings { initial: start, max: most, growth_budget: window_growth, total: window_bytes };
        if windows.streams() == 0 {
            bail!(
                "limits.windowBytes: expected room for `windowGrowth`, one stream, and a sixteenth of it all for \
                 plaintext, found {window_bytes}"
            );
        }
        Ok(())
    }

    pub(crate) fn of_proxy(&self, sockets: usize) -> ProxyLimits {
        ProxyLimits {
            handshakes_per_pod: self.handshakes_per_pod,
            handshakes: self.handshakes,
            sockets,
            pod_sockets_percent: self.pod_sockets_percent,
            pending_per_pod: self.pending_per_pod,
            pending_per_source_percent: self.pending_per_source_percent,
            accepts_per_second: self.accepts_per_second,
            accept_burst: self.accept_burst,
            outbound_connections_per_pod: self.outbound_connections_per_pod,
            inbound_connections_per_source: self.inbound_connections_per_source,
            inbound_tunnels_per_source: self.inbound_tunnels_per_source,
            log_lines: self.log_lines,
            log_interval: self.log_interval.0,
        }
    }

    pub(crate) fn of_tunnels(&self, others: TunnelSettings) -> TunnelSettings {
        TunnelSettings {
            windows: WindowSettings {
                initial: self.stream_window,
                max: self.stream_window_max,
                growth_budget: self.window_growth,
                total: self.window_bytes,
            },
            frames: FrameSettings { burst: self.frame_burst, per_second: self.frames_per_second },
            streams_per_connection: self.streams_per_outbound_tunnel,
            inbound_streams: self.streams_per_inbound_tunnel,
            pool_connections: self.outbound_tunnels,
            pool_connections_per_source: self.outbound_tunnels_per_pod,
            turns: self.turns.unwrap_or(others.turns),
            ..others
        }
    }
}

impl SetAside {
    pub(crate) fn settings(&self) -> OutlierSettings {
        OutlierSettings {
            failures: self.failures,
            shortest: self.shortest.0,
            longest: self.longest.0,
            memory: self.memory.0,
            endpoints: self.endpoints,
            services: self.services,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let ProxySettings { attempts, limits: proxy, .. } = ProxySettings::default();
        let tunnels = TunnelSettings::default();
        Self {
            sockets: None,
            turns: None,
            pod_sockets_percent: proxy.pod_sockets_percent,
            handshakes: proxy.handshakes,
            handshakes_per_pod: proxy.handshakes_per_pod,
            pending_per_pod: proxy.pending_per_pod,
            pending_per_source_percent: proxy.pending_per_source_percent,
            accepts_per_second: proxy.accepts_per_second,
            accept_burst: proxy.accept_burst,
            outbound_connections_per_pod: proxy.outbound_connections_per_pod,
            inbound_connections_per_source: proxy.inbound_connections_per_source,
            inbound_tunnels_per_source: proxy.inbound_tunnels_per_source,
            outbound_tunnels: tunnels.pool_connections,
            outbound_tunnels_per_pod: tunnels.pool_connections_per_source,
            streams_per_outbound_tunnel: tunnels.streams_per_connection,
            streams_per_inbound_tunnel: tunnels.inbound_streams,
            stream_window: tunnels.windows.initial,
            stream_window_max: tunnels.windows.max,
            window_growth: tunnels.windows.growth_budget,
            window_bytes: tunnels.windows.total,
            frame_burst: tunnels.frames.burst,
            frames_per_second: tunnels.frames.per_second,
            endpoint_attempts: attempts,
            set_aside: SetAside::default(),
            log_lines: proxy.log_lines,
            log_interval: Span(proxy.log_interval),
            waiting_log_lines: WAITING_LOG_LINES,
        }
    }
}

impl Default for SetAside {
    fn default() -> Self {
        let OutlierSettings { failures, shortest, longest, memory, endpoints, services } =
            OutlierSettings::default();
        let (shortest, longest, memory) = (Span(shortest), Span(longest), Span(memory));
        Self { failures, shortest, longest, memory, endpoints, services }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../../deploy/examples/config.yaml");

    fn parse(text: &str) -> anyhow::Result<Limits> {
        let limits: Limits = serde_saphyr::from_str(text)?;
        limits.check()?;
        Ok(limits)
    }

    /// Where people look for what there is, all must be, and as it is.
    #[test]
    fn the_example_shows_every_limit_with_its_default() {
        let (_, section) = EXAMPLE.split_once("# limits:\n").unwrap();
        let text: Vec<&str> = section.lines().map_while(|line| line.strip_prefix("#   ")).collect();
        let shown = parse(&text.join("\n")).unwrap();
        assert!(shown.sockets.is_some() && shown.turns.is_some());
        let shown = serde_json::to_value(Limits { sockets: None, turns: None, ..shown }).unwrap();
        let default = serde_json::to_value(Limits::default()).unwrap();
        assert_eq!(shown, default);
        for key in default.as_object().unwrap().keys() {
            assert!(text.iter().any(|line| line.starts_with(&format!("{key}:"))), "{key} is not shown");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(error("handshakes: 0").contains("limits.handshakes"));
        assert!(error("podSocketsPercent: 101").contains("1 to 100"));
        assert!(error("pendingPerSourcePercent: 0").contains("limits.pendingPerSourcePercent"));
        assert!(error("streamWindow: 100").contains("limits.streamWindow: expected 65535"));
        assert!(error("streamWindow: 2097152").contains("limits.streamWindowMax"));
        assert!(error("windowBytes: 1000").contains("limits.windowBytes"));
        assert!(error("setAside: {shortest: 10m}").contains("limits.setAside.longest"));
        assert!(error("handshake: 1").contains("handshake"));
    }
}

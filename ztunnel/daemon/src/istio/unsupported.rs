//! What Istio's proxy reads and this one does not do: refused where silence would weaken something or break all traffic,
//! named in the log where it changes nothing that anybody relies on.

use anyhow::bail;

use super::Variables;

/// Without effect. docs/ISTIO.md says why of each.
pub(super) const IGNORED: &[&str] = &[
    "ENABLE_ORIG_SRC",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "HTTP2_STREAM_WINDOW_SIZE",
    "INPOD_PORT_REUSE",
    "KEEPALIVE_ENABLED",
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_RETRIES",
    "KEEPALIVE_TIME",
    "LOCALHOST_APP_TUNNEL",
    "NETWORK",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "POOL_UNUSED_RELEASE_TIMEOUT",
    "PREFERED_SERVICE_NAMESPACE",
    "PROXY_WORKLOAD_INFO",
    "RUST_BACKTRACE",
    "SERVICE_ACCOUNT",
    "UNSTABLE_ENABLE_SOCKS5",
    "USER_TIMEOUT_ENABLED",
    "ZTUNNEL_CPU_LIMIT",
];

/// The mark that a CNI's rules and this proxy must agree on.
const MARK: u32 = 1337;

pub(super) fn ignored(variables: &Variables) -> Vec<String> {
    variables.names().filter(|name| IGNORED.contains(name)).map(ToOwned::to_owned).collect()
}

pub(super) fn refuse(variables: &Variables) -> anyhow::Result<()> {
    match variables.text("PROXY_MODE").map(str::to_ascii_lowercase).as_deref() {
        None | Some("shared") => {}
        Some("dedicated") => {
            bail!("PROXY_MODE: `dedicated` is a proxy for one workload; this one is for a node: set `shared`")
        }
        Some(other) => bail!("PROXY_MODE: expected `shared`, found `{other}`"),
    }
    for (name, why) in [
        ("INPOD_ENABLED", "traffic is taken over in the pods' own namespaces and nowhere else"),
        ("ENABLE_PROXY", "traffic that the CNI redirects would have nowhere to go"),
    ] {
        if variables.flag(name)? == Some(false) {
            bail!("{name}: `false` is not supported: {why}; remove it");
        }
    }
    if variables.flag("TRANSPARENT_NETWORK_POLICIES")? == Some(true) {
        bail!(
            "TRANSPARENT_NETWORK_POLICIES: is not supported: tunnels go to port 15008, so NetworkPolicies by the \
             application's port would not see them; write them for 15008 and remove it"
        );
    }
    if variables.parsed::<u32>("PACKET_MARK")?.is_some_and(|mark| mark != MARK) {
        bail!("PACKET_MARK: only {MARK} is supported, which istio-cni's rules know; remove it");
    }
    for (name, instead) in [
        ("LOCAL_XDS", "the mesh as text is not taken; write it into a file and name that by LOCAL_XDS_PATH"),
        ("ALT_XDS_HOSTNAME", "a control plane must have a certificate for the name in XDS_ADDRESS"),
        ("ALT_CA_HOSTNAME", "a CA must have a certificate for the name in CA_ADDRESS"),
    ] {
        if variables.text(name).is_some() {
            bail!("{name}: is not supported: {instead}");
        }
    }
    Ok(())
}

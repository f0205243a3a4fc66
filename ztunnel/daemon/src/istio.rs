//! `ztunnel proxy ztunnel`: the environment of Istio's DaemonSet, told as this daemon's configuration.
//!
//! The same tree comes out that somebody could have written as the configuration file, so that there is one place where
//! a configuration is checked. docs/ISTIO.md has what becomes of each variable.

mod document;
mod mesh_file;
mod proxy_config;
mod unsupported;
mod variables;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, anyhow, bail};
use control::ControlPlaneAddress;
use serde_json::{Value, json};

pub(crate) use self::variables::Variables;
use self::{
    document::Document,
    mesh_file::MeshFile,
    proxy_config::{Metadata, ProxyConfig},
};
use crate::config::{self, Config, Flags, Span};

const ISTIOD: &str = "https://istiod.istio-system.svc:15012";
const ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";
const MESH_FILE: &str = "./etc/istio/config/mesh";
const ZDS_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
/// What Istio's proxy takes for draining if nobody says how long it has.
const DRAIN: &str = "5s";

/// The configuration: flags and our own variables go before Istio's, these before the file. And those of Istio's that are
/// set and change nothing.
pub(crate) fn load(
    file: Option<&Path>,
    own: &Flags,
    variables: &Variables,
) -> anyhow::Result<(Config, Vec<String>)> {
    let from_file = file.map(config::read_layer).transpose()?.unwrap_or_else(|| json!({}));
    let mesh_file = MeshFile::read(Path::new(MESH_FILE))?;
    let layers = [own.layer()?, translate(variables, mesh_file)?, from_file, defaults(variables)];
    let place = match variables.flag("FAKE_CA")? {
        Some(true) => "FAKE_CA=true (the CA inside the daemon) and the rest of Istio's environment",
        _ => "Istio's environment (docs/ISTIO.md)",
    };
    Ok((config::from_layers(layers).context(place)?, unsupported::ignored(variables)))
}

/// Where neither the environment nor the file says otherwise.
fn defaults(variables: &Variables) -> Value {
    // Of Istio's manifest, no other directory of the daemon's can be written to.
    let directory = Path::new(variables.text("INPOD_UDS").unwrap_or(ZDS_SOCKET)).parent();
    let admin = directory.map(|directory| directory.join("admin.sock"));
    json!({ "cni": { "zdsSocket": ZDS_SOCKET }, "drainDeadline": DRAIN, "adminSocket": admin })
}

/// Pure: what the environment says, as the configuration file would.
fn translate(variables: &Variables, mesh_file: MeshFile) -> anyhow::Result<Value> {
    unsupported::refuse(variables)?;
    let MeshFile { default_config, root_namespace } = mesh_file;
    let proxy_config = ProxyConfig::of(variables, default_config.unwrap_or_default())?;
    let metadata = proxy_config.metadata(variables)?;
    let mut given = Document::default();
    given.set_if("cni.zdsSocket", variables.text("INPOD_UDS"));
    names(variables, &metadata, &mut given);
    mesh(variables, &proxy_config, &metadata, &mut given)?;
    if variables.text("LOCAL_XDS_PATH").is_none() {
        given.set_if("controlPlane.rootNamespace", root_namespace);
    }
    certificates(variables, &mut given)?;
    endpoints(variables, &proxy_config, &mut given)?;
    process(variables, &proxy_config, &mut given)?;
    Ok(given.into())
}

/// Where the mesh is from.
fn mesh(
    variables: &Variables,
    proxy_config: &ProxyConfig,
    metadata: &Metadata,
    given: &mut Document,
) -> anyhow::Result<()> {
    let on_demand = variables.flag("XDS_ON_DEMAND")?;
    let address = match (variables.text("XDS_ADDRESS"), &proxy_config.discovery_address) {
        (Some(address), _) => Some(("XDS_ADDRESS", address)),
        (None, _) if variables.is_empty("XDS_ADDRESS") => None,
        (None, Some(address)) => Some(("PROXY_CONFIG: discoveryAddress", address.as_str())),
        (None, None) if variables.text("LOCAL_XDS_PATH").is_some() => None,
        (None, None) => Some(("XDS_ADDRESS", ISTIOD)),
    };
    match (address, variables.text("LOCAL_XDS_PATH")) {
        (Some((name, _)), Some(_)) => {
            bail!("LOCAL_XDS_PATH and {name}: the mesh comes from one of them; set XDS_ADDRESS to nothing")
        }
        (None, None) => bail!("XDS_ADDRESS is empty: name a control plane, or a file by LOCAL_XDS_PATH"),
        (None, Some(file)) => given.set("stateFile", file),
        (Some((name, address)), None) => {
            given.set("controlPlane.address", tls_address(name, address)?);
            given.set("controlPlane.rootCertificates", roots(variables, "XDS_ROOT_CA"));
            given.set("controlPlane.tokenFile", token_file(variables)?);
            given.set("controlPlane.headers", headers(variables, "XDS_HEADER_"));
            given.set_if("controlPlane.mode", on_demand.map(|on| if on { "onDemand" } else { "full" }));
            let why = "the control plane must know who asks";
            given.set("controlPlane.node.pod", variables.needed("POD_NAME", why)?);
            given.set("controlPlane.node.namespace", variables.needed("POD_NAMESPACE", why)?);
            given.set("controlPlane.node.ip", variables.needed("INSTANCE_IP", why)?);
            variables.needed("NODE_NAME", "the mesh's workloads are told from this node's by it")?;
            given.set("controlPlane.node.metadata", json!(metadata));
            given.set_if("controlPlane.node.clusterDomain", variables.text("CLUSTER_DOMAIN"));
        }
    }
    Ok(())
}

/// Who signs for the workloads.
fn certificates(variables: &Variables, given: &mut Document) -> anyhow::Result<()> {
    if let Some(lifetime) = variables.text("SECRET_TTL") {
        given.set("certificateLifetime", span("SECRET_TTL", lifetime)?.to_string());
    }
    if variables.flag("FAKE_CA")? == Some(true) {
        given.set("certificates.source", "embedded");
        return Ok(());
    }
    if variables.is_empty("CA_ADDRESS") {
        bail!("CA_ADDRESS is empty: name a CA; or set FAKE_CA=true for the one inside the daemon");
    }
    let address = variables.text("CA_ADDRESS").unwrap_or(ISTIOD);
    given.set("certificates.source", "istio");
    given.set("certificates.authority.address", tls_address("CA_ADDRESS", address)?);
    given.set("certificates.authority.rootCertificates", roots(variables, "CA_ROOT_CA"));
    given.set("certificates.authority.tokenFile", token_file(variables)?);
    given.set("certificates.authority.headers", headers(variables, "CA_HEADER_"));
    Ok(())
}

fn names(variables: &Variables, metadata: &Metadata, given: &mut Document) {
    given.set_if("nodeName", variables.text("NODE_NAME"));
    given.set_if("trustDomain", variables.text("TRUST_DOMAIN"));
    let cluster = variables.text("ISTIO_META_CLUSTER_ID").or_else(|| variables.text("CLUSTER_ID"));
    given.set_if("clusterId", cluster);
    given.set_if("dns.clusterDomain", variables.text("CLUSTER_DOMAIN"));
    if let Some(capture) = metadata.get("DNS_CAPTURE") {
        let text = capture.as_str().map_or_else(|| capture.to_string(), ToOwned::to_owned);
        given.set("dns.enabled", text.eq_ignore_ascii_case("true"));
    }
}

fn endpoints(variables: &Variables, proxy_config: &ProxyConfig, given: &mut Document) -> anyhow::Result<()> {
    let everywhere = variables.flag("IPV6_ENABLED")? == Some(false);
    let everywhere: IpAddr = if everywhere { [0; 4].into() } else { [0_u16; 8].into() };
    let at = |ip: IpAddr, port: Option<u16>| port.map(|port| SocketAddr::new(ip, port));
    // An address of its own goes before the port in `PROXY_CONFIG`.
    let (stats, readiness) = (proxy_config.stats_port, None);
    let defaulted = |port: Option<u16>, usual| port.or(everywhere.is_ipv4().then_some(usual));
    for (variable, key, otherwise) in [
        ("ADMIN_ADDR", "adminAddress", at(Ipv4Addr::LOCALHOST.into(), proxy_config.proxy_admin_port)),
        ("STATS_ADDR", "metricsAddress", at(everywhere, defaulted(stats, 15020))),
        ("READINESS_ADDR", "readinessAddress", at(everywhere, defaulted(readiness, 15021))),
    ] {
        let address = variables.text(variable).map(|text| socket_address(variable, text)).transpose()?;
        given.set_if(key, address.or(otherwise).map(|address| address.to_string()));
    }
    Ok(())
}

/// Threads, log, and how it ends.
fn process(variables: &Variables, proxy_config: &ProxyConfig, given: &mut Document) -> anyhow::Result<()> {
    // `ZTUNNEL_WORKER_THREADS` is a variable of ours too.
    given.set_if("workerThreads", proxy_config.concurrency.filter(|&threads| threads > 0));
    given.set_if("logLevel", variables.text("RUST_LOG").or_else(|| variables.text("LOG_LEVEL")));
    match variables.text("LOG_FORMAT") {
        None => {}
        Some(format @ ("json" | "plain")) => given.set("logFormat", format),
        Some(other) => bail!("LOG_FORMAT: expected json or plain, found `{other}`"),
    }
    if let Some(deadline) = variables.text("CONNECTION_TERMINATION_DEADLINE") {
        let deadline = span("CONNECTION_TERMINATION_DEADLINE", deadline)?;
        given.set("drainDeadline", deadline.to_string());
    } else if let Some(grace) = variables.parsed::<u64>("TERMINATION_GRACE_PERIOD_SECONDS")? {
        given.set("drainDeadline", format!("{}s", below(grace)));
    }
    Ok(())
}

/// There must be time to say goodbye before the kubelet kills.
fn below(grace: u64) -> u64 {
    if grace > 10 { grace - 5 } else { grace.saturating_sub(1).max(1) }
}

fn tls_address(name: &str, text: &str) -> anyhow::Result<String> {
    text.parse::<ControlPlaneAddress>().map_err(|error| anyhow!("{name}: {error}"))?;
    Ok(text.to_owned())
}

/// A file, PEM itself, or `SYSTEM`.
fn roots<'a>(variables: &'a Variables, name: &str) -> &'a str {
    match variables.text(name) {
        None => ROOTS,
        Some("SYSTEM") => "system",
        Some(other) => other,
    }
}

/// By the name that follows the prefix.
fn headers(variables: &Variables, prefix: &str) -> Value {
    let each = variables.with_prefix(prefix).filter(|(_, value)| !value.is_empty());
    each.map(|(name, value)| (name.to_ascii_lowercase(), Value::from(value))).collect()
}

/// A token in the environment could not be replaced, and everything that the process starts would have it.
fn token_file(variables: &Variables) -> anyhow::Result<&str> {
    match variables.text("AUTH_TOKEN") {
        None => Ok(TOKEN),
        Some(path) if path.starts_with(['/', '.']) => Ok(path),
        Some(_) => bail!("AUTH_TOKEN: a token itself is not taken; write it into a file and name its path"),
    }
}

/// `86400` is seconds, as is `24h0m0s`.
fn span(name: &str, text: &str) -> anyhow::Result<Span> {
    let is_bare = text.bytes().all(|byte| byte.is_ascii_digit());
    let with_unit = if is_bare { format!("{text}s") } else { text.to_owned() };
    with_unit.parse().map_err(|error| anyhow!("{name}: `{text}`: {error}"))
}

fn socket_address(name: &str, text: &str) -> anyhow::Result<SocketAddr> {
    let numbered =
        text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    numbered.parse().map_err(|error| anyhow!("{name}: `{text}`: {error}; expected IP:PORT or localhost:PORT"))
}

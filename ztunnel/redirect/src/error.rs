//! What can go wrong with the redirection.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error("cannot open the network namespace {path}: {source}")]
    Namespace { path: PathBuf, source: io::Error },
    #[error("{what} in the pod's network namespace: {source}")]
    InNamespace { what: &'static str, source: io::Error },
    #[error("netlink, {what}: {source}")]
    Netlink { what: &'static str, source: rtnetlink::Error },
    #[error("sysctl {name}: {source}; is /proc/sys writable?")]
    Sysctl { name: &'static str, source: io::Error },
    #[error("eBPF, {what}: {message}")]
    Ebpf { what: &'static str, message: String },
    #[error("{path} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")]
    NotBpffs { path: PathBuf },
    #[error("{what} {path}: {source}")]
    Path { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the eBPF object `{object}` speaks ABI {found:?}, this daemon {expected}; build both from one source"
    )]
    Abi { object: &'static str, found: Option<u32>, expected: u32 },
    #[error("pod {uid}: {problem}")]
    Pod { uid: String, problem: &'static str },
    #[error("a newer daemon serves this node")]
    Superseded,
    #[error("a daemon serves this node's pods and would enrol them again; stop it first")]
    StillServed,
}

impl RedirectError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => "namespace",
            Self::InNamespace { .. } => "in_namespace",
            Self::Netlink { .. } => "netlink",
            Self::Sysctl { .. } => "sysctl",
            Self::Ebpf { .. } => "ebpf",
            Self::NotBpffs { .. } => "not_bpffs",
            Self::Path { .. } => "path",
            Self::Abi { .. } => "abi",
            Self::Pod { .. } => "pod",
            Self::Superseded => "superseded",
            Self::StillServed => "still_served",
        }
    }

    /// With the whole chain of causes: an eBPF error's text is in its sources, the verifier's log among them.
    pub(crate) fn ebpf(what: &'static str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::Ebpf { what, message }
    }
}

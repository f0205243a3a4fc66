//! What the controller is told at its start.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kubernetes::Own;
use model::TrustDomain;

/// Settings of the controller; each is a flag and an environment variable.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Read the API server's address and credentials from here; by default from the pod that this runs in.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace that this runs in: of its Secret, ConfigMap and Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "ztunnel-system", value_name = "NAME")]
    pub namespace: String,
    /// By which name this replica holds the Lease.
    #[arg(long, env = "POD_NAME", default_value = "ztunnel-controller", value_name = "NAME")]
    pub pod_name: String,
    /// The Service by which daemons reach it; its DNS names stand in the certificate that is shown to them.
    #[arg(
        long,
        env = "ZTUNNEL_CONTROLLER_SERVICE",
        default_value = "ztunnel-controller",
        value_name = "NAME"
    )]
    pub service: String,
    /// Further DNS names and addresses of that certificate.
    #[arg(long, env = "ZTUNNEL_CONTROLLER_NAMES", value_delimiter = ',', value_name = "NAME")]
    pub server_names: Vec<String>,
    /// The service account of the daemons, in the same namespace: nobody else is served.
    #[arg(long, env = "ZTUNNEL_DAEMON_ACCOUNT", default_value = "ztunnel", value_name = "NAME")]
    pub daemon_account: String,
    /// For whom a daemon's token must be meant (the audience of its projected volume).
    #[arg(long, env = "ZTUNNEL_TOKEN_AUDIENCE", default_value = "istio-ca", value_name = "NAME")]
    pub audience: String,
    /// The trust domain of all identities.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,
    /// The domain of the cluster's DNS.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// The name of this cluster.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes", value_name = "NAME")]
    pub cluster_id: String,
    /// The network that all pods are on.
    #[arg(long, env = "NETWORK", default_value = "", value_name = "NAME")]
    pub network: String,
    /// The namespace whose policies are for the whole mesh; by default its own.
    #[arg(long, env = "ROOT_NAMESPACE", value_name = "NAME")]
    pub root_namespace: Option<String>,
    /// A Secret that another keeps (cert-manager): `tls.crt`, `tls.key` and `ca.crt` of an intermediate to sign with. Without
    /// it, a root is made once and kept in the Secret `ztunnel-ca`.
    #[arg(long, env = "ZTUNNEL_INTERMEDIATE_SECRET", value_name = "NAME")]
    pub intermediate_secret: Option<String>,
    /// The longest life of a certificate.
    #[arg(long, env = "ZTUNNEL_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = humantime::parse_duration)]
    pub certificate_lifetime: Duration,
    /// Where state and certificates are served.
    #[arg(long, env = "ZTUNNEL_CONTROLLER_ADDRESS", default_value = "[::]:15012", value_name = "IP:PORT")]
    pub address: SocketAddr,
    /// Where `/healthz/ready` and `/metrics` are served.
    #[arg(long, env = "ZTUNNEL_CONTROLLER_PROBES", default_value = "[::]:15021", value_name = "IP:PORT")]
    pub probes: SocketAddr,
}

impl Settings {
    pub(crate) fn root_namespace(&self) -> &str {
        self.root_namespace.as_deref().unwrap_or(&self.namespace)
    }

    pub(crate) fn own(&self) -> Own {
        Own { namespace: self.namespace.clone() }
    }

    /// The names in the certificate that daemons see.
    pub(crate) fn names(&self) -> Vec<String> {
        let (service, namespace) = (&self.service, &self.namespace);
        let mut names = vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{}", self.cluster_domain),
            format!("{service}.{namespace}"),
        ];
        names.extend(self.server_names.iter().cloned());
        names
    }
}

pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    text.parse().map_err(|error: model::identity::InvalidIdentity| error.to_string())
}

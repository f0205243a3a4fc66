//! `ztunnel controller`: the cluster's control plane, for clusters that have no other. The room `controller` does the work.

use std::time::Duration;

use ::controller::RotateRoot;
use anyhow::Context;

use crate::{
    config::{Config, LogFormat},
    logging,
};

const GIVE_BACK: Duration = Duration::from_secs(10);

pub(crate) const EXAMPLE: &str = "\
Examples:
  ztunnel controller                                  # in a pod: its service account and POD_NAMESPACE say the rest
  ztunnel controller --kubeconfig ~/.kube/config --namespace ztunnel-system --server-names 192.0.2.7
  ztunnel controller crds | kubectl apply -f -        # AuthorizationPolicy and PeerAuthentication

It needs to list and watch namespaces, nodes, pods, services, endpointslices, authorizationpolicies and
peerauthentications; to create tokenreviews; to patch the status of both policies; and in its own namespace to keep
a Lease, a Secret (ztunnel-ca) and a ConfigMap (istio-ca-root-cert). Daemons find it by `controlPlane.address`
(Service:15012), with `controlPlane.rootCertificates` from that ConfigMap and a projected token for --audience.";

const ROTATION: &str = "\
Examples, in the controller's own pod (`kubectl exec -n ztunnel-system deployment/ztunnel-controller --`):
  ztunnel controller rotate-root                      # where it is, and what may come next and when
  ztunnel controller rotate-root prepare              # a new root beside the old one, which goes on signing
  ztunnel controller rotate-root switch               # a certificate's life later: the new one signs
  ztunnel controller rotate-root finish               # a certificate's life later: the old one is dropped
  ztunnel controller rotate-root abort                # back to the old one, at any stage

A step that comes too early is refused. Each is one write of the Secret ztunnel-ca: what was interrupted is repeated.";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Controller {
    #[command(subcommand)]
    ask: Option<Ask>,
    #[command(flatten)]
    settings: ::controller::Settings,
    /// What is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "ZTUNNEL_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    log_level: String,
    /// The form of the log.
    #[arg(long, env = "ZTUNNEL_LOG_FORMAT", value_enum, default_value = "plain")]
    log_format: LogFormat,
}

#[derive(clap::Subcommand)]
enum Ask {
    /// Print the CRDs of the policies, as YAML.
    Crds,
    /// Replace the mesh's root, in steps that no connection feels.
    #[command(after_help = ROTATION)]
    RotateRoot(Box<RotateRoot>),
}

impl Controller {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.ask {
            None => {}
            Some(Ask::Crds) => {
                print!("{}", ::controller::crds());
                return Ok(());
            }
            Some(Ask::RotateRoot(rotation)) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                print!("{}", runtime.context("starting")?.block_on(rotation.run())?);
                return Ok(());
            }
        }
        let config = Config { log_level: self.log_level, log_format: self.log_format, ..Config::default() };
        let _log = logging::start(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("starting")?;
        runtime.spawn(give_back());
        runtime.block_on(::controller::run(self.settings))
    }
}

/// Lists and whole-mesh responses need much for a moment.
async fn give_back() {
    loop {
        tokio::time::sleep(GIVE_BACK).await;
        // Milliseconds of work, on a thread that serves nobody.
        let _ = tokio::task::spawn_blocking(redirect::give_back_memory).await;
    }
}

//! The client: from a kubeconfig that was named, else from the pod it runs in.

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use thiserror::Error;

/// Longer than a watch may be quiet ([`crate::watch`]), so that it ends only what is dead.
const SILENCE: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("kubeconfig {path}: {cause}")]
    Kubeconfig { path: String, cause: Box<KubeconfigError> },
    #[error("no kubeconfig was named, and this is no pod with a service account's token: {0}")]
    InCluster(#[from] InClusterError),
    #[error("the API server's certificate or address cannot be used: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// A client of the API server. Nothing is asked yet.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await.map_err(|cause| {
            let path = path.display().to_string();
            ClientError::Kubeconfig { path, cause: Box::new(cause) }
        })?,
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Else the time that a pooled connection was idle would count.
    config.reset_reader_on_write = true;
    // Whoever asks knows how long the question is worth repeating.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

//! Who makes the root, and when nobody does, against a test API server.

use std::net::{IpAddr, Ipv4Addr};

use clap::Parser as _;
use serde_json::json;
use testkit::api_server::ApiServer;

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

struct Making {
    api: ApiServer,
    client: Client,
    secrets: Api<Secret>,
    settings: Settings,
}

impl Making {
    async fn start() -> Self {
        let api = ApiServer::start(IpAddr::V4(Ipv4Addr::LOCALHOST), None).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        api.write_kubeconfig(file.path(), "controller").unwrap();
        let client = kubernetes::connect(Some(file.path())).await.unwrap();
        let settings = Line::parse_from(["controller", "--namespace", "mesh"]).settings;
        let secrets = Api::namespaced(client.clone(), "mesh");
        Self { api, client, secrets, settings }
    }

    async fn make(&self) -> anyhow::Result<()> {
        make(&self.client, &self.secrets, &self.settings).await
    }

    fn key(&self) -> Option<String> {
        let secret = self.api.object("v1", "secrets", "mesh", secret::OWN)?;
        secret["data"][secret::KEY].as_str().map(str::to_owned)
    }
}

/// Fails if two who believe to lead made two roots, or if the second one took offence.
#[tokio::test]
async fn of_two_who_make_a_root_at_once_one_does() {
    let making = Making::start().await;
    let (first, second) = tokio::join!(making.make(), making.make());
    first.and(second).unwrap();
    let key = making.key().unwrap();
    making.make().await.unwrap();
    assert_eq!(making.key().unwrap(), key, "the root was replaced");
}

/// Fails if a Secret that somebody has deleted by mistake ended the trust in all certificates.
#[tokio::test]
async fn a_root_that_daemons_know_is_not_replaced_by_another() {
    let making = Making::start().await;
    let map = |pem: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": { "root-cert.pem": pem },
            "metadata": { "name": root_config_map::NAME, "namespace": "mesh" },
        })
    };
    making.api.put(map("-----BEGIN CERTIFICATE-----")).unwrap();
    let error = making.make().await.unwrap_err().to_string();
    assert!(error.contains("put the Secret back"), "{error}");
    assert_eq!(making.key(), None);
    making.api.put(map("")).unwrap();
    making.make().await.unwrap();
    assert!(making.key().is_some());
}

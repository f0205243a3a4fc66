//! A daemon as the controller sees it: asks for certificates, and opens streams.

use std::{fs, path::PathBuf, time::Duration};

use control::{AuthorityError, CertificateAuthority, ChannelSettings, Issued, IstioCa};
use model::SpiffeId;
use proto::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    tonic::{Status, Streaming},
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::timeout,
};

use super::{Cluster, Replica, within};

pub(crate) struct Daemon {
    runtime: Runtime,
    token_file: PathBuf,
}

impl Daemon {
    /// Of a node.
    pub(crate) fn of(cluster: &Cluster, node: u8) -> Self {
        Self::with_token(cluster, &cluster.token(node, "istio-ca"))
    }

    pub(crate) fn with_token(cluster: &Cluster, token: &str) -> Self {
        let token_file = tempfile::NamedTempFile::new_in(cluster.directory()).unwrap();
        fs::write(token_file.path(), token).unwrap();
        let (_, token_file) = token_file.keep().unwrap();
        Self {
            runtime: Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
            token_file,
        }
    }

    fn channel(&self, cluster: &Cluster, replica: &Replica) -> ChannelSettings {
        ChannelSettings { token_file: Some(self.token_file.clone()), ..replica.channel(cluster) }
    }

    /// A certificate for an account of the namespace `shop`.
    pub(crate) fn certificate(
        &self,
        cluster: &Cluster,
        replica: &Replica,
        account: &str,
    ) -> Result<Issued, AuthorityError> {
        let identity: SpiffeId = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        let request = parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let ca = IstioCa::new(self.channel(cluster, replica), Duration::from_secs(24 * 3600));
        self.runtime.block_on(ca.sign(&identity, &request.into()))
    }

    /// Opens a stream that asks for all of a type, with what it has.
    pub(crate) fn stream(
        &self,
        cluster: &Cluster,
        replica: &Replica,
        type_url: &str,
        had: &[(String, String)],
    ) -> Result<Stream<'_>, Status> {
        let (requests, mut outgoing) = unbounded_channel();
        let first = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            initial_resource_versions: had.iter().cloned().collect(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).unwrap();
        let channel = self.channel(cluster, replica);
        let responses = self.runtime.block_on(async {
            let connection = channel.connect().await.unwrap();
            let mut client =
                AggregatedDiscoveryServiceClient::new(connection).max_decoding_message_size(usize::MAX);
            let outgoing = futures::stream::poll_fn(move |context| outgoing.poll_recv(context));
            client.delta_aggregated_resources(outgoing).await
        })?;
        Ok(Stream { runtime: &self.runtime, requests, responses: responses.into_inner() })
    }
}

pub(crate) struct Stream<'a> {
    runtime: &'a Runtime,
    requests: UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream<'_> {
    /// The next response, if one comes in this time.
    pub(crate) fn next(&mut self, time: Duration) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        let next = self.runtime.block_on(async { timeout(time, self.responses.message()).await }).ok()?;
        next.transpose()
    }

    #[track_caller]
    pub(crate) fn take(&mut self) -> DeltaDiscoveryResponse {
        self.next(Duration::from_secs(30)).expect("a response").unwrap()
    }

    /// Answers it; with words if it is refused.
    pub(crate) fn answer(&self, response: &DeltaDiscoveryResponse, refusal: Option<&str>) {
        let error_detail = refusal
            .map(|message| proto::discovery::Status { message: message.to_owned(), ..Default::default() });
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        // Gone is gone.
        let _ = self.requests.send(answer);
    }

    /// Takes and accepts responses until one has this resource; tells the names in it, `-` before removed ones.
    #[track_caller]
    pub(crate) fn until(&mut self, name: &str) -> Vec<String> {
        within(Duration::from_secs(30), name, || {
            let response = self.take();
            self.answer(&response, None);
            let names = names(&response);
            names.iter().any(|told| told == name).then_some(names)
        })
    }
}

pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let present = response.resources.iter().map(|resource| resource.name.clone());
    present.chain(response.removed_resources.iter().map(|name| format!("-{name}"))).collect()
}

//! One connection to the agent: hello, then an answer to every request.

use std::{
    collections::HashSet,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use proto::{
    prost::Message,
    workload::zds::{Version, ZdsHello},
};
use tokio::{sync::watch, time::timeout};

use super::{
    CniPods, ZdsStatus,
    packet::{LONGEST_PACKET, PacketSocket},
    request::{Request, answer_to},
};
use crate::packet::Packet;

/// The agent waits 5 s for an answer, and then gives the connection up.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

pub(super) struct Session {
    socket: PacketSocket,
    /// The pods it has named since it connected; `None` once it has named all.
    named: Option<HashSet<String>>,
}

impl Session {
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        Self::begin(PacketSocket::connect(path)?).await
    }

    pub(super) async fn begin(socket: PacketSocket) -> io::Result<Self> {
        let hello = ZdsHello { version: Version::V1.into() };
        socket.send(&hello.encode_to_vec()).await?;
        Ok(Self { socket, named: Some(HashSet::new()) })
    }

    /// Until the connection ends; answers with how.
    pub(super) async fn serve(mut self, pods: &impl CniPods, status: &watch::Sender<ZdsStatus>) -> io::Error {
        loop {
            let packet = match self.socket.receive().await {
                Ok(Some(packet)) => packet,
                Ok(None) => return io::Error::other("the agent closed the connection"),
                Err(error) => return error,
            };
            let result = match timeout(ANSWER_WITHIN, self.handle(packet, pods, status)).await {
                Ok(result) => result,
                Err(_) => Err(format!("not done within {} s", ANSWER_WITHIN.as_secs())),
            };
            status.send_modify(|status| {
                status.requests += 1;
                status.refused += u64::from(result.is_err());
            });
            if let Err(error) = self.answer(result).await {
                return error;
            }
        }
    }

    async fn handle(
        &mut self,
        packet: Packet,
        pods: &impl CniPods,
        status: &watch::Sender<ZdsStatus>,
    ) -> Result<(), String> {
        let Packet { bytes, descriptors, truncated } = packet;
        let request = Request::read(&bytes);
        if let Ok(Request::Add(uid, _)) = &request {
            // Whatever else is wrong: a pod that is served already is not gone.
            self.name(uid);
        }
        if truncated {
            return Err(format!(
                "a packet of more than {LONGEST_PACKET} bytes, or with too many descriptors"
            ));
        }
        let ([] | [_]) = descriptors.as_slice() else {
            return Err(format!("{} descriptors, expected one at most", descriptors.len()));
        };
        match (request?, descriptors.into_iter().next()) {
            (Request::Add(_, pod), Some(netns)) => pods.add(pod?, netns).await,
            (Request::Add(..), None) => Err("a pod without a descriptor of its network namespace".to_owned()),
            (_, Some(_)) => Err("a descriptor that belongs to nothing".to_owned()),
            (Request::Keep(uid), None) => {
                self.name(&uid);
                if pods.keeps(&uid) { Ok(()) } else { Err(format!("pod {uid} is not known here")) }
            }
            (Request::Remove(uid), None) => {
                if let Some(named) = &mut self.named {
                    named.remove(&uid);
                }
                pods.remove(&uid).await;
                Ok(())
            }
            (Request::Complete, None) => {
                if let Some(named) = self.named.take() {
                    pods.retain(&named).await;
                }
                status.send_modify(|status| status.complete = Some(SystemTime::now()));
                Ok(())
            }
        }
    }

    fn name(&mut self, uid: &str) {
        if let Some(named) = &mut self.named {
            named.insert(uid.to_owned());
        }
    }

    async fn answer(&self, result: Result<(), String>) -> io::Result<()> {
        self.socket.send(&answer_to(result)).await
    }
}

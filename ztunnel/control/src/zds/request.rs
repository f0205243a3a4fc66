//! What a packet of the agent's asks for, and the packet that answers it.

use proto::{
    prost::Message,
    workload::zds::{
        Ack, AddWorkload, WorkloadRequest, WorkloadResponse, workload_request::Payload, workload_response,
    },
};

use super::{CniPod, packet::LONGEST_PACKET};

pub(crate) enum Request {
    /// The pod's uid, and all of it, or what is wrong with it.
    Add(String, Result<CniPod, String>),
    Keep(String),
    Remove(String),
    /// All pods have been named.
    Complete,
}

impl Request {
    pub(crate) fn read(packet: &[u8]) -> Result<Self, String> {
        let request = WorkloadRequest::decode(packet).map_err(|error| format!("no request: {error}"))?;
        Ok(match request.payload.ok_or("a request of no known kind")? {
            Payload::Add(add) => Self::Add(add.uid.clone(), pod(add)),
            Payload::Keep(keep) => Self::Keep(keep.uid),
            Payload::Del(del) => Self::Remove(del.uid),
            Payload::SnapshotSent(_) => Self::Complete,
        })
    }
}

/// The agent reads no more than one packet's worth of an error.
pub(crate) fn answer_to(result: Result<(), String>) -> Vec<u8> {
    let mut error = result.err().unwrap_or_default();
    error.truncate(error.floor_char_boundary(LONGEST_PACKET - 16));
    let payload = Some(workload_response::Payload::Ack(Ack { error }));
    WorkloadResponse { payload }.encode_to_vec()
}

fn pod(add: AddWorkload) -> Result<CniPod, String> {
    let info = add.workload_info.ok_or_else(|| format!("pod {} without workload_info", add.uid))?;
    if add.uid.is_empty() || info.name.is_empty() || info.namespace.is_empty() {
        return Err("a pod without a uid, a name or a namespace".to_owned());
    }
    let (name, namespace, service_account) = (info.name, info.namespace, info.service_account);
    Ok(CniPod { uid: add.uid, name, namespace, service_account })
}

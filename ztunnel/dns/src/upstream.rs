//! Requests that are handed on to the server that the pod had asked, and that server's answers.

use std::{io, net::SocketAddr};

use hickory_proto::op::ResponseCode;
use rand::Rng;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    PodSockets, Settings,
    query::{HEADER, Query, Transport},
    reply,
    stream::{read_message, write_message},
};

/// Datagrams that are no answer, before nobody is believed any more: somebody is guessing.
const MAX_STRANGE: usize = 16;
const MAX_MESSAGE: usize = 65_535;

/// A request that is to be handed on.
#[derive(Debug)]
pub(crate) struct Request {
    /// As the pod sent it.
    bytes: Vec<u8>,
    question_end: usize,
    /// How long an answer the pod can take.
    room: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("whom it was meant for is not known: {0}")]
    NoTarget(io::Error),
    #[error("it was sent to us, not redirected")]
    NotRedirected,
    #[error("as many requests as may be are under way")]
    TooMany,
    #[error("asking {0}: {1}")]
    Failed(SocketAddr, io::Error),
    #[error("{0} did not answer in time")]
    Deadline(SocketAddr),
    #[error("too much that was no answer came in the name of {0}")]
    Strangers(SocketAddr),
}

impl ForwardError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoTarget(_) => "dns_no_target",
            Self::NotRedirected => "dns_not_redirected",
            Self::TooMany => "dns_limit",
            Self::Failed(..) => "dns_failed",
            Self::Deadline(_) => "dns_deadline",
            Self::Strangers(_) => "dns_strangers",
        }
    }

    /// Whom it was meant for, if that is known.
    pub(crate) fn target(&self) -> Option<SocketAddr> {
        match self {
            Self::Failed(target, _) | Self::Deadline(target) | Self::Strangers(target) => Some(*target),
            Self::NoTarget(_) | Self::NotRedirected | Self::TooMany => None,
        }
    }
}

impl Request {
    pub(crate) fn new(query: &Query<'_>, transport: Transport) -> Self {
        Self {
            bytes: query.bytes().to_vec(),
            question_end: query.question_end(),
            room: query.room(transport),
        }
    }

    /// What the pod is told if there is no answer.
    pub(crate) fn failure(&self) -> Vec<u8> {
        let (header, question) = self.bytes.split_at(HEADER);
        let question = &question[..self.question_end - HEADER];
        reply::refusal(header.first_chunk().unwrap_or(&[0; HEADER]), question, ResponseCode::ServFail)
    }

    /// As it is sent on: only the id differs, which nobody can foresee.
    fn renumbered(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some(id) = bytes.first_chunk_mut() {
            *id = rand::rng().random::<[u8; 2]>();
        }
        bytes
    }

    /// As the pod gets it.
    pub(crate) fn relayed(&self, answer: Vec<u8>) -> Vec<u8> {
        let id = [self.bytes[0], self.bytes[1]];
        reply::relayed(answer, id, self.question_end, self.room)
    }

    /// Whether `answer` is one to `sent`: of its id, and to its question, however its letters are written. An answer
    /// without a question can only say that the request was not understood.
    pub(crate) fn is_answered_by(&self, sent: &[u8], answer: &[u8]) -> bool {
        let Some(header) = answer.first_chunk::<HEADER>() else { return false };
        let same_operation = header[2] & 0xf8 == sent[2] & 0x78 | 0x80;
        if header[..2] != sent[..2] || !same_operation {
            return false;
        }
        let says_only_no = answer.len() == HEADER && header[3] & 0x0f != 0 && header[4..] == [0; 8];
        says_only_no || (header[4..6] == [0, 1] && self.asks_the_same(answer))
    }

    fn asks_the_same(&self, answer: &[u8]) -> bool {
        let kind_at = self.question_end - 4;
        let name = |bytes: &[u8]| bytes.get(HEADER..kind_at).map(<[u8]>::to_ascii_lowercase);
        let kind = |bytes: &'_ [u8]| bytes.get(kind_at..self.question_end).map(<[u8]>::to_vec);
        name(answer) == name(&self.bytes) && kind(answer) == kind(&self.bytes)
    }
}

/// Over UDP, from a socket of its own. Asked again is by the pod, if at all.
pub(crate) async fn by_datagram<P: PodSockets>(
    sockets: &P,
    settings: &Settings,
    request: &Request,
    target: SocketAddr,
) -> Result<Vec<u8>, ForwardError> {
    let failed = |error| ForwardError::Failed(target, error);
    let socket = sockets.datagrams_to(target).map_err(failed)?;
    let sent = request.renumbered();
    let exchange = async {
        socket.send(&sent).await.map_err(failed)?;
        for _ in 0..MAX_STRANGE {
            let answer = receive(&socket).await.map_err(failed)?;
            if request.is_answered_by(&sent, &answer) {
                return Ok(request.relayed(answer));
            }
        }
        Err(ForwardError::Strangers(target))
    };
    timeout(settings.forward_deadline, exchange).await.map_err(|_| ForwardError::Deadline(target))?
}

/// Over TCP, on a connection of its own.
pub(crate) async fn by_stream<P: PodSockets>(
    sockets: &P,
    settings: &Settings,
    request: &Request,
    target: SocketAddr,
) -> Result<Vec<u8>, ForwardError> {
    let failed = |error| ForwardError::Failed(target, error);
    let sent = request.renumbered();
    let exchange = async {
        let mut stream: TcpStream = sockets.connect(target).await?;
        write_message(&mut stream, &sent).await?;
        let answer = read_message(&mut stream, MAX_MESSAGE).await?;
        answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    let answer = timeout(settings.forward_deadline, exchange).await;
    let answer = answer.map_err(|_| ForwardError::Deadline(target))?.map_err(failed)?;
    if !request.is_answered_by(&sent, &answer) {
        return Err(ForwardError::Strangers(target));
    }
    Ok(request.relayed(answer))
}

/// The memory for the longest answer is taken only once there is one.
async fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        let mut answer = vec![0; MAX_MESSAGE];
        match socket.try_recv(&mut answer) {
            Ok(length) => {
                answer.truncate(length);
                answer.shrink_to_fit();
                return Ok(answer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;

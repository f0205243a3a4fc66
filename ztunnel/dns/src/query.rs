//! A request as it came, taken apart as far as its answer needs.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{DNSClass, RecordType},
};

use crate::reply;

/// Requests are a name and some options. A longer one is nobody's.
pub const MAX_QUERY: usize = 4096;
pub(crate) const HEADER: usize = 12;
/// RFC 1035, section 4.2.1: what everybody understands in a datagram.
const MIN_DATAGRAM: usize = 512;
/// The longest answer in a datagram, if the request allows as much. It goes over lo alone, where nothing is fragmented.
pub(crate) const MAX_DATAGRAM: u16 = 4096;

/// How a request came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// One question, in a message that is in order.
#[derive(Debug)]
pub struct Query<'a> {
    bytes: &'a [u8],
    question_end: usize,
    message: Message,
}

/// Why a request is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not a request at all. Answering an answer could go on forever.
    Unanswerable,
    /// Whoever sent it is told so by these bytes.
    Refused(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Any bytes at all may come: from a pod, or from a test that tries to break this.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<HEADER>().ok_or(Malformed::Unanswerable)?;
        let is_answer = header[2] & 0x80 != 0;
        if is_answer {
            return Err(Malformed::Unanswerable);
        }
        let refused = || Malformed::Refused(reply::refusal(header, &[], ResponseCode::FormErr));
        if bytes.len() > MAX_QUERY || header[4..6] != [0, 1] {
            return Err(refused());
        }
        let question_end = question_end(bytes).ok_or_else(refused)?;
        let message = Message::from_vec(bytes).map_err(|_| refused())?;
        if message.queries.len() != 1 || message.metadata.message_type != MessageType::Query {
            return Err(refused());
        }
        Ok(Self { bytes, question_end, message })
    }

    pub(crate) fn message(&self) -> &Message {
        &self.message
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the header and the question end.
    pub(crate) fn question_end(&self) -> usize {
        self.question_end
    }

    /// The question, if it is of the kind that state can answer.
    pub(crate) fn question(&self) -> Option<&Question> {
        let ordinary = self.message.metadata.op_code == OpCode::Query;
        self.message.queries.first().filter(|question| ordinary && question.query_class == DNSClass::IN)
    }

    /// A transfer of a whole zone: many messages for one, and nothing a pod needs.
    pub(crate) fn is_transfer(&self) -> bool {
        let kind = self.message.queries.first().map(Question::query_type);
        matches!(kind, Some(RecordType::AXFR | RecordType::IXFR))
    }

    /// How long an answer may be.
    pub(crate) fn room(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => usize::from(self.message.max_payload().min(MAX_DATAGRAM)).max(MIN_DATAGRAM),
        }
    }

    /// For metrics: one of a few words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.message.queries.first().map(Question::query_type) {
            Some(RecordType::A) => "A",
            Some(RecordType::AAAA) => "AAAA",
            Some(RecordType::SRV) => "SRV",
            Some(RecordType::PTR) => "PTR",
            Some(RecordType::TXT) => "TXT",
            Some(RecordType::HTTPS) => "HTTPS",
            _ => "other",
        }
    }
}

/// RFC 1035, section 4.1.2: labels, then type and class. A name that points elsewhere has nowhere to point to here.
fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *bytes.get(at)? {
            0 => break,
            length @ 1..64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= bytes.len()).then_some(end)
}

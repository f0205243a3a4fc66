//! Answers as bytes, never longer than there is room for.

use hickory_proto::{
    op::{Edns, Message, Metadata, ResponseCode},
    rr::Record,
};

use crate::query::{HEADER, MAX_DATAGRAM, Query};

const TRUNCATED: u8 = 0x02;

/// The answer from state. Records that only save another request go first if there is no room; if the answers
/// themselves have none, as many as have, and the asker is told to ask again over TCP.
pub(crate) fn answer(
    query: &Query<'_>,
    answers: Vec<Record>,
    additionals: Vec<Record>,
    room: usize,
) -> Vec<u8> {
    let mut message = begin(query, ResponseCode::NoError);
    message.metadata.authoritative = true;
    message.answers = answers;
    message.additionals = additionals;
    encode(message, room).unwrap_or_else(|| failure(query, ResponseCode::ServFail))
}

/// There is no answer, for this reason.
pub(crate) fn failure(query: &Query<'_>, code: ResponseCode) -> Vec<u8> {
    let encoded = begin(query, code).to_vec().ok();
    encoded.unwrap_or_else(|| {
        let (header, question) = query.bytes()[..query.question_end()].split_at(HEADER);
        refusal(header.first_chunk().unwrap_or(&[0; HEADER]), question, code)
    })
}

/// The least that says no: the request's own header and question.
pub(crate) fn refusal(header: &[u8; HEADER], question: &[u8], code: ResponseCode) -> Vec<u8> {
    let (operation, recursion) = (header[2] & 0x78, header[2] & 0x01);
    let questions = u8::from(!question.is_empty());
    let mut bytes = vec![header[0], header[1], 0x80 | operation | recursion, 0x80 | code.low()];
    bytes.extend([0, questions, 0, 0, 0, 0, 0, 0]);
    bytes.extend(question);
    bytes
}

/// An answer of another server, with the asker's own id, cut down to what the asker can take.
pub(crate) fn relayed(mut bytes: Vec<u8>, id: [u8; 2], question_end: usize, room: usize) -> Vec<u8> {
    if bytes.len() > room {
        bytes.truncate(question_end);
        if let Some(counts) = bytes.get_mut(6..HEADER) {
            counts.fill(0);
        }
        if let Some(flags) = bytes.get_mut(2) {
            *flags |= TRUNCATED;
        }
    }
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id);
    }
    bytes
}

fn begin(query: &Query<'_>, code: ResponseCode) -> Message {
    let request = query.message();
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.clone_from(&request.queries);
    message.edns = request.edns.as_ref().map(own_edns);
    message
}

/// RFC 6891, section 6.1.1: whoever speaks of extensions is answered with ours.
fn own_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_DATAGRAM).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

fn encode(mut message: Message, room: usize) -> Option<Vec<u8>> {
    loop {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= room {
            return Some(bytes);
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
            continue;
        }
        let count = message.answers.len();
        // Records are of much the same size: this is nearly right at once, and always ends.
        let fitting = (count * room / bytes.len()).min(count.checked_sub(1)?);
        message.answers.truncate(fitting);
        message.metadata.truncation = true;
    }
}

//! Which answers are believed.

use hickory_proto::{
    op::{Message, MessageType},
    rr::RecordType,
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::tests::request;

fn forwarded() -> (Request, Vec<u8>) {
    let bytes = request("Name.example", RecordType::A).to_vec().unwrap();
    let request = Request::new(&Query::parse(&bytes).unwrap(), Transport::Udp);
    let sent = request.renumbered();
    (request, sent)
}

fn answer_to(sent: &[u8]) -> Message {
    let mut answer = Message::from_vec(sent).unwrap();
    answer.metadata.message_type = MessageType::Response;
    answer
}

/// Catches: an answer of a guesser, or to another question of the same pod, handed to the pod.
#[test]
fn an_answer_is_known_by_id_question_and_kind() {
    let (request, sent) = forwarded();
    let good = answer_to(&sent).to_vec().unwrap();
    assert!(request.is_answered_by(&sent, &good));
    let with = |change: &dyn Fn(&mut Message)| {
        let mut answer = answer_to(&sent);
        change(&mut answer);
        request.is_answered_by(&sent, &answer.to_vec().unwrap())
    };
    let other = crate::tests::request("other.example", RecordType::A).queries.remove(0);
    let other_kind = crate::tests::request("name.example", RecordType::AAAA).queries.remove(0);
    let lower = crate::tests::request("name.example", RecordType::A).queries.remove(0);
    assert!(with(&|answer| answer.queries[0] = lower.clone()), "some servers write names their own way");
    assert!(!with(&|answer| answer.metadata.id ^= 1));
    assert!(!with(&|answer| answer.metadata.message_type = MessageType::Query));
    assert!(!with(&|answer| answer.queries[0] = other.clone()));
    assert!(!with(&|answer| answer.queries[0] = other_kind.clone()));
    assert!(!with(&|answer| answer.queries.clear()), "no error, and no question");
    let not_understood = reply::refusal(sent.first_chunk().unwrap(), &[], ResponseCode::FormErr);
    assert!(request.is_answered_by(&sent, &not_understood));
}

/// Catches: the id that the pod did not ask with; an answer that is longer than the pod can take.
#[test]
fn the_pod_gets_its_own_id_and_no_more_than_it_can_take() {
    let (request, sent) = forwarded();
    let relayed = Message::from_vec(&request.relayed(answer_to(&sent).to_vec().unwrap())).unwrap();
    assert_eq!(relayed.metadata.id, 0x1234);
    let mut long = answer_to(&sent).to_vec().unwrap();
    long.resize(600, 0);
    let cut = request.relayed(long);
    let cut = Message::from_vec(&cut).unwrap();
    assert!(cut.metadata.truncation && cut.metadata.id == 0x1234 && cut.queries.len() == 1);
    let failed = Message::from_vec(&request.failure()).unwrap();
    assert_eq!((failed.metadata.id, failed.metadata.response_code), (0x1234, ResponseCode::ServFail));
}

/// Catches: ids that follow one another, which can be guessed.
#[test]
fn ids_are_not_those_of_the_pod_nor_in_order() {
    let ids: Vec<u16> = (0..64).map(|_| u16::from_be_bytes(*forwarded().1.first_chunk().unwrap())).collect();
    let apart = ids.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 16).count();
    assert!(apart > 48, "{ids:?}");
}

proptest! {
    /// A server may send anything at all.
    #[test]
    fn no_answer_breaks_anything(answer in vec(any::<u8>(), 0..700), same_id in any::<bool>()) {
        let (request, sent) = forwarded();
        let mut answer = answer;
        if let (true, Some(id)) = (same_id, answer.first_chunk_mut()) {
            *id = [sent[0], sent[1]];
        }
        let _ = request.is_answered_by(&sent, &answer);
        prop_assert!(request.relayed(answer).len() <= 512);
    }
}

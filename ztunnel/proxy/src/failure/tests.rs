//! The words for what goes wrong: all that the rooms of the data path have, against the specification's list.

use std::collections::BTreeSet;

use super::*;

/// Where words are given: each in a function that is named so.
const ROOMS: &[&str] = &[
    include_str!("../../../model/src/refusal.rs"),
    include_str!("../../../model/src/names.rs"),
    include_str!("../../../model/src/demand.rs"),
    include_str!("../../../tunnel/src/error.rs"),
    include_str!("../../../tunnel/src/ending.rs"),
    include_str!("../../../tunnel/src/rejection.rs"),
    include_str!("../../../dns/src/upstream.rs"),
    include_str!("../failure.rs"),
    include_str!("../copy/broken.rs"),
];
/// They are constants, or given where it is told.
const OTHERS: &[&str] = &["handshake_evicted", "unknown_workload"];
/// Of ends that nobody is to blame for, which are told nowhere.
const NO_REFUSALS: &[&str] = &["done", "keepalive"];

/// The literals of the functions `reason` and `breach`.
fn words(room: &str) -> BTreeSet<&str> {
    let starts = ["fn reason(", "fn breach("].map(|name| room.match_indices(name));
    let bodies = starts.into_iter().flatten().map(|(at, _)| {
        let end = room[at..].find("\n    }\n").into_iter().chain(room[at..].find("\n}\n")).min();
        &room[at..at + end.expect("a function ends")]
    });
    bodies.flat_map(|body| body.split('"').skip(1).step_by(2)).collect()
}

/// A word that the specification does not have says nothing to whoever finds it in a log; one that only the specification has is
/// waited for in vain.
#[test]
fn every_reason_stands_in_the_specification_and_the_other_way_round() {
    let text = include_str!("../../../../docs/SPECIFICATION.md");
    let (_, section) = text.split_once("\n## Reasons\n").expect("a section");
    let section = section.split("\n## ").next().unwrap();
    let specified: BTreeSet<_> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        .collect();
    let limits = crate::limits::ALL;
    let known: BTreeSet<_> = ROOMS
        .iter()
        .flat_map(|room| words(room))
        .chain(OTHERS.iter().chain(limits).copied())
        .filter(|word| !NO_REFUSALS.contains(word))
        .collect();
    let (missing, extra): (Vec<_>, Vec<_>) =
        (known.difference(&specified).collect(), specified.difference(&known).collect());
    assert!(missing.is_empty() && extra.is_empty(), "not in the list: {missing:?}; only there: {extra:?}");
}

/// If what is made of a failure had another word, the answer to a CONNECT and the log would tell two stories.
#[test]
fn an_outcome_keeps_its_failures_word() {
    let io = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let target = SocketAddr::from(([10, 0, 0, 1], 80));
    let failures = [
        Failure::Refused(Refusal::NotAllowed),
        Failure::Loop(target),
        Failure::Dial(DialError::PoolFull),
        Failure::Dial(DialError::Connect(no_seat().into())),
        Failure::Name(NameError::TooMany),
        Failure::Unlearned(Unlearned::TooMany),
        Failure::Connect { target, source: io() },
        Failure::Application { target, source: io() },
        Failure::Neighbour {
            status: StatusCode::UNAUTHORIZED,
            outcome: Outcome::Refused(Refusal::DefaultDeny),
        },
        Failure::Crowded,
        Failure::Limited(crate::limits::INBOUND_CONNECTIONS),
        Failure::Deadline,
        Failure::Stream(StreamError::Closed),
        Failure::Socket(io()),
    ];
    for failure in failures {
        let (word, said) = (failure.reason(), failure.to_string());
        assert_eq!(failure.into_outcome().reason(), word, "{said}");
    }
}

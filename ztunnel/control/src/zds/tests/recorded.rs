//! What an agent and Istio's ztunnel were recorded to say to each other (`tests/fixtures/istio/zds.txt`), with us in the
//! ztunnel's place: the same packets are acknowledged and refused, and what ends its connection or itself does not end ours.

use super::*;

const RECORDED: &str = include_str!("../../../tests/fixtures/istio/zds.txt");
/// A pod's port is taken: nothing that a packet says.
const NOT_OURS_TO_SEE: &str = "15. ";
/// It ends itself, as it means Keep for the time before the end of the list.
const KEPT_AFTER_THE_LIST: &str = "3. ";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn descriptors(comment: &str) -> usize {
    match comment {
        two if two.contains("2 fds") => 2,
        one if one.contains("1 fd") => 1,
        _ => 0,
    }
}

/// Fails if an agent of Istio's were answered otherwise than it is used to, or if its mistakes cost more than themselves.
#[tokio::test]
async fn the_agent_is_answered_as_istio_answers_it() {
    let (mut scenarios, mut requests) = (0, 0);
    for scenario in RECORDED.split("\n\n# ").skip(1).filter(|text| !text.starts_with(NOT_OURS_TO_SEE)) {
        let title = scenario.lines().next().unwrap();
        let pods = Arc::<Pods>::default();
        let mut agent = None::<Agent>;
        let mut lines = scenario.lines().skip(1).peekable();
        while let Some(line) = lines.next() {
            let is_closed_by_agent = line.starts_with('#') && line.contains("the agent closes");
            if is_closed_by_agent {
                agent = None;
            } else if let (Some(hello), None) = (line.strip_prefix("< "), &agent) {
                let new = Agent::start(Arc::clone(&pods));
                let said = new.read().await;
                assert_eq!(said, bytes(hello.split_whitespace().next().unwrap()), "{title}");
                agent = Some(new);
            } else if let (Some(request), Some(agent)) = (line.strip_prefix("> "), &agent) {
                let (hex, comment) = request.split_once("  # ").unwrap();
                let answer = lines.peek().unwrap().strip_prefix("< ").unwrap();
                let is_acknowledged = answer.starts_with("0a00 ");
                let directory = File::open("/").unwrap();
                let error = agent.send(&bytes(hex), &vec![directory.as_fd(); descriptors(comment)]).await;
                let is_kept = title.starts_with(KEPT_AFTER_THE_LIST) && comment.starts_with("Keep");
                assert_eq!(error.is_empty(), is_acknowledged || is_kept, "{title}, {comment}: {error}");
                assert!(!agent.session.is_finished(), "{title}: {comment}");
                requests += 1;
            }
        }
        scenarios += 1;
    }
    assert_eq!((scenarios, requests), (14, 50), "the fixture was read");
}

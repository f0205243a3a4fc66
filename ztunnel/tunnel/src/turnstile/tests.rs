use std::{net::Ipv4Addr, sync::Arc};

use tokio::sync::Semaphore;

use super::*;

fn lane(pod: &str, source: u8) -> Lane {
    Lane { pod: WorkloadUid::new(pod), source: Ipv4Addr::new(10, 0, 0, source).into() }
}

/// Takes the only turn, has all of `lanes` wait for it in this order, gives it back, and yields who came in which order.
async fn order_of(lanes: &[Lane]) -> Vec<String> {
    let turnstile = Turnstile::new(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut holder = Place { turnstile: &turnstile, lane: lane("holder", 0), stage: Stage::Outside };
    poll_fn(|cx| holder.poll_turn(cx)).await;
    let waiting = lanes.iter().map(|lane| {
        let (turnstile, lane, order) = (turnstile.clone(), lane.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let name = format!("{} {}", lane.pod, lane.source);
            turnstile.pass(lane, async { order.lock().push(name) }).await;
        })
    });
    let waiting: Vec<_> = waiting.collect();
    tokio::task::yield_now().await;
    drop(holder);
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(turnstile.in_use(), (0, 1));
    let order = order.lock();
    order.clone()
}

/// If turns went by the order of coming, a storm would make everybody wait for all of it.
#[tokio::test]
async fn a_storm_waits_behind_itself() {
    let mut lanes = vec![lane("storm", 1); 5];
    lanes.extend([lane("quiet", 1), lane("quiet", 1)]);
    let order = order_of(&lanes).await;
    let (storm, quiet) = ("storm 10.0.0.1", "quiet 10.0.0.1");
    assert_eq!(order, [storm, quiet, storm, quiet, storm, storm, storm]);
}

/// If a pod's sources shared one line, one of them could keep the others from it; if each had a line beside the pods', a pod
/// could be given many turns by coming from many addresses.
#[tokio::test]
async fn a_pods_sources_share_its_turns() {
    let lanes = [lane("a", 1), lane("a", 1), lane("a", 2), lane("a", 3), lane("b", 1), lane("b", 1)];
    let order = order_of(&lanes).await;
    let expected = ["a 10.0.0.1", "b 10.0.0.1", "a 10.0.0.2", "b 10.0.0.1", "a 10.0.0.3", "a 10.0.0.1"];
    assert_eq!(order, expected);
}

/// If a turn were held while waiting, a few that stall would stop everybody.
#[tokio::test]
async fn who_waits_for_something_else_has_no_turn() {
    let turnstile = Turnstile::new(1);
    let never = Arc::new(Semaphore::new(0));
    let stalled = tokio::spawn({
        let (turnstile, never) = (turnstile.clone(), Arc::clone(&never));
        async move { turnstile.pass(lane("a", 1), async { never.acquire().await.is_ok() }).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(turnstile.in_use(), (0, 1));
    turnstile.pass(lane("b", 1), async {}).await;
    never.add_permits(1);
    assert!(stalled.await.unwrap());
}

/// If the turn or the place of one that is cut were lost, all would stand still in the end.
#[tokio::test]
async fn who_is_cut_leaves_nothing_behind() {
    let turnstile = Turnstile::new(1);
    let mut holder = Place { turnstile: &turnstile, lane: lane("a", 1), stage: Stage::Outside };
    poll_fn(|cx| holder.poll_turn(cx)).await;
    let waiting = || {
        let turnstile = turnstile.clone();
        tokio::spawn(async move { turnstile.pass(lane("b", 1), async {}).await })
    };
    let (before, granted, last) = (waiting(), waiting(), waiting());
    tokio::task::yield_now().await;
    before.abort();
    assert!(before.await.unwrap_err().is_cancelled());
    drop(holder);
    // It has been given the turn and never comes to use it.
    granted.abort();
    assert!(granted.await.unwrap_err().is_cancelled());
    last.await.unwrap();
    assert_eq!(turnstile.in_use(), (0, 1));
}

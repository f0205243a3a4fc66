//! Looking for the network namespaces of pods that run already, for as long as one is missing, and not otherwise.

use std::{path::PathBuf, sync::Arc, time::Duration};

use redirect::sandbox::{Sought, find};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::book::Book;

/// Between two looks: at first, doubled each time the same are missing, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Forever.
pub(super) async fn search(book: Arc<Book>, node: PathBuf) {
    let mut changes = book.changes();
    let (mut pause, mut missing) = (FIRST_PAUSE, Vec::new());
    loop {
        changes.borrow_and_update();
        match book.sought() {
            // Not before all have been told, or who is looked for first would be all there is.
            None => {}
            Some(sought) if sought.is_empty() => book.looked(),
            Some(sought) => {
                pause = if sought == missing { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
                missing.clone_from(&sought);
                look(&book, sought, node.clone()).await;
                book.looked();
                // What was found is a change too, and not worth another look by itself.
                changes.borrow_and_update();
                let _ = timeout(pause, changes.changed()).await;
                // However fast things change, looking takes only so much of the processor.
                sleep(FIRST_PAUSE).await;
                continue;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn look(book: &Book, sought: Vec<Sought>, node: PathBuf) {
    let search = move || find(&sought, &node).map(|found| (sought, found));
    match spawn_blocking(search).await {
        Ok(Ok((sought, found))) => book.found(&sought, found),
        Ok(Err(error)) => {
            tracing::error!(%error, "pods that run already cannot be found; is /proc readable?");
        }
        Err(error) => tracing::error!(%error, "a search for pods broke off"),
    }
}

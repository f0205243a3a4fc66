//! Where the CNI plugin asks: one request and one answer for each connection, all within a deadline, so that no pod waits
//! for another.

use std::{path::Path, sync::Arc, time::Duration};

use metrics::{counter, describe_counter};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use ztunnel_cni::wire::{Answer, Command, LONGEST_REQUEST, Request};

use super::book::{Book, Standing};
use crate::{node::Node, private_socket::PrivateSocket};

/// A node starts a few pods at a time; more wait in the kernel.
const PLACES: usize = 64;
/// A plugin writes all at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);
/// The kubelet knows of a pod before our watch may.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// For all of it. The plugin waits longer.
const DEADLINE: Duration = Duration::from_secs(15);

const REQUESTS: &str = "ztunnel_cni_plugin_requests_total";

pub(crate) fn describe() {
    describe_counter!(REQUESTS, "What the CNI plugin was answered, by verdict.");
}

/// Binds the socket; what is answered serves it, forever.
pub(super) fn open(
    path: &Path,
    book: Arc<Book>,
    node: Arc<Node>,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let mut socket = PrivateSocket::bind(path)?;
    let places = Arc::new(Semaphore::new(PLACES));
    Ok(async move {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = socket.accept().await;
            let (book, node) = (Arc::clone(&book), Arc::clone(&node));
            tokio::spawn(async move {
                // A plugin that breaks off is nobody's error.
                let _ = timeout(DEADLINE + REQUEST_DEADLINE, converse(stream, &book, &node)).await;
                drop(place);
            });
        }
    })
}

async fn converse(mut stream: UnixStream, book: &Book, node: &Node) -> std::io::Result<()> {
    let answer = match timeout(REQUEST_DEADLINE, receive(&stream)).await {
        Ok(Ok((request, netns))) => {
            let answered = timeout(DEADLINE, answer(&request, netns, book, node)).await;
            let answer =
                answered.unwrap_or_else(|_| refused(format!("not done within {} s", DEADLINE.as_secs())));
            tell(&request, &answer);
            answer
        }
        Ok(Err(problem)) => refused(problem),
        Err(_) => refused("the request did not come in whole in time".to_owned()),
    };
    counter!(REQUESTS, "verdict" => verdict(&answer)).increment(1);
    stream.write_all(&serde_json::to_vec(&answer)?).await
}

type Descriptor = std::os::fd::OwnedFd;

async fn receive(stream: &UnixStream) -> Result<(Request, Option<Descriptor>), String> {
    let (mut text, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        let packet = control::receive(stream, LONGEST_REQUEST).await.map_err(|error| error.to_string())?;
        if packet.bytes.is_empty() {
            break;
        }
        text.extend(packet.bytes);
        descriptors.extend(packet.descriptors);
        if packet.truncated || text.len() > LONGEST_REQUEST || descriptors.len() > 1 {
            return Err("a request that is too long, or with more than one descriptor".to_owned());
        }
    }
    let request = serde_json::from_slice(&text).map_err(|error| format!("no request: {error}"))?;
    Ok((request, descriptors.pop()))
}

async fn answer(request: &Request, netns: Option<Descriptor>, book: &Book, node: &Node) -> Answer {
    match (request.command, netns) {
        (Command::Add, Some(netns)) => match add(request, netns, book, node).await {
            Ok(answer) => answer,
            Err(reason) => refused(reason),
        },
        (Command::Add, None) => refused("a pod without a descriptor of its network namespace".to_owned()),
        (Command::Check, _) => check(request, book, node),
        (Command::Del, _) => {
            book.leave(request);
            Answer::NotInMesh
        }
    }
}

async fn add(request: &Request, netns: Descriptor, book: &Book, node: &Node) -> Result<Answer, String> {
    if node.is_leaving() {
        return Ok(Answer::Superseded);
    }
    let uid = match told(request, book).await {
        Standing::Outside => return Ok(Answer::NotInMesh),
        Standing::Unknown if book.may_be_in_mesh(request) => {
            let why =
                "the API server has not told of this pod yet, and pods of its namespace may be in the mesh";
            return Err(why.to_owned());
        }
        Standing::Unknown => return Ok(Answer::NotInMesh),
        Standing::Inside { uid } => uid,
    };
    let local = book.place(&uid, request, netns.into())?;
    let tried = tokio::select! {
        tried = node.tried(&local) => tried,
        // Then nobody tries it any more.
        () = left(request, book) => match book.standing(request) {
            Standing::Outside => return Ok(Answer::NotInMesh),
            _ => return Err("it was deleted meanwhile".to_owned()),
        },
    };
    if node.is_leaving() {
        return Ok(Answer::Superseded);
    }
    // The runtime takes the sandbox down, and its network namespace with it.
    tried.inspect_err(|_| book.leave(request)).map(|()| Answer::Enrolled)
}

/// The book may be a little behind.
async fn told(request: &Request, book: &Book) -> Standing {
    let give_up = Instant::now() + TOLD_WITHIN;
    let mut changes = book.changes();
    loop {
        changes.borrow_and_update();
        let standing = book.standing(request);
        if standing != Standing::Unknown || timeout_at(give_up, changes.changed()).await.is_err() {
            return standing;
        }
    }
}

/// Waits until the pod has left the mesh, or was deleted.
async fn left(request: &Request, book: &Book) {
    let mut changes = book.changes();
    while matches!(book.standing(request), Standing::Inside { .. }) && changes.changed().await.is_ok() {}
}

fn check(request: &Request, book: &Book, node: &Node) -> Answer {
    if node.is_leaving() {
        return Answer::Superseded;
    }
    match book.standing(request) {
        Standing::Unknown | Standing::Outside => Answer::NotInMesh,
        Standing::Inside { .. } => match node.enrolment(&book.uid_of(request)) {
            (Some(_), None) => Answer::Enrolled,
            (_, problem) => refused(problem.unwrap_or_else(|| "the pod is not enrolled".to_owned())),
        },
    }
}

fn refused(reason: String) -> Answer {
    Answer::Refused { reason }
}

fn verdict(answer: &Answer) -> &'static str {
    match answer {
        Answer::NotInMesh => "not_in_mesh",
        Answer::Enrolled => "enrolled",
        Answer::Superseded => "superseded",
        Answer::Refused { .. } => "refused",
    }
}

fn tell(request: &Request, answer: &Answer) {
    let Request { namespace, name, command, .. } = request;
    match answer {
        Answer::Refused { reason } => {
            tracing::warn!(
                namespace,
                name,
                ?command,
                reason,
                "the CNI plugin was refused; the kubelet tries again"
            );
        }
        _ => tracing::debug!(
            namespace,
            name,
            ?command,
            verdict = verdict(answer),
            "the CNI plugin was answered"
        ),
    }
}

//! The chained CNI plugin, specification 1.1 and before: told what to do by environment and standard input, it answers on
//! standard output and by its exit status.
//!
//! What the plugins before it have done is handed on as it came. A pod starts when the daemon says so. While no
//! daemon answers, pods of enrolled namespaces wait: the answer is an error upon which the kubelet tries again. All
//! others start. Each pod has a process of this plugin of its own, so none waits for another's.

mod ask;
mod call;
mod error;

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;

use self::{
    ask::{Asked, ask},
    call::{Call, Configuration, PodName},
    error::PluginError,
};
use crate::{
    EnrolledNamespaces,
    wire::{Answer, Command, Request},
};

pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The longest configuration that is read.
const LONGEST_INPUT: u64 = 4 << 20;
/// A pod that goes is not held up by us.
const DELETION_DEADLINE: Duration = Duration::from_secs(2);

/// Does what the process was started for.
#[must_use]
pub fn main() -> ExitCode {
    let variable = |name: &str| env::var(name).ok();
    let mut input = Vec::new();
    let read = io::stdin().take(LONGEST_INPUT).read_to_end(&mut input);
    let result =
        read.map_err(|error| PluginError::Input(error.to_string())).and_then(|_| run(variable, &input));
    let (text, code) = match result {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.text(&call::version_of(&input)), ExitCode::FAILURE),
    };
    let mut output = io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => code,
        // Nobody reads what we say, so nobody knows that the pod may start.
        Err(_) => ExitCode::FAILURE,
    }
}

/// What is to be written on standard output.
fn run(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<String, PluginError> {
    match variable("CNI_COMMAND").as_deref() {
        Some("VERSION") => Ok(versions(&call::version_of(input))),
        Some("ADD") => add(&Call::new(variable, input)?),
        Some("CHECK") => check(&Call::new(variable, input)?),
        Some("DEL") => {
            // Whatever is wrong with the call, what goes is never held up.
            if let Ok(call) = Call::new(variable, input) {
                del(&call);
            }
            Ok(String::new())
        }
        // Nothing of ours is left behind by a pod, and nothing of ours must be there for one to be added.
        Some("GC" | "STATUS") => Ok(String::new()),
        Some(other) => Err(PluginError::Environment(format!("CNI_COMMAND: {other} is not known"))),
        None => Err(PluginError::Environment("CNI_COMMAND is not set".to_owned())),
    }
}

fn versions(asked: &str) -> String {
    let version = if VERSIONS.contains(&asked) { asked } else { "1.0.0" };
    json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string()
}

fn add(call: &Call) -> Result<String, PluginError> {
    let result = call.configuration.previous()?;
    let pod = call.mesh_pod();
    if let Some(pod) = pod {
        let request = request(Command::Add, call, pod)?;
        let namespace = call.namespace_file()?;
        decide(ask(&call.configuration.socket, &request, Some(&namespace), call.deadline()), call, pod)?;
    }
    Ok(result.to_owned())
}

fn check(call: &Call) -> Result<String, PluginError> {
    call.configuration.previous()?;
    let Some(pod) = call.mesh_pod() else { return Ok(String::new()) };
    let request = request(Command::Check, call, pod)?;
    decide(ask(&call.configuration.socket, &request, None, call.deadline()), call, pod)?;
    Ok(String::new())
}

/// Without a daemon there is nothing to be taken down, and one that comes later does not find the pod.
fn del(call: &Call) {
    let Some(pod) = call.mesh_pod() else { return };
    if let Ok(request) = request(Command::Del, call, pod) {
        let _ = ask(&call.configuration.socket, &request, None, Instant::now() + DELETION_DEADLINE);
    }
}

fn request(command: Command, call: &Call, pod: &PodName) -> Result<Request, PluginError> {
    Ok(Request {
        command,
        container: call.container.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        addresses: if command == Command::Add { call.configuration.addresses()? } else { Vec::new() },
    })
}

/// Whether the pod may start.
fn decide(asked: Asked, call: &Call, pod: &PodName) -> Result<(), PluginError> {
    match asked {
        Asked::Answered(Answer::NotInMesh | Answer::Enrolled) => Ok(()),
        Asked::Answered(Answer::Refused { reason }) => Err(PluginError::Later(reason)),
        Asked::Answered(Answer::Superseded) => without_daemon("the daemon is being replaced", call, pod),
        Asked::Unanswered(why) => without_daemon(&why, call, pod),
    }
}

fn without_daemon(why: &str, call: &Call, pod: &PodName) -> Result<(), PluginError> {
    let Configuration { enrolled_namespaces, .. } = &call.configuration;
    let namespace = &pod.namespace;
    match EnrolledNamespaces::read(enrolled_namespaces) {
        Ok(enrolled) if !enrolled.namespaces.contains(namespace) => Ok(()),
        Ok(_) => Err(PluginError::Later(format!(
            "no answer of this node's ztunnel ({why}), and pods of namespace {namespace} are in the mesh; the pod waits for it"
        ))),
        Err(error) => Err(PluginError::Later(format!(
            "no answer of this node's ztunnel ({why}), and which namespaces are in the mesh is not known ({}: {error}); \
             the pod waits for it",
            enrolled_namespaces.display()
        ))),
    }
}

#[cfg(test)]
mod tests;

//! `ztunnel validate` and `ztunnel explain --state`: the daemon's own reading of files and its own decisions, without a
//! daemon. Without `--state`, a running daemon explains.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use control::{FileKind, FileReport, kind_of, read_pods, read_state};
use model::{
    TrustDomain, TrustDomains, WorkloadUid,
    explain::{Explanation, Mesh, explain_named},
};
use serde_json::Value;

use crate::{
    ask::{Endpoint, Question},
    explanation::{self, Verdict},
};

/// The exit status of a question that cannot be answered.
pub(crate) const NOT_UNDERSTOOD: u8 = 2;

/// Of an explanation: neither allowed nor refused.
const UNDECIDED: u8 = 3;

pub(crate) const EXPLAIN_EXAMPLE: &str = "\
Examples:
  ztunnel explain default/client web.default.svc.cluster.local:80    # as things are on this node, now
  ztunnel explain 192.0.2.1 default/server:8080                      # somebody outside the mesh
  ztunnel explain --state state.yaml default/client web.default.svc.cluster.local:80

The last lines read, for instance:
  policy              default/clients-only (ALLOW) matches
  decision            allowed, by policy default/clients-only
  =>                  allowed, over mutual TLS";

#[derive(clap::Args)]
pub(crate) struct Validate {
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The trust domain of workloads that name none.
    #[arg(long, env = "ZTUNNEL_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Warnings make a file invalid too.
    #[arg(long)]
    deny_warnings: bool,
}

#[derive(clap::Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The mesh, from a file; without it this node's daemon is asked.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The pods of a node, for what it asks of those who connect to them.
    #[arg(long, value_name = "FILE", requires = "state")]
    pods: Option<PathBuf>,
    /// The trust domain of workloads that name none.
    #[arg(long, env = "ZTUNNEL_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Another name of that trust domain, as `certificates.trustDomainAliases` of the configuration has them.
    #[arg(long = "trust-domain-alias", value_name = "NAME", requires = "state")]
    aliases: Vec<TrustDomain>,
    /// Another trust domain that is believed, as those of `certificates.bundles`.
    #[arg(long = "federated-trust-domain", value_name = "NAME", requires = "state")]
    federated: Vec<TrustDomain>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Who connects: `namespace/name` of a pod or what it was made from, a uid, or an IP address.
    #[arg(value_name = "SRC")]
    source: String,
    /// To whom: a service's host name, `namespace/name`, or an IP address, with a port unless there is only one.
    #[arg(value_name = "DST[:PORT]")]
    destination: String,
}

/// What was read of the files so far, to hold them against each other.
#[derive(Default)]
struct Read {
    workloads: HashSet<WorkloadUid>,
    any_state: bool,
    pods: Vec<(PathBuf, WorkloadUid)>,
}

impl Validate {
    pub(crate) fn run(&self) -> ExitCode {
        let mut read = Read::default();
        let mut all_valid = true;
        for file in &self.files {
            all_valid &= match self.check(file, &mut read) {
                Ok(report) => self.accept(file, &report),
                Err(error) => {
                    println!("{}: invalid", file.display());
                    println!("  error: {}", crate::whole_story(&error));
                    false
                }
            };
        }
        let strangers = read.strangers();
        for (file, pod) in &strangers {
            println!(
                "{}: warning: pod `{pod}` is no workload of the state, so it has no identity",
                file.display()
            );
        }
        all_valid &= strangers.is_empty() || !self.deny_warnings;
        if all_valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn check(&self, file: &Path, read: &mut Read) -> anyhow::Result<FileReport> {
        match kind_of(file)? {
            FileKind::State => {
                let (snapshot, report) = read_state(file, &self.trust_domain)?;
                read.workloads.extend(snapshot.workloads().map(|workload| workload.uid.clone()));
                read.any_state = true;
                Ok(report)
            }
            FileKind::Pods => {
                let (pods, report) = read_pods(file)?;
                read.pods.extend(pods.into_iter().map(|pod| (file.to_owned(), pod.uid)));
                Ok(report)
            }
            FileKind::Other => {
                crate::config::validate(file)
                    .context("neither mesh state nor pods, and as the daemon's configuration")?;
                Ok(FileReport::default())
            }
        }
    }

    fn accept(&self, file: &Path, report: &FileReport) -> bool {
        let valid = report.mistakes.is_empty() && (report.warnings.is_empty() || !self.deny_warnings);
        let held = report.objects.iter().filter(|(_, count)| **count > 0);
        let counts: Vec<_> = held.map(|(kind, count)| format!(", {count} {kind}")).collect();
        let verdict = if valid { "valid" } else { "invalid" };
        println!("{}: {verdict}{}", file.display(), counts.concat());
        report.mistakes.iter().for_each(|mistake| println!("  error: {mistake}"));
        report.warnings.iter().for_each(|warning| println!("  warning: {warning}"));
        valid
    }
}

impl Read {
    /// Pods that no state knows, if there is a state to know them.
    fn strangers(&self) -> Vec<&(PathBuf, WorkloadUid)> {
        self.pods.iter().filter(|(_, pod)| self.any_state && !self.workloads.contains(pod)).collect()
    }
}

impl Explain {
    pub(crate) fn run(&self) -> ExitCode {
        match self.told() {
            Ok(told) => {
                if self.json {
                    println!("{told:#}");
                } else {
                    print!("{}", explanation::text(&told));
                }
                match explanation::verdict(&told) {
                    Verdict::Allowed => ExitCode::SUCCESS,
                    Verdict::Refused => ExitCode::FAILURE,
                    Verdict::Undecided => ExitCode::from(UNDECIDED),
                }
            }
            Err(error) => {
                eprintln!("ztunnel: {}", crate::whole_story(&error));
                ExitCode::from(NOT_UNDERSTOOD)
            }
        }
    }

    fn told(&self) -> anyhow::Result<Value> {
        match &self.state {
            Some(state) => Ok(serde_json::to_value(self.by_files(state)?)?),
            None => {
                let question = Question::of("/explain")
                    .with("source", Some(&self.source))
                    .with("destination", Some(&self.destination));
                self.endpoint.json(&question)
            }
        }
    }

    fn by_files(&self, state: &Path) -> anyhow::Result<Vec<Explanation>> {
        let (snapshot, _) = read_state(state, &self.trust_domain)?;
        let mut snapshot = (*snapshot).clone();
        let (aliases, federated) = (self.aliases.iter().cloned(), self.federated.iter().cloned());
        snapshot.set_trust_domains(TrustDomains::new(self.trust_domain.clone(), aliases, federated));
        let pods = match &self.pods {
            Some(file) => read_pods(file)?.0,
            None => Vec::new(),
        };
        let pods: BTreeMap<_, _> = pods.into_iter().filter_map(|pod| Some((pod.uid, pod.mtls?))).collect();
        let mesh = Mesh { snapshot: &snapshot, pods: &pods, neighbourhood: None };
        Ok(explain_named(mesh, &self.source, &self.destination)?)
    }
}

//! The commands that show a page: each is its filters, and the page that has them.

use std::{io, process::ExitCode, time::Duration};

use super::{Endpoint, Question, finish, screen};
use crate::config::Span;

/// What every list takes.
#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Only those whose name has this in it.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// At most so many [default: 10000].
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// As JSON, with everything that is known.
    #[arg(long)]
    json: bool,
}

/// Services, policies: lists of names in namespaces.
#[derive(clap::Args)]
pub(crate) struct Named {
    #[command(flatten)]
    common: Common,
    /// Only this namespace's.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct Workloads {
    #[command(flatten)]
    named: Named,
    /// Only this node's.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct Certificates {
    #[command(flatten)]
    named: Named,
}

#[derive(clap::Args)]
pub(crate) struct Pods {
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(crate) struct Connections {
    #[command(flatten)]
    workloads: Workloads,
    /// What was refused or failed within a day, instead of what is open: with the reason and the policy that decided.
    #[arg(long, conflicts_with = "plaintext")]
    denied: bool,
    /// Only those that mutual TLS does not protect.
    #[arg(long)]
    plaintext: bool,
    /// Only those refused for this reason, such as `denied_by_policy`.
    #[arg(long, value_name = "REASON", requires = "denied")]
    reason: Option<String>,
    /// Only those refused by this policy.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "denied")]
    policy: Option<String>,
    /// Shows them again and again, until q or Ctrl-C; every 2s unless another time is given.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s", conflicts_with = "json")]
    watch: Option<Span>,
}

/// What is logged: shown, or changed while the daemon runs.
#[derive(clap::Args)]
pub(crate) struct Log {
    #[command(flatten)]
    endpoint: Endpoint,
    /// error, warn, info, debug, trace or off, for all or, as MODULE=LEVEL, for single modules; separated by commas.
    #[arg(value_name = "LEVEL")]
    level: Option<String>,
    /// Back to what is configured.
    #[arg(long, conflicts_with = "level")]
    reset: bool,
    /// What is then logged, and what is configured, as JSON.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn question(&self, page: &'static str) -> Question {
        Question::of(page).with("name", self.name.as_ref()).with("limit", self.limit).for_people(!self.json)
    }

    fn show(&self, question: &Question) -> anyhow::Result<()> {
        self.endpoint.ask(question, &mut io::stdout().lock())
    }
}

impl Named {
    fn question(&self, page: &'static str) -> Question {
        self.common.question(page).with("namespace", self.namespace.as_ref())
    }

    pub(crate) fn run(&self, page: &'static str) -> ExitCode {
        finish(self.common.show(&self.question(page)))
    }
}

impl Certificates {
    pub(crate) fn run(&self) -> ExitCode {
        self.named.run("/certificates")
    }
}

impl Workloads {
    fn question(&self, page: &'static str) -> Question {
        self.named.question(page).with("node", self.node.as_ref())
    }

    pub(crate) fn run(&self) -> ExitCode {
        finish(self.named.common.show(&self.question("/workloads")))
    }
}

impl Pods {
    pub(crate) fn run(&self) -> ExitCode {
        finish(self.common.show(&self.common.question("/pods")))
    }
}

impl Connections {
    pub(crate) fn run(&self) -> ExitCode {
        finish(self.show())
    }

    fn show(&self) -> anyhow::Result<()> {
        let question = if self.denied {
            let question = self.workloads.question("/refusals");
            question.with("reason", self.reason.as_ref()).with("policy", self.policy.as_ref())
        } else {
            self.workloads.question("/connections").flag("plaintext", self.plaintext)
        };
        let common = &self.workloads.named.common;
        match self.watch {
            None => common.show(&question),
            Some(Span(interval)) => {
                let interval = interval.max(Duration::from_millis(200));
                screen::follow(interval, || common.endpoint.text(&question))
            }
        }
    }
}

impl Log {
    pub(crate) fn run(&self) -> ExitCode {
        let question = match &self.level {
            None if self.reset => Question::to_change("/logging").flag("reset", true),
            None => Question::of("/logging").for_people(!self.json),
            Some(level) => Question::to_change("/logging").with("level", Some(level)),
        };
        finish(self.ask(&question))
    }

    fn ask(&self, question: &Question) -> anyhow::Result<()> {
        if self.json && question.writes() {
            // A change is answered in Istio's words.
            self.endpoint.text(question)?;
            return self.endpoint.ask(&Question::of("/logging"), &mut io::stdout().lock());
        }
        self.endpoint.ask(question, &mut io::stdout().lock())
    }
}

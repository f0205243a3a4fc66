//! `cargo xtask kind`: the chart and the image in a cluster that is made for it and taken away again.

mod cluster;
mod suite;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use self::cluster::Cluster;
use crate::image;

#[derive(Args)]
pub(crate) struct Options {
    /// Leave the cluster there, to look at
    #[arg(long)]
    keep: bool,
    /// Take the image's programs from here instead of building them
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

/// What is asked of each whether it works, and where it comes from.
const NEEDED: [(&str, &[&str], &str); 4] = [
    ("docker", &["info"], "a running Docker: https://docs.docker.com/engine/install"),
    ("kind", &["version"], "https://kind.sigs.k8s.io/docs/user/quick-start/#installation"),
    ("kubectl", &["version", "--client"], "https://kubernetes.io/docs/tasks/tools"),
    ("helm", &["version"], "https://helm.sh/docs/intro/install"),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let missing = missing(cluster::works);
    if !missing.is_empty() {
        bail!("a cluster cannot be made here; missing:\n  - {}", missing.join("\n  - "));
    }
    let image = image::for_this_machine(options.binaries.clone())?;
    let cluster = Cluster::create(options.keep)?;
    cluster.load(&image.archive)?;
    suite::run(&cluster)
}

/// Everything at once, so that nobody installs one after the other.
fn missing(works: impl Fn(&str, &[&str]) -> Result<(), String>) -> Vec<String> {
    let ask = |&(program, arguments, from): &(&str, &[&str], &str)| {
        works(program, arguments).err().map(|why| format!("{program} ({why}); {from}"))
    };
    NEEDED.iter().filter_map(ask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has none of it hears of all of it, and where to get it.
    #[test]
    fn what_is_missing_is_named_at_once() {
        let told =
            missing(|program, _| if program == "kubectl" { Ok(()) } else { Err("not found".to_owned()) });
        assert_eq!(told.len(), 3);
        assert!(told[0].starts_with("docker (not found); a running Docker"), "{told:?}");
        assert!(told[1].contains("kind.sigs.k8s.io") && told[2].contains("helm.sh"));
    }

    /// A docker that is installed and does not run is missing too.
    #[test]
    fn a_program_that_fails_says_what_it_said() {
        let why = cluster::works("sh", &["-c", "echo no daemon >&2; exit 1"]).unwrap_err();
        assert!(why.contains("no daemon"), "{why}");
        assert_eq!(cluster::works("true", &[]), Ok(()));
        assert!(cluster::works("no-such-program-of-ours", &[]).is_err());
    }
}

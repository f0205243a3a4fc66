//! Which page answers, and who may have it.

use std::fmt::Write;

use hyper::{Method, StatusCode};

use super::{Admin, Answer, pages, request::Request};

pub(super) struct Page {
    path: &'static str,
    parameters: &'static [&'static str],
    may: May,
    tells: &'static str,
    answer: fn(&Admin, &Request) -> Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    /// Whoever reaches an endpoint: GET.
    Read,
    /// GET by anybody, POST over the socket.
    ReadAndWrite,
    /// POST over the socket.
    Write,
    /// GET over the socket: it costs the processor much.
    ReadAsRoot,
}

const PAGES: &[Page] = &[
    page(
        "/connections",
        pages::connections::PARAMETERS,
        "open connections: path, mutual TLS, identities, policy, bytes",
        pages::connections::page,
    ),
    page(
        "/refusals",
        pages::refusals::PARAMETERS,
        "what was refused or failed lately: reason, deciding policy, how often",
        pages::refusals::page,
    ),
    page(
        "/explain",
        &["source", "destination"],
        "what becomes of a connection and why: ?source=SRC&destination=DST:PORT",
        pages::explain::page,
    ),
    page(
        "/plaintext",
        &[],
        "who sends plaintext to whom, where mutual TLS is possible",
        pages::plaintext::page,
    ),
    page(
        "/pods",
        pages::pods::PARAMETERS,
        "this node's pods: enrolled or not, and why not",
        pages::pods::page,
    ),
    page("/workloads", pages::workloads::PARAMETERS, "the workloads of the mesh", pages::workloads::page),
    page("/services", pages::services::PARAMETERS, "its services and their endpoints", pages::services::page),
    page("/policies", pages::policies::PARAMETERS, "its authorization policies", pages::policies::page),
    page(
        "/certificates",
        pages::certificates::PARAMETERS,
        "certificates by identity: state, serial, validity",
        pages::certificates::page,
    ),
    page(
        "/state",
        &[],
        "where the mesh comes from, and the watched files: what is in force, what is wrong",
        pages::state::files,
    ),
    page("/verdicts", &[], "what the eBPF programs decided, counted", pages::state::verdicts),
    page(
        "/config_dump",
        &[],
        "all of the above and the configuration, for istioctl ztunnel-config --file",
        pages::config_dump::page,
    ),
    Page {
        may: May::ReadAndWrite,
        ..page(
            "/logging",
            pages::logging::PARAMETERS,
            "what is logged; POST ?level=LEVEL or ?level=MODULE=LEVEL,... or ?reset changes it",
            pages::logging::page,
        )
    },
    Page {
        may: May::ReadAsRoot,
        ..page(
            "/debug/pprof/profile",
            pages::profile::PARAMETERS,
            "where processor time goes, in pprof's format: ?seconds=10&frequency=100",
            pages::profile::cpu,
        )
    },
    Page {
        may: May::ReadAsRoot,
        ..page(
            "/debug/pprof/heap",
            &[],
            "what memory is live and where it was allocated, in pprof's format",
            pages::profile::heap,
        )
    },
    Page {
        may: May::ReadAndWrite,
        ..page(
            "/debug/pprof/heap/profiling",
            &["activate"],
            "whether memory is sampled for that; POST ?activate=true or false",
            pages::profile::heap_switch,
        )
    },
    Page {
        may: May::Write,
        ..page("/quitquitquit", &[], "drain, then end, as SIGTERM does", pages::quit::page)
    },
];

const fn page(
    path: &'static str,
    parameters: &'static [&'static str],
    tells: &'static str,
    answer: fn(&Admin, &Request) -> Answer,
) -> Page {
    Page { path, parameters, may: May::Read, tells, answer }
}

pub(super) fn answer(admin: &Admin, request: &Request) -> Answer {
    if request.path == "/" {
        return Answer::text(StatusCode::OK, index());
    }
    let Some(page) = PAGES.iter().find(|page| page.path == request.path) else {
        return Answer::text(StatusCode::NOT_FOUND, "not found; / lists what there is\n");
    };
    let allowed = page.may.allows(&request.method, request.trusted);
    match allowed.map_err(|refusal| refusal.answer(admin)).and_then(|()| request.knows_only(page.parameters))
    {
        Ok(()) => (page.answer)(admin, request),
        Err(answer) => answer,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Method(&'static str),
    OnlyByTheSocket,
}

impl May {
    fn allows(self, method: &Method, trusted: bool) -> Result<(), Refusal> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let writes = *method == Method::POST;
        let (takes, needs_trust) = match self {
            Self::Read => (reads, false),
            Self::ReadAndWrite => (reads || writes, writes),
            Self::Write => (writes, true),
            Self::ReadAsRoot => (reads, true),
        };
        match self {
            _ if !takes => Err(Refusal::Method(self.methods())),
            _ if needs_trust && !trusted => Err(Refusal::OnlyByTheSocket),
            _ => Ok(()),
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Read | Self::ReadAsRoot => "GET",
            Self::ReadAndWrite => "GET or POST",
            Self::Write => "POST",
        }
    }
}

impl Refusal {
    fn answer(&self, admin: &Admin) -> Answer {
        match self {
            Self::Method(methods) => {
                Answer::text(StatusCode::METHOD_NOT_ALLOWED, format!("this page takes {methods} only\n"))
            }
            Self::OnlyByTheSocket => {
                let socket = admin.config.admin_socket.display();
                Answer::text(
                    StatusCode::FORBIDDEN,
                    format!(
                        "only the node's root may have this, over the Unix socket: curl --unix-socket {socket} http://localhost/...\n"
                    ),
                )
            }
        }
    }
}

fn index() -> String {
    let mut text = "ztunnel admin endpoint\n\n".to_owned();
    for page in PAGES {
        let root = if page.may.needs_socket() { " (over the Unix socket)" } else { "" };
        let _ = writeln!(text, "{:<22}{}{root}", page.path, page.tells);
    }
    text.push_str(
        "\nJSON, or tables with ?format=text. Lists take filters (name, namespace, ...), limit and offset; \
         X-Total-Count says how many match.\n",
    );
    text
}

impl May {
    fn needs_socket(self) -> bool {
        matches!(self, Self::Write | Self::ReadAsRoot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is reached over loopback by any process of the node's network must change nothing and cost little.
    #[test]
    fn only_the_socket_writes() {
        let by = |may: May, method: Method, trusted| may.allows(&method, trusted);
        assert_eq!(by(May::Read, Method::GET, false), Ok(()));
        assert_eq!(by(May::Read, Method::POST, true), Err(Refusal::Method("GET")));
        assert_eq!(by(May::ReadAndWrite, Method::GET, false), Ok(()));
        assert_eq!(by(May::ReadAndWrite, Method::POST, false), Err(Refusal::OnlyByTheSocket));
        assert_eq!(by(May::ReadAndWrite, Method::POST, true), Ok(()));
        assert_eq!(by(May::Write, Method::POST, false), Err(Refusal::OnlyByTheSocket));
        assert_eq!(by(May::Write, Method::GET, true), Err(Refusal::Method("POST")));
        assert_eq!(by(May::ReadAsRoot, Method::GET, false), Err(Refusal::OnlyByTheSocket));
        assert_eq!(by(May::ReadAsRoot, Method::HEAD, true), Ok(()));
        for page in PAGES {
            assert!(page.may.allows(&Method::PUT, true).is_err(), "{}", page.path);
            assert!(page.may.allows(&Method::DELETE, true).is_err(), "{}", page.path);
        }
    }

    #[test]
    fn the_index_lists_every_page() {
        let index = index();
        assert!(PAGES.iter().all(|page| index.contains(page.path)), "{index}");
    }
}

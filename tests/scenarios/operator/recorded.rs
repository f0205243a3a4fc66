//! What Istio's ztunnel was recorded to answer at its endpoints: tools and kubelets that know it know us.

use testkit::Daemon;

use super::mesh;

const ADMIN: &str = include_str!("recorded/admin.txt");
const READINESS: &str = include_str!("recorded/readiness.txt");

/// Where we mean to answer otherwise.
const DIFFERENT: [(&str, &str, u16); 5] = [
    // GET tells what POST would change.
    ("GET", "/logging", 200),
    // What is only read is not posted.
    ("POST", "/config_dump", 405),
    // Sampled while it is turned on.
    ("GET", "/debug/pprof/heap", 501),
    // It has the metrics of Istio's second place, too; here it is one port's.
    ("GET", "/metrics", 404),
    ("GET", "/stats/prometheus", 404),
];

struct Recorded {
    method: String,
    path: String,
    status: u16,
    /// The first line of the body.
    says: String,
}

/// `marker` comes before a method and a path in a line of its own; the answer follows.
fn recorded(text: &str, marker: &str) -> Vec<Recorded> {
    let sections = text.split("\n# ").skip(1);
    let parse = |section: &str| {
        let asked = section.lines().next()?.split(marker).last()?;
        let mut words = asked.split([' ', ',']).filter(|word| !word.is_empty());
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let status = section.split_once("HTTP/1.1 ")?.1.get(..3)?.parse().ok()?;
        let says =
            section.split_once("\n\n").and_then(|(_, body)| body.trim().lines().next()).unwrap_or_default();
        path.starts_with('/').then(|| Recorded { method, path, status, says: says.to_owned() })
    };
    sections.filter_map(parse).collect()
}

fn words(text: &str) -> String {
    text.split([':', ',']).next().unwrap_or_default().split(" is ").next().unwrap_or_default().to_owned()
}

/// Catches: a kubelet that takes us for not ready, or for ready; an `istioctl` that does not understand what it is told.
#[test]
fn endpoints_answer_as_istio_s_do() {
    let mesh = mesh();
    let daemon: &Daemon = mesh.daemon(1);
    let ready = recorded(READINESS, "after SnapshotSent: ");
    assert_eq!(ready.len(), 4, "the fixture was read");
    for Recorded { method, path, status, says } in ready {
        let (answer, body) = daemon.over_port(15021, &method, &path).unwrap();
        assert_eq!(answer, status, "{method} {path}");
        assert!(body.starts_with(&says), "{method} {path}: {body}");
    }
    let admin = recorded(ADMIN, "never said");
    assert!(admin.len() >= 15, "the fixture was read");
    for Recorded { method, path, status, says } in admin.into_iter().filter(|one| one.path != "/quitquitquit")
    {
        let (answer, body) = daemon.over_socket(&method, &path).unwrap();
        let different = DIFFERENT.iter().find(|(m, p, _)| (*m, *p) == (&method, &path));
        assert_eq!(answer, different.map_or(status, |(_, _, ours)| *ours), "{method} {path}");
        if path.starts_with("/logging") && method == "POST" {
            let body = String::from_utf8_lossy(&body).into_owned();
            assert_eq!(words(&body), words(&says), "{method} {path}");
        }
    }
    assert_eq!(daemon.over_socket("GET", "/quitquitquit").unwrap().0, 405);
}

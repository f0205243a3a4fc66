//! The sidecars, each with one worker and no more room than it needs.

use std::{net::IpAddr, path::Path};

use super::APPLICATION_PORT;

/// Where the application would be sent to, in plaintext, on loopback.
pub(super) const OUTBOUND: u16 = 15101;
/// Where other pods' sidecars arrive, with mutual TLS.
const INBOUND: u16 = 15443;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Haproxy,
    Nginx,
    Stunnel,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Haproxy, Self::Nginx, Self::Stunnel];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Stunnel => "stunnel",
        }
    }

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Haproxy => "/usr/sbin/haproxy",
            Self::Nginx => "/usr/sbin/nginx",
            Self::Stunnel => "/usr/bin/stunnel4",
        }
    }

    pub(super) fn is_installed(self) -> bool {
        Path::new(self.program()).is_file()
    }

    /// In the foreground, as one process.
    pub(super) fn arguments(self, file: &Path) -> Vec<String> {
        let file = file.display().to_string();
        match self {
            Self::Haproxy => vec!["-db".to_owned(), "-q".to_owned(), "-f".to_owned(), file],
            Self::Nginx => {
                vec!["-q".to_owned(), "-e".to_owned(), "/dev/null".to_owned(), "-c".to_owned(), file]
            }
            Self::Stunnel => vec![file],
        }
    }

    pub(super) fn configuration(self, peer: IpAddr, directory: &Path) -> String {
        let at = |name: &str| directory.join(name).display().to_string();
        let (root, both, chain, key) = (at("root.pem"), at("both.pem"), at("chain.pem"), at("key.pem"));
        match self {
            Self::Haproxy => format!(
                "global\n nbthread 1\n maxconn 64\n tune.ssl.default-dh-param 2048\n\
                 defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 listen outbound\n bind 127.0.0.1:{OUTBOUND}\n server peer {peer}:{INBOUND} ssl crt {both} ca-file {root} verify required sni str(sidecar) verifyhost sidecar\n\
                 listen inbound\n bind :{INBOUND} ssl crt {both} ca-file {root} verify required ssl-min-ver TLSv1.3\n server application 127.0.0.1:{APPLICATION_PORT}\n"
            ),
            Self::Nginx => format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\npid /dev/null;\nerror_log /dev/null crit;\n\
                 events {{ worker_connections 64; }}\n\
                 stream {{\n\
                 server {{ listen 127.0.0.1:{OUTBOUND}; proxy_pass {peer}:{INBOUND}; proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {chain}; proxy_ssl_certificate_key {key}; proxy_ssl_trusted_certificate {root}; proxy_ssl_verify on; proxy_ssl_name sidecar; }}\n\
                 server {{ listen {INBOUND} ssl; ssl_protocols TLSv1.3; ssl_certificate {chain}; ssl_certificate_key {key}; ssl_client_certificate {root}; ssl_verify_client on; proxy_pass 127.0.0.1:{APPLICATION_PORT}; }}\n\
                 }}\n"
            ),
            Self::Stunnel => format!(
                "foreground = yes\npid =\nsyslog = no\ndebug = err\nsslVersionMin = TLSv1.3\ncert = {both}\nCAfile = {root}\nverifyChain = yes\n\
                 [outbound]\nclient = yes\naccept = 127.0.0.1:{OUTBOUND}\nconnect = {peer}:{INBOUND}\ncheckHost = sidecar\n\
                 [inbound]\naccept = {INBOUND}\nconnect = 127.0.0.1:{APPLICATION_PORT}\nrequireCert = yes\n"
            ),
        }
    }
}

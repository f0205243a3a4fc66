//! The client over real TLS, against a control plane that misbehaves.

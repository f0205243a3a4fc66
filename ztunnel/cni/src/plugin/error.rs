//! What can go wrong, in the form that CNI has for it.

use serde_json::json;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PluginError {
    #[error("CNI version {0} is not known to this plugin")]
    Version(String),
    #[error("{0}")]
    Environment(String),
    #[error("standard input: {0}")]
    Input(String),
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Later(String),
    #[error("{0}")]
    Namespace(String),
}

impl PluginError {
    /// Well-known codes of the specification, section "Error".
    fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Environment(_) => 4,
            Self::Namespace(_) => 5,
            Self::Input(_) => 6,
            Self::Configuration(_) => 7,
            Self::Later(_) => 11,
        }
    }

    pub(super) fn text(&self, version: &str) -> String {
        json!({ "cniVersion": version, "code": self.code(), "msg": format!("{}: {self}", crate::PLUGIN) })
            .to_string()
    }
}

//! The CRDs of the policies, as text for a chart.

use anyhow::Context;

/// YAML documents, one after the other.
pub fn crds() -> anyhow::Result<String> {
    let documents: Result<Vec<String>, _> =
        kubernetes::policies::crds().iter().map(serde_saphyr::to_string).collect();
    Ok(documents.context("writing the CRDs")?.join("---\n"))
}

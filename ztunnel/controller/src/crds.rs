//! The CRDs of the policies, as text for clusters without a chart.

/// YAML documents, one after the other.
pub fn crds() -> String {
    kubernetes::policies::crds().join("---\n")
}

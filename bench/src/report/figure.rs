//! One thing that was measured, again and again.

use serde::{Serialize, Serializer};

use super::statistics::Summary;

/// `what` `of` is `values` `unit`: "processor time of the first daemon, against the direct path" of "bulk, 1 stream up,
/// tunnel across nodes".
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// The table it stands in.
    pub(crate) table: &'static str,
    /// Its row.
    pub(crate) of: String,
    /// Its column.
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// Ratios of one round each, or plain values.
    #[serde(serialize_with = "with_summary")]
    pub(crate) values: Vec<f64>,
}

impl Figure {
    pub(crate) fn summary(&self) -> Option<Summary> {
        Summary::of(&self.values)
    }

    pub(crate) fn is(&self, table: &str, of: &str, what: &str, unit: &str) -> bool {
        (self.table, self.of.as_str(), self.what, self.unit) == (table, of, what, unit)
    }
}

fn with_summary<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Both<'a> {
        summary: Option<Summary>,
        all: &'a [f64],
    }
    Both { summary: Summary::of(values), all: values }.serialize(serializer)
}

//! A CNI as istio-cni is one: rules of netfilter in each pod, and an agent that hands the pods to the node's proxy over
//! ZDS. Packets are written out by hand, as they were recorded from Istio's own.

mod agent;
mod rules;

pub use agent::{CniAgent, CniPod};
pub use rules::redirect;

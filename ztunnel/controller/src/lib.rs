//! The control plane for clusters that have none: serves state and certificates to the daemons.

//! Who reaches whom, and by which path.

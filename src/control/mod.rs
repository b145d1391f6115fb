//! The control plane thread.

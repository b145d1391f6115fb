//! Async I/O for programs and for the control plane.

//! The control plane.

#![forbid(unsafe_code)]

mod http;
mod report;

//! The commands that compare and draw results of `echoring bench`.

pub(crate) mod compare;
pub(crate) mod report;

//! The per-core event loop, generic over a [`Driver`] and an [`Application`].

mod application;

pub use application::{Answer, Application, Disposition};

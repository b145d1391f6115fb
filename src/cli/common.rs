//! Code that the commands share: parsers of values, files of options, the setup of the process, output, and the reports of failures.

pub(crate) mod compress;
pub(crate) mod environment;
pub(crate) mod failure;
pub(crate) mod file;
pub(crate) mod http_client;
pub(crate) mod output;
// The tables have the flags of all features.
#[cfg(all(test, feature = "full"))]
mod reference_tests;
pub(crate) mod start_error;
#[cfg(any(feature = "otel", feature = "otlp"))]
pub(crate) mod telemetry_client;
pub(crate) mod values;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also after a thread has panicked that had locked it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

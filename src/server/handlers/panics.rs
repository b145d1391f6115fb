//! Panics of a program's code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use echoring_broker::observer;
use echoring_runtime::panics::panic_message;

/// Logs the panic of a handler. The panic hook has reported its place.
#[cold]
pub(crate) fn log_panic(panic: Box<dyn Any + Send>) {
    let said = panic_message(&*panic);
    tracing::error!(said, "a handler panicked; its connection is closed");
    observer::panicked(said);
    // The payload of a panic may panic again when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(again);
    }
}

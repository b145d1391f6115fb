//! Panics of a program's code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use echoring_broker::observer;
use echoring_runtime::panics::panic_message;

/// Calls code of a program. If it panics, the panic is logged and there is no result.
pub(crate) fn caught<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call)).map_err(log_panic).ok()
}

/// Logs the panic of a handler. The panic hook has reported its place.
#[cold]
fn log_panic(panic: Box<dyn Any + Send>) {
    let said = panic_message(&*panic);
    tracing::error!(said, "a handler panicked; its connection is closed");
    observer::panicked(said);
    // The payload of a panic may panic again when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(again);
    }
}

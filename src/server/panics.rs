//! Panics of a program's code: what they say.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::observer;

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (_, Some(message)) => message,
        _ => "no message",
    }
}

/// Logs the panic of a handler. The panic hook has reported its place.
#[cold]
pub(super) fn log_panic(panic: Box<dyn Any + Send>) {
    let said = panic_message(&*panic);
    tracing::error!(said, "a handler panicked; its connection is closed");
    observer::panicked(said);
    // The payload of a panic may panic again when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(again);
    }
}

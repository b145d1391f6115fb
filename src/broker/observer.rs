//! A test's view of the shards that it runs on its own thread: publications, and the failures of handlers.
//!
//! Without the feature `testing` the calls do nothing.

#[cfg(any(test, feature = "testing"))]
pub use observed::*;

#[cfg(not(any(test, feature = "testing")))]
mod unobserved {
    use std::fmt::Display;

    use echoring_proto::CloseCode;
    use echoring_topics::{Position, Publication};

    #[inline(always)]
    /// A publication was accepted.
    pub fn published(_: &str, _: Position, _: &Publication<'_>) {}

    #[inline(always)]
    /// A handler has returned an error.
    pub fn failed(_: CloseCode, _: &dyn Display) {}

    #[inline(always)]
    /// A handler has panicked.
    pub fn panicked(_: &str) {}
}
#[cfg(not(any(test, feature = "testing")))]
pub use unobserved::*;

#[cfg(any(test, feature = "testing"))]
mod observed {
    use std::cell::RefCell;
    use std::fmt::Display;

    use echoring_proto::CloseCode;
    use echoring_topics::{Content, Position, Publication};

    /// Events while [`observe`] ran.
    #[derive(Debug, Default)]
    pub struct Observed {
        /// Accepted publications, in order.
        pub publications: Vec<ObservedPublication>,
        /// Handlers that have failed, in order.
        pub failures: Vec<ObservedFailure>,
    }

    /// An accepted publication.
    #[derive(Debug)]
    pub struct ObservedPublication {
        /// Its topic.
        pub topic: String,
        /// Its position.
        pub position: Position,
        /// The type of the payload.
        pub content: Content,
        /// The key, or an empty string.
        pub key: String,
        /// The payload.
        pub payload: Vec<u8>,
    }

    /// A handler that has failed.
    #[derive(Debug)]
    pub struct ObservedFailure {
        /// The close code.
        pub code: CloseCode,
        /// Whether it has panicked.
        pub is_panic: bool,
        /// The error, or what the panic said.
        pub text: String,
    }

    thread_local! {
        static OBSERVED: RefCell<Option<Observed>> = const { RefCell::new(None) };
    }

    /// Returns the events on this thread during `run`, without those that nested calls return.
    pub fn observe<R>(run: impl FnOnce() -> R) -> (R, Observed) {
        let before = OBSERVED.replace(Some(Observed::default()));
        let result = run();
        (result, OBSERVED.replace(before).unwrap_or_default())
    }

    fn note(note: impl FnOnce(&mut Observed)) {
        OBSERVED.with_borrow_mut(|observed| observed.as_mut().map(note));
    }

    /// A publication was accepted.
    pub fn published(topic: &str, position: Position, publication: &Publication<'_>) {
        note(|observed| {
            observed.publications.push(ObservedPublication {
                topic: topic.to_owned(),
                position,
                content: publication.content,
                key: publication.key.to_owned(),
                payload: publication.payload.to_owned(),
            });
        });
    }

    /// A handler has returned an error.
    pub fn failed(code: CloseCode, failure: &dyn Display) {
        note(|observed| {
            let text = failure.to_string();
            observed.failures.push(ObservedFailure { code, is_panic: false, text });
        });
    }

    /// A handler has panicked.
    pub fn panicked(said: &str) {
        note(|observed| {
            let (code, text) = (CloseCode::INTERNAL, said.to_owned());
            observed.failures.push(ObservedFailure { code, is_panic: true, text });
        });
    }
}

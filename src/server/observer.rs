//! A test's view of the shards that it runs on its own thread: publications, and the failures of handlers.
//!
//! Without the feature `testing` the calls do nothing.

#[cfg(any(test, feature = "testing"))]
pub(crate) use observed::*;

#[cfg(not(any(test, feature = "testing")))]
mod unobserved {
    use crate::failure::Failure;
    use echoring_topics::{Position, Publication};

    #[inline(always)]
    pub(crate) fn published(_: &str, _: Position, _: &Publication<'_>) {}

    #[inline(always)]
    pub(crate) fn failed(_: &Failure) {}

    #[inline(always)]
    pub(crate) fn panicked(_: &str) {}
}
#[cfg(not(any(test, feature = "testing")))]
pub(crate) use unobserved::*;

#[cfg(any(test, feature = "testing"))]
mod observed {
    use std::cell::RefCell;

    use crate::failure::Failure;
    use echoring_proto::CloseCode;
    use echoring_topics::{Content, Position, Publication};

    /// Events while [`observe`] ran.
    #[derive(Debug, Default)]
    pub(crate) struct Observed {
        pub(crate) publications: Vec<ObservedPublication>,
        pub(crate) failures: Vec<ObservedFailure>,
    }

    /// An accepted publication.
    #[derive(Debug)]
    pub(crate) struct ObservedPublication {
        pub(crate) topic: String,
        pub(crate) position: Position,
        pub(crate) content: Content,
        pub(crate) key: String,
        pub(crate) payload: Vec<u8>,
    }

    /// A handler that has failed.
    #[derive(Debug)]
    pub(crate) struct ObservedFailure {
        pub(crate) code: CloseCode,
        pub(crate) is_panic: bool,
        pub(crate) text: String,
    }

    thread_local! {
        static OBSERVED: RefCell<Option<Observed>> = const { RefCell::new(None) };
    }

    /// Returns the events on this thread during `run`, without those that nested calls return.
    pub(crate) fn observe<R>(run: impl FnOnce() -> R) -> (R, Observed) {
        let before = OBSERVED.replace(Some(Observed::default()));
        let result = run();
        (result, OBSERVED.replace(before).unwrap_or_default())
    }

    fn note(note: impl FnOnce(&mut Observed)) {
        OBSERVED.with_borrow_mut(|observed| observed.as_mut().map(note));
    }

    /// A publication was accepted.
    pub(crate) fn published(topic: &str, position: Position, publication: &Publication<'_>) {
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
    pub(crate) fn failed(failure: &Failure) {
        note(|observed| {
            let (code, text) = (failure.code(), failure.to_string());
            observed.failures.push(ObservedFailure { code, is_panic: false, text });
        });
    }

    /// A handler has panicked.
    pub(crate) fn panicked(said: &str) {
        note(|observed| {
            let (code, text) = (CloseCode::INTERNAL, said.to_owned());
            observed.failures.push(ObservedFailure { code, is_panic: true, text });
        });
    }
}

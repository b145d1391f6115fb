//! The messages of a page of history that a subscription gets.

use std::borrow::Cow;

use echoring_topics::{Keeping, Publication, append_message, entries};

/// The messages of a page without those that are not wanted.
pub(super) fn wanted<'a>(page: &'a [u8], is_wanted: impl Fn(&Publication<'_>) -> bool) -> Cow<'a, [u8]> {
    if entries(page).all(|(_, message)| is_wanted(&message)) {
        return Cow::Borrowed(page);
    }
    let mut rest = Vec::with_capacity(page.len());
    for (offset, message) in entries(page).filter(|(_, message)| is_wanted(message)) {
        append_message(&mut rest, offset, &message);
    }
    Cow::Owned(rest)
}

/// Whether readers of history get a message.
pub(super) fn is_kept(message: &Publication<'_>) -> bool {
    message.keeping == Keeping::Kept
}

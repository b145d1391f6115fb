//! The publications of a session that the owners of their topics have not answered, and refusals that wait behind them.
//!
//! Publications to one topic are answered in turn. A refusal by this shard would overtake what the owner of the topic, on another
//! shard or node, has yet to answer.
//!
//! No I/O: the owner's answers are told by [`answered`](Unanswered::answered).

use std::collections::VecDeque;

use echoring_proto::limits::Nanos;
use echoring_topics::Refused;

use crate::limits::PUBLICATIONS_UNANSWERED_MAX;

/// Takes the place of the topic of an answered publication.
const ANSWERED: u32 = 0;

/// The publications of a session.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Publications that the client expects an answer to, in the order of their requests.
    open: VecDeque<OpenPublication>,
    refusals: Vec<WaitingRefusal>,
    /// Since when they wait.
    since: Nanos,
    /// The session is listed among those with refusals that wait.
    is_listed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenPublication {
    request: u32,
    /// A digest of the topic's name: topics with the same one wait for one another.
    topic: u32,
}

/// A publication that this shard has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedPublication {
    /// The number of its request in the session.
    pub(super) request: u32,
    /// The id of the request.
    pub(super) id: Option<u64>,
    pub(super) refused: Refused,
}

#[derive(Debug)]
struct WaitingRefusal {
    behind: OpenPublication,
    publication: RefusedPublication,
}

impl Unanswered {
    /// A publication was left to its owner, which answers it. Of too many, the oldest counts as answered: its shard may have
    /// failed.
    pub(super) fn add(&mut self, topic: &str, request: u32) {
        if self.open.len() >= PUBLICATIONS_UNANSWERED_MAX && self.refusals.is_empty() {
            self.open.pop_front();
        }
        self.open.push_back(OpenPublication { request, topic: digest(topic) });
    }

    /// Whether all publications are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.refusals.is_empty()
    }

    /// Whether publications to a topic are not answered.
    pub(super) fn is_open(&self, topic: &str) -> bool {
        self.last(topic).is_some()
    }

    /// Keeps a refusal until the publications to the topic before it are answered. Returns whether the session must be
    /// listed among those with waiting refusals: it is not listed yet.
    pub(super) fn keep(&mut self, topic: &str, publication: RefusedPublication, now: Nanos) -> bool {
        let Some(behind) = self.last(topic) else { return false };
        if self.refusals.is_empty() {
            self.since = now;
        }
        self.refusals.push(WaitingRefusal { behind, publication });
        !std::mem::replace(&mut self.is_listed, true)
    }

    /// The session is listed.
    pub(super) fn list(&mut self) {
        self.is_listed = true;
    }

    /// The session is no longer listed. Returns since when refusals wait, if any do.
    pub(super) fn unlist(&mut self) -> Option<Nanos> {
        self.is_listed = false;
        self.waits_since()
    }

    /// Since when refusals wait.
    fn waits_since(&self) -> Option<Nanos> {
        (!self.refusals.is_empty()).then_some(self.since)
    }

    fn last(&self, topic: &str) -> Option<OpenPublication> {
        let topic = digest(topic);
        self.open.iter().rfind(|open| open.topic == topic).copied()
    }

    /// The owner has answered a publication. Returns the refusals behind it.
    pub(super) fn answered(&mut self, topic: &str, request: u32) -> Vec<RefusedPublication> {
        let answered = OpenPublication { request, topic: digest(topic) };
        let first = self.open.front().map_or(request, |open| open.request);
        let place = |open: &OpenPublication| open.request.wrapping_sub(first);
        let start = self.open.partition_point(|open| place(open) < place(&answered));
        let mut same = self.open.range_mut(start..).take_while(|open| open.request == request);
        if let Some(open) = same.find(|open| **open == answered) {
            open.topic = ANSWERED;
        }
        while self.open.front().is_some_and(|open| open.topic == ANSWERED) {
            self.open.pop_front();
        }
        if self.refusals.is_empty() || self.open.contains(&answered) {
            return Vec::new();
        }
        let behind = self.refusals.extract_if(.., |refusal| refusal.behind == answered);
        behind.map(|refusal| refusal.publication).collect()
    }

    /// Takes all refusals: their session ends, or they have waited for long enough.
    pub(super) fn take_refusals(&mut self) -> Vec<RefusedPublication> {
        std::mem::take(&mut self.refusals).into_iter().map(|refusal| refusal.publication).collect()
    }
}

/// FNV-1a. Never [`ANSWERED`].
fn digest(topic: &str) -> u32 {
    topic.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: u32) -> RefusedPublication {
        RefusedPublication { request, id: Some(request.into()), refused: Refused::RateLimited }
    }

    fn requests(refused: &[RefusedPublication]) -> Vec<u32> {
        refused.iter().map(|publication| publication.request).collect()
    }

    #[test]
    fn a_refusal_waits_for_the_publications_to_its_topic_before_it() {
        let mut unanswered = Unanswered::default();
        assert!(!unanswered.is_open("a"), "nothing is before it");
        unanswered.add("a", 2);
        unanswered.add("b", 3);
        unanswered.add("a", 4);
        assert!(unanswered.is_open("a") && !unanswered.is_open("c"), "no other topic counts");
        assert!(unanswered.keep("a", refused(6), 10) && !unanswered.keep("b", refused(7), 20));
        assert!(!unanswered.keep("a", refused(8), 30));
        assert_eq!(unanswered.waits_since(), Some(10));
        unanswered.add("a", 9);
        assert!(unanswered.answered("a", 2).is_empty());
        assert_eq!(requests(&unanswered.answered("a", 4)), [6, 8]);
        assert!(unanswered.answered("a", 9).is_empty());
        assert_eq!(requests(&unanswered.answered("b", 3)), [7]);
        assert!(unanswered.waits_since().is_none() && unanswered.open.is_empty());
        unanswered.add("a", 10);
        assert!(!unanswered.keep("a", refused(11), 40), "the session is still listed");
        assert_eq!(unanswered.unlist(), Some(40));
        assert!(unanswered.keep("a", refused(12), 50) && !unanswered.keep("a", refused(13), 60));
        assert_eq!(requests(&unanswered.answered("a", 10)), [11, 12, 13]);
        assert_eq!(unanswered.unlist(), None);
    }

    #[test]
    fn one_request_may_have_several_publications() {
        // As when an application agrees to several at once.
        let mut unanswered = Unanswered::default();
        for topic in ["a", "b", "a"] {
            unanswered.add(topic, u32::MAX);
        }
        unanswered.add("a", 0);
        unanswered.keep("b", refused(1), 0);
        unanswered.keep("a", refused(1), 0);
        assert!(unanswered.answered("a", u32::MAX).is_empty());
        assert_eq!(requests(&unanswered.answered("b", u32::MAX)), [1]);
        assert!(unanswered.answered("a", u32::MAX).is_empty());
        assert_eq!(requests(&unanswered.answered("a", 0)), [1]);
    }

    #[test]
    fn publications_that_are_never_answered_are_bounded() {
        let mut unanswered = Unanswered::default();
        for request in 0..3 * PUBLICATIONS_UNANSWERED_MAX as u32 {
            unanswered.add("lost", 2 * request);
            unanswered.add("a", 2 * request + 1);
            unanswered.answered("a", 2 * request + 1);
        }
        assert_eq!(unanswered.open.len(), PUBLICATIONS_UNANSWERED_MAX);
        assert!(unanswered.keep("lost", refused(1), 0));
        assert_eq!(requests(&unanswered.take_refusals()), [1]);
    }
}

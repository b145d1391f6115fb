//! A link that another process continues. The path is another one then: its figures begin anew.

use echoring_proto::limits::Nanos;
use echoring_proto::plain;

use super::{Link, Unacknowledged};

plain! {
    /// What moves of a link.
    #[derive(Debug)]
    pub(crate) struct PlainLink {
        session: u64,
        first: u64,
        expected: u64,
        transmission: u64,
        seen: u64,
        theirs: Option<u64>,
        is_known: bool,
        /// The messages of packets.
        unacknowledged: Vec<Vec<u8>>,
        staged: Vec<Vec<u8>>,
    } where |link| link.session != 0 && link.first != 0 && link.expected != 0
}

impl Link {
    /// The state of the link. Nothing may be sent over it after this.
    pub(crate) fn plain(&self) -> PlainLink {
        let &Link { session, first, expected, transmission, seen, theirs, is_known, .. } = self;
        let unacknowledged = self.unacknowledged.iter().map(|packet| packet.messages.clone()).collect();
        let staged = self.staged.iter().cloned().collect();
        PlainLink { session, first, expected, transmission, seen, theirs, is_known, unacknowledged, staged }
    }

    /// The link that this process continues from now on.
    pub(crate) fn continued(plain: PlainLink, now: Nanos) -> Link {
        let PlainLink { session, first, expected, transmission, seen, theirs, is_known, .. } = plain;
        let mut link = Link { first, expected, transmission, seen, theirs, is_known, ..Link::new(session) };
        for messages in plain.unacknowledged {
            link.unacknowledged_bytes += messages.len();
            let packet = Unacknowledged { messages, first_sent_at: now, sent_at: now, transmission };
            link.unacknowledged.push_back(packet);
        }
        plain.staged.into_iter().for_each(|message| link.push(message));
        link.send_again(now);
        link
    }
}

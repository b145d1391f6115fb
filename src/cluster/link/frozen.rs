//! A link that another process continues, as bytes. The path is another one then: its figures begin anew.

use echoring_proto::limits::Nanos;

use super::{Link, Unacknowledged};
use crate::wire::{Wire, append_entry, entries};

impl Link {
    /// Appends the state of the link. Nothing may be sent over it after this.
    pub(crate) fn freeze(&self, out: &mut Vec<u8>) {
        for number in [self.session, self.first, self.expected, self.transmission, self.seen] {
            number.put(out);
        }
        self.theirs.put(out);
        self.is_known.put(out);
        let mut list = Vec::new();
        self.unacknowledged.iter().for_each(|packet| append_entry(&mut list, &packet.messages));
        (&list[..]).put(out);
        list.clear();
        self.staged.iter().for_each(|message| append_entry(&mut list, message));
        (&list[..]).put(out);
    }

    /// The link that continues from the front of `from`. [`resume`](Link::resume) comes before everything else.
    pub(crate) fn thaw(from: &mut &[u8]) -> Option<Link> {
        let (session, first, expected) = (u64::take(from)?, u64::take(from)?, u64::take(from)?);
        let (transmission, seen) = (u64::take(from)?, u64::take(from)?);
        let (theirs, is_known) = (Wire::take(from)?, bool::take(from)?);
        let mut link = Link { transmission, seen, theirs, is_known, expected, ..Link::new(session) };
        link.first = first;
        for messages in entries(Wire::take(from)?) {
            link.unacknowledged_bytes += messages.len();
            let packet =
                Unacknowledged { messages: messages.to_vec(), first_sent_at: 0, sent_at: 0, transmission };
            link.unacknowledged.push_back(packet);
        }
        entries(Wire::take(from)?).for_each(|message| link.push(message.to_vec()));
        (session != 0 && first != 0 && expected != 0).then_some(link)
    }

    /// This process continues the link from now on.
    pub(crate) fn resume(&mut self, now: Nanos) {
        self.unacknowledged.iter_mut().for_each(|packet| (packet.first_sent_at, packet.sent_at) = (now, now));
        self.send_again(now);
    }
}

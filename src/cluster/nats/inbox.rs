//! The packets that wait until the tables have room, bounded in bytes.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::nats::limits::{INBOX_BYTES_MAX, INBOX_PACKET_OVERHEAD};

/// A queue of packets.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    packets: VecDeque<Bytes>,
    bytes: usize,
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes a packet. False if there is no room for it: its link sends it again.
    pub(crate) fn push(&mut self, packet: Bytes) -> bool {
        let cost = cost(&packet);
        if self.bytes + cost > INBOX_BYTES_MAX {
            return false;
        }
        self.bytes += cost;
        self.packets.push_back(packet);
        true
    }

    /// The oldest packet.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let packet = self.packets.pop_front()?;
        self.bytes -= cost(&packet);
        Some(packet)
    }
}

fn cost(packet: &Bytes) -> usize {
    packet.len() + INBOX_PACKET_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_in_order_and_past_the_bound_none_is_taken() {
        let mut inbox = Inbox::default();
        let packet = Bytes::from(vec![0; 1024 * 1024 - INBOX_PACKET_OVERHEAD]);
        let taken = (0..100).take_while(|_| inbox.push(packet.clone())).count();
        assert_eq!(taken, INBOX_BYTES_MAX / (1024 * 1024));
        assert!(!inbox.push(Bytes::new()));
        assert_eq!(inbox.pop(), Some(packet));
        assert!(inbox.push(Bytes::from_static(b"last")));
        let all: Vec<_> = std::iter::from_fn(|| inbox.pop()).collect();
        assert_eq!(all.last().map(|packet| &packet[..]), Some(&b"last"[..]));
        assert!(inbox.is_empty() && inbox.bytes == 0);
    }
}

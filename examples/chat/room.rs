//! The members of the room and their names. Each call returns the message to send; the caller sends it.
//!
//! The room does no I/O, so it is tested without connections.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::message::{MEMBERS_MAX, Message, MessageType, Rejection};

/// Messages that a client may send at once after a pause.
pub const BURST: u32 = 20;
/// Interval between a client's messages in the long run. 256 members at this rate are 650,000 deliveries a second.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// A room whose members have the key `K`.
#[derive(Debug)]
pub struct Room<K> {
    members: BTreeMap<K, Member>,
    /// By name in lower case.
    names: BTreeMap<String, K>,
    /// In joining order.
    order: Vec<K>,
    /// In the order of their last message or, without one, of their joining: the longest idle first.
    idle: Vec<K>,
}

#[derive(Debug)]
struct Member {
    name: String,
    ip: String,
}

impl<K> Default for Room<K> {
    fn default() -> Room<K> {
        Room { members: BTreeMap::new(), names: BTreeMap::new(), order: Vec::new(), idle: Vec::new() }
    }
}

impl<K: Copy + Ord> Room<K> {
    /// Adds a member. Returns the message to all members, including the new one.
    ///
    /// # Errors
    /// [`Rejection::NamedAlready`], [`Rejection::NameTaken`], [`Rejection::Full`].
    pub fn join(&mut self, member: K, name: &str, ip: &str) -> Result<Message, Rejection> {
        if self.members.contains_key(&member) {
            return Err(Rejection::NamedAlready);
        }
        let folded = name.to_lowercase();
        if self.names.contains_key(&folded) {
            return Err(Rejection::NameTaken);
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(Rejection::Full);
        }
        self.names.insert(folded, member);
        let known = Member { name: name.into(), ip: ip.into() };
        let told = known.message(MessageType::Join);
        self.members.insert(member, known);
        self.order.push(member);
        self.idle.push(member);
        Ok(told)
    }

    /// Removes a member. Returns the message to the others, or `None` if the key is not a member.
    pub fn leave(&mut self, member: K) -> Option<Message> {
        let known = self.members.remove(&member)?;
        self.names.remove(&known.name.to_lowercase());
        self.order.retain(|other| *other != member);
        self.idle.retain(|other| *other != member);
        Some(known.message(MessageType::Leave))
    }

    /// Returns a member's message to all members, including the sender.
    ///
    /// # Errors
    /// [`Rejection::NoName`].
    pub fn broadcast(&mut self, member: K, text: &str) -> Result<Message, Rejection> {
        self.touch(member);
        let known = self.members.get(&member).ok_or(Rejection::NoName)?;
        Ok(Message { content: text.into(), ..known.message(MessageType::Broadcast) })
    }

    /// Returns the receiver of a private message, and the message to both.
    ///
    /// # Errors
    /// [`Rejection::NoName`], [`Rejection::NobodyOfThatName`].
    pub fn private(&mut self, member: K, to: &str, text: &str) -> Result<(K, Message), Rejection> {
        self.touch(member);
        let known = self.members.get(&member).ok_or(Rejection::NoName)?;
        let receiver = *self.names.get(&to.to_lowercase()).ok_or(Rejection::NobodyOfThatName)?;
        // The receiver's own spelling.
        let user = self.members.get(&receiver).map(|receiver| receiver.name.clone()).unwrap_or_default();
        Ok((receiver, Message { user, content: text.into(), ..known.message(MessageType::Private) }))
    }

    fn touch(&mut self, member: K) {
        if let Some(place) = self.idle.iter().position(|other| *other == member) {
            self.idle.remove(place);
            self.idle.push(member);
        }
    }

    /// The member that has been idle for longest. It leaves a full room, so that idle members do not keep others out.
    pub fn longest_idle(&self) -> Option<K> {
        self.idle.first().copied()
    }

    /// All members in joining order.
    pub fn members(&self) -> &[K] {
        &self.order
    }

    /// Returns the list of members, for a member.
    ///
    /// # Errors
    /// [`Rejection::NoName`].
    pub fn users(&self, member: K) -> Result<Message, Rejection> {
        self.members.get(&member).ok_or(Rejection::NoName)?;
        let names = self.order.iter().filter_map(|member| self.members.get(member));
        Ok(Message::users(names.map(|member| member.name.as_str())))
    }
}

impl Member {
    fn message(&self, kind: MessageType) -> Message {
        Message { from: self.name.clone(), from_ip: self.ip.clone(), ..Message::new(kind) }
    }
}

/// The rate limit of one client: [`BURST`] messages at once, one per [`INTERVAL`] in the long run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit {
    /// When the interval of the last message ends, if the messages were spread out evenly.
    paid_until: Duration,
}

impl RateLimit {
    /// Whether another message is allowed at `now`, a time since the connection began.
    pub fn allows(&mut self, now: Duration) -> bool {
        let paid_until = self.paid_until.max(now);
        if paid_until - now > (BURST - 1) * INTERVAL {
            return false;
        }
        self.paid_until = paid_until + INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_until_it_leaves() {
        let mut room = Room::default();
        let told = room.join(1, "Ana", "10.0.0.1").unwrap();
        assert_eq!(
            (told.kind, told.from.as_str(), told.from_ip.as_str()),
            (MessageType::Join, "Ana", "10.0.0.1")
        );
        assert_eq!(room.join(2, "ANA", ""), Err(Rejection::NameTaken));
        assert_eq!(room.join(1, "Bob", ""), Err(Rejection::NamedAlready));
        assert_eq!(room.leave(2), None);
        assert_eq!(room.leave(1).unwrap().from, "Ana");
        assert!(room.members().is_empty());
        assert!(room.join(2, "aNa", "").is_ok());
    }

    #[test]
    fn only_so_many_fit() {
        let mut room = Room::default();
        for number in 0..MEMBERS_MAX {
            room.join(number, &number.to_string(), "").unwrap();
        }
        assert_eq!(room.join(MEMBERS_MAX, "one more", ""), Err(Rejection::Full));
        room.leave(7);
        assert!(room.join(MEMBERS_MAX, "one more", "").is_ok());
    }

    #[test]
    fn the_longest_idle_member_is_the_one_that_sent_nothing_for_longest() {
        let mut room = Room::default();
        assert_eq!(room.longest_idle(), None);
        for number in 0..3 {
            room.join(number, &number.to_string(), "").unwrap();
        }
        room.broadcast(0, "x").unwrap();
        assert_eq!(room.longest_idle(), Some(1));
        room.private(1, "0", "x").unwrap();
        assert_eq!(room.longest_idle(), Some(2));
        room.leave(2);
        assert_eq!(room.longest_idle(), Some(0));
    }

    #[test]
    fn a_private_message_names_both() {
        let mut room = Room::default();
        assert_eq!(room.private(1, "bob", "x"), Err(Rejection::NoName));
        room.join(1, "Ana", "10.0.0.1").unwrap();
        assert_eq!(room.private(1, "bob", "x"), Err(Rejection::NobodyOfThatName));
        room.join(2, "Bob", "10.0.0.2").unwrap();
        let (to, told) = room.private(1, "bob", "x").unwrap();
        let said = (told.user.as_str(), told.from.as_str(), told.from_ip.as_str(), told.content.as_str());
        assert_eq!((to, said), (2, ("Bob", "Ana", "10.0.0.1", "x")));
        assert_eq!(room.broadcast(3, "x"), Err(Rejection::NoName));
        assert_eq!(room.users(3), Err(Rejection::NoName));
        assert_eq!(room.users(2).unwrap().content, "Ana\nBob");
        room.leave(1);
        assert_eq!(room.users(2).unwrap().content, "Bob");
    }

    #[test]
    fn a_burst_is_free_and_then_the_interval_counts() {
        let mut rate = RateLimit::default();
        let mut now = 5_000 * INTERVAL;
        for _ in 0..BURST {
            assert!(rate.allows(now));
        }
        for _ in 0..100 {
            assert!(!rate.allows(now));
            now += INTERVAL;
            assert!(rate.allows(now));
        }
    }
}

//! Who is in a room and under what name: the one place that gives everything said its place in the order.
//!
//! It must never know how messages travel: what is to be told comes back as messages, for the caller to carry.

use std::collections::BTreeMap;

use super::message::{Kind, Message, Refused};
use crate::limits::{CHAT_BURST, CHAT_INTERVAL, CHAT_USERS_MAX, Nanos};

/// A room whose members the caller calls `K`.
#[derive(Debug)]
pub struct Room<K> {
    members: BTreeMap<K, Member>,
    /// By the name in lower case.
    names: BTreeMap<String, K>,
    /// In the order in which they came.
    order: Vec<K>,
    /// In the order in which they were heard last, by their coming or by a word: the longest silent first.
    silent: Vec<K>,
}

#[derive(Debug)]
struct Member {
    name: String,
    ip: String,
}

impl<K> Default for Room<K> {
    fn default() -> Room<K> {
        Room { members: BTreeMap::new(), names: BTreeMap::new(), order: Vec::new(), silent: Vec::new() }
    }
}

impl<K: Copy + Ord> Room<K> {
    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Somebody comes. Returns what everyone is told, who came included.
    ///
    /// # Errors
    /// [`Refused::NamedAlready`], [`Refused::NameTaken`], [`Refused::Full`].
    pub fn join(&mut self, member: K, name: &str, ip: &str) -> Result<Message, Refused> {
        if self.members.contains_key(&member) {
            return Err(Refused::NamedAlready);
        }
        let folded = name.to_lowercase();
        if self.names.contains_key(&folded) {
            return Err(Refused::NameTaken);
        }
        if self.members.len() >= CHAT_USERS_MAX {
            return Err(Refused::Full);
        }
        self.names.insert(folded, member);
        let known = Member { name: name.into(), ip: ip.into() };
        let told = known.message(Kind::Join);
        self.members.insert(member, known);
        self.order.push(member);
        self.silent.push(member);
        Ok(told)
    }

    /// Somebody goes. Returns what everyone else is told; nothing when nobody knew of it.
    pub fn leave(&mut self, member: K) -> Option<Message> {
        let known = self.members.remove(&member)?;
        self.names.remove(&known.name.to_lowercase());
        self.order.retain(|other| *other != member);
        self.silent.retain(|other| *other != member);
        Some(known.message(Kind::Leave))
    }

    /// Somebody tells everyone something. Returns what everyone is told, who said it included.
    ///
    /// # Errors
    /// [`Refused::NoName`].
    pub fn broadcast(&mut self, member: K, text: &str) -> Result<Message, Refused> {
        self.hear(member);
        let known = self.members.get(&member).ok_or(Refused::NoName)?;
        Ok(Message { content: text.into(), ..known.message(Kind::Broadcast) })
    }

    /// Somebody tells one something. Returns whom, and what both are told.
    ///
    /// # Errors
    /// [`Refused::NoName`], [`Refused::NobodyOfThatName`].
    pub fn private(&mut self, member: K, to: &str, text: &str) -> Result<(K, Message), Refused> {
        self.hear(member);
        let known = self.members.get(&member).ok_or(Refused::NoName)?;
        let receiver = *self.names.get(&to.to_lowercase()).ok_or(Refused::NobodyOfThatName)?;
        // As the receiver writes itself.
        let user = self.members.get(&receiver).map(|receiver| receiver.name.clone()).unwrap_or_default();
        Ok((receiver, Message { user, content: text.into(), ..known.message(Kind::Private) }))
    }

    fn hear(&mut self, member: K) {
        if let Some(place) = self.silent.iter().position(|other| *other == member) {
            self.silent.remove(place);
            self.silent.push(member);
        }
    }

    /// Who said nothing for longest: whoever came and never spoke counts from its coming. It makes room where a room
    /// would stay full of those who only sit there.
    pub fn longest_silent(&self) -> Option<K> {
        self.silent.first().copied()
    }

    /// Everyone, in the order in which they came.
    pub fn members(&self) -> &[K] {
        &self.order
    }

    /// Somebody asks who is there. Returns what it is told.
    ///
    /// # Errors
    /// [`Refused::NoName`].
    pub fn users(&self, member: K) -> Result<Message, Refused> {
        self.members.get(&member).ok_or(Refused::NoName)?;
        let names = self.order.iter().filter_map(|member| self.members.get(member));
        Ok(Message::users(names.map(|member| member.name.as_str())))
    }
}

impl Member {
    fn message(&self, kind: Kind) -> Message {
        Message { from: self.name.clone(), from_ip: self.ip.clone(), ..Message::new(kind) }
    }
}

/// How fast one client may talk: [`CHAT_BURST`] messages at once, one per [`CHAT_INTERVAL`] in the long run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// When the messages so far would all have had their interval.
    paid_until: Nanos,
}

impl Rate {
    /// Whether another message may come now.
    pub fn allows(&mut self, now: Nanos) -> bool {
        let paid_until = self.paid_until.max(now);
        if paid_until - now > u64::from(CHAT_BURST - 1) * CHAT_INTERVAL {
            return false;
        }
        self.paid_until = paid_until + CHAT_INTERVAL;
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
        assert_eq!((told.kind, told.from.as_str(), told.from_ip.as_str()), (Kind::Join, "Ana", "10.0.0.1"));
        assert_eq!(room.join(2, "ANA", ""), Err(Refused::NameTaken));
        assert_eq!(room.join(1, "Bob", ""), Err(Refused::NamedAlready));
        assert_eq!(room.leave(2), None);
        assert_eq!(room.leave(1).unwrap().from, "Ana");
        assert!(room.is_empty());
        assert!(room.join(2, "aNa", "").is_ok());
    }

    #[test]
    fn only_so_many_fit() {
        let mut room = Room::default();
        for number in 0..CHAT_USERS_MAX {
            room.join(number, &number.to_string(), "").unwrap();
        }
        assert_eq!(room.join(CHAT_USERS_MAX, "one more", ""), Err(Refused::Full));
        room.leave(7);
        assert!(room.join(CHAT_USERS_MAX, "one more", "").is_ok());
    }

    #[test]
    fn a_private_message_names_both() {
        let mut room = Room::default();
        assert_eq!(room.private(1, "bob", "x"), Err(Refused::NoName));
        room.join(1, "Ana", "10.0.0.1").unwrap();
        assert_eq!(room.private(1, "bob", "x"), Err(Refused::NobodyOfThatName));
        room.join(2, "Bob", "10.0.0.2").unwrap();
        let (to, told) = room.private(1, "bob", "x").unwrap();
        let said = (told.user.as_str(), told.from.as_str(), told.from_ip.as_str(), told.content.as_str());
        assert_eq!((to, said), (2, ("Bob", "Ana", "10.0.0.1", "x")));
        assert_eq!(room.broadcast(3, "x"), Err(Refused::NoName));
        assert_eq!(room.users(3), Err(Refused::NoName));
        assert_eq!(room.users(2).unwrap().content, "Ana\nBob");
        room.leave(1);
        assert_eq!(room.users(2).unwrap().content, "Bob");
    }

    #[test]
    fn a_burst_is_free_and_then_the_interval_counts() {
        let mut rate = Rate::default();
        let mut now = 5_000 * CHAT_INTERVAL;
        for _ in 0..CHAT_BURST {
            assert!(rate.allows(now));
        }
        for _ in 0..100 {
            assert!(!rate.allows(now));
            now += CHAT_INTERVAL;
            assert!(rate.allows(now));
        }
    }
}

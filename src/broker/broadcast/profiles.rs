//! What sessions of Centrifuge's protocol are told of other clients: of the members of a topic, and of the authors of messages.
//!
//! It is a [`Profile`], which topics and other shards and nodes pass on. Only a session that joins or publishes makes one.

use echoring_auth::Info;
use echoring_topics::{Author, Profile, TopicId};

use super::Broadcast;
use super::centrifuge::centrifuge;
use super::session::{ApplicationData, Session};
use crate::peer::ConnectionContext;
use crate::publications::TopicPublication;

impl Session {
    /// What others are told of the client in a topic about which the application has these data.
    pub(super) fn profile(&self, of_topic: Option<&ApplicationData>) -> Box<str> {
        let connection = self.centrifuge().map_or("", |own| own.info.text());
        Profile::join(&self.subject, connection, of_topic.map_or("", |data| data.info.text()))
    }

    /// The same, in a topic to which it may subscribe.
    pub(super) fn profile_in(&self, topic: Option<TopicId>) -> Box<str> {
        let own = self.subscriptions.iter().find(|own| Some(own.topic) == topic);
        self.profile(own.and_then(|own| own.application.as_deref()))
    }
}

impl Broadcast {
    /// The author of a message that a session publishes, encoded; empty where messages do not name theirs.
    pub(super) fn author_of(
        &self,
        link: &ConnectionContext<'_>,
        message: &TopicPublication<'_>,
    ) -> Box<[u8]> {
        let topics = &self.fan_out.topics;
        if !topics.rules().some_name_publishers() || !topics.settings_of(message.topic).publisher_info {
            return Box::default();
        }
        let Some(session) = link.peer.session() else { return Box::default() };
        let profile = session.profile_in(topics.find(message.topic));
        Author::encode(self.client_id(link), Profile(&profile))
    }

    /// Sets the data about the connection of a session. False if there is no memory for them.
    pub(super) fn set_info(&mut self, link: &mut ConnectionContext<'_>, info: Info) -> bool {
        if centrifuge(link).is_none_or(|own| own.info == info) {
            return true;
        }
        let has_room = link.pool().charge(info.text().len());
        let mut discharged = 0;
        if has_room && let Some(own) = centrifuge(link) {
            discharged = std::mem::replace(&mut own.info, info).text().len();
        }
        link.pool().discharge(discharged);
        has_room
    }
}

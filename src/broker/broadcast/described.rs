//! Clients and data of the application, as Centrifuge's protocol has them.

use echoring_auth::{AppData, Info};
use echoring_topics::{ClientId, Profile, Publication};
use echoring_wire::centrifuge::{ClientInfo, Payload};

/// A client, as the protocol has it.
pub(super) struct Described<'a> {
    pub(super) client: String,
    pub(super) user: &'a str,
    /// About its connection, and about its subscription.
    data: [Option<AppData>; 2],
}

impl<'a> Described<'a> {
    pub(super) fn new(client: ClientId, profile: Profile<'a>) -> Described<'a> {
        let data = [profile.connection(), profile.channel()].map(Info::data_of);
        Described { client: client.to_string(), user: profile.subject(), data }
    }

    /// The author of a message, if it names one.
    #[inline]
    pub(super) fn author(message: &Publication<'a>) -> Option<Described<'a>> {
        message.author.read().map(|(client, profile)| Described::new(client, profile))
    }

    pub(super) fn info(&self) -> ClientInfo<'_> {
        let [connection, channel] = self.data.each_ref().map(|data| data.as_ref().map(app_payload));
        ClientInfo { user: self.user, client: &self.client, connection, channel }
    }
}

/// Data of the application.
pub(super) fn app_payload(data: &AppData) -> Payload<'_> {
    match data {
        AppData::Json(value) => Payload::Json(value),
        AppData::Bytes(bytes) => Payload::of_bytes(bytes),
    }
}

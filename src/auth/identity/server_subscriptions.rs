//! Server-side subscriptions: those that the application makes for a client of Centrifuge's protocol, by claims of its token or by
//! the answer to the connect hook.

use std::collections::BTreeMap;
use std::fmt;

use echoring_topics::limits::TOPIC_BYTES_MAX;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::identity::app_data::AppData;
use crate::identity::info::Info;
use crate::identity::memory::allocated;
use crate::limits::SERVER_SUBSCRIPTIONS_MAX;

/// A subscription that the application makes for a client.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerSubscription {
    /// The topic.
    pub channel: Box<str>,
    /// Data for the client.
    pub data: Option<AppData>,
    /// Data about the client in this topic, for others to see.
    pub info: Info,
    /// When it expires, in seconds since 1970; `None` if it does not. Credentials and the connect hook set none.
    pub expire_at: Option<u64>,
}

// The data are the application's.
impl fmt::Debug for ServerSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSubscription").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// All of a client, by their topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerSubscriptions(pub(super) Box<[ServerSubscription]>);

/// The options of a subscription. Those that are not here have no effect.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: Option<String>,
}

/// The members `channels` and `subs` of the application's answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Listed<'a> {
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    subs: Option<BTreeMap<String, Options<'a>>>,
}

impl Listed<'_> {
    /// The subscriptions; `None` if there are too many, or one of them is malformed. A topic that is in both lists has the options
    /// of `subs`.
    pub(crate) fn subscriptions(self) -> Option<ServerSubscriptions> {
        let plain = |channel| (channel, (None, Info::default()));
        let mut all: BTreeMap<String, (Option<AppData>, Info)> =
            self.channels.unwrap_or_default().into_iter().map(plain).collect();
        for (channel, Options { data, b64data, info, b64info }) in self.subs.unwrap_or_default() {
            all.insert(channel, (AppData::read(data, b64data).ok()?, Info::read(info, b64info)?));
        }
        let is_named = |channel: &String| (1..=TOPIC_BYTES_MAX).contains(&channel.len());
        let is_fit = all.len() <= SERVER_SUBSCRIPTIONS_MAX && all.keys().all(is_named);
        let one = |(channel, (data, info)): (String, _)| ServerSubscription {
            channel: channel.into(),
            data,
            info,
            expire_at: None,
        };
        is_fit.then(|| ServerSubscriptions(all.into_iter().map(one).collect()))
    }
}

impl ServerSubscriptions {
    /// The subscriptions.
    pub fn as_slice(&self) -> &[ServerSubscription] {
        &self.0
    }

    /// Bytes that they hold, with the allocator's overhead.
    pub(crate) fn held_bytes(&self) -> usize {
        let one = |subscription: &ServerSubscription| {
            let data = subscription.data.as_ref().map_or(0, |data| allocated(data.bytes().len()));
            allocated(subscription.channel.len()) + data + allocated(subscription.info.text().len())
        };
        allocated(size_of_val(&*self.0)) + self.0.iter().map(one).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Vec<(String, Option<AppData>)>> {
        let listed: Listed<'_> = serde_json::from_str(json).ok()?;
        let all = listed.subscriptions()?;
        Some(all.0.into_iter().map(|one| (one.channel.into(), one.data)).collect())
    }

    #[test]
    fn channels_and_subs_are_one_list() {
        let json = |text: &str| Some(AppData::Json(text.as_bytes().to_vec()));
        let all = read(
            r#"{"channels":["b","a","b"],"subs":{"c":{"b64data":"/w=="},"a":{"data":{"x":1},"info":7}}}"#,
        );
        let expected = [("a", json(r#"{"x":1}"#)), ("b", None), ("c", Some(AppData::Bytes(vec![255])))];
        assert_eq!(all, Some(expected.map(|(name, data)| (name.to_owned(), data)).to_vec()));
        assert_eq!(read(r#"{"channels":null,"other":1}"#), Some(Vec::new()));
    }

    #[test]
    fn malformed_lists_and_too_long_ones_are_refused() {
        let long = "c".repeat(TOPIC_BYTES_MAX + 1);
        let many: Vec<String> =
            (0..=SERVER_SUBSCRIPTIONS_MAX).map(|number| format!("\"{number}\"")).collect();
        for json in [
            r#"{"channels":"a"}"#,
            r#"{"channels":[7]}"#,
            r#"{"channels":[""]}"#,
            r#"{"subs":["a"]}"#,
            r#"{"subs":{"a":{"b64data":"?"}}}"#,
            &format!(r#"{{"channels":["{long}"]}}"#),
            &format!(r#"{{"channels":[{}]}}"#, many.join(",")),
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn what_they_hold_is_counted() {
        let held = |data: usize| {
            let data = Some(AppData::Json(vec![b'1'; data]));
            let one =
                ServerSubscription { channel: "a".into(), data, info: Info::default(), expire_at: None };
            ServerSubscriptions(Box::new([one])).held_bytes()
        };
        assert!(held(1_000) >= held(1) + 984);
        assert_eq!(ServerSubscriptions::default().held_bytes(), 0);
    }
}

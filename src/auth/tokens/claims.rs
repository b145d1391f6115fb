//! The claims of a verified token (RFC 7519), and the same members of the hook's answer.

use serde_json::{Map, Value};

use crate::credentials::secret::sha256;
use crate::identity::info::Info;
use crate::identity::patterns::Patterns;
use crate::identity::server_subscriptions::{Listed, ServerSubscriptions};
use crate::identity::{Identity, Method, Right, Rights};

/// The names of the claims, and which are required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimRules {
    /// The accepted audiences. Without any, a token with an audience is meant for another service.
    pub(crate) audience: Vec<String>,
    /// The accepted issuers; empty for all.
    pub(crate) issuer: Vec<String>,
    /// Seconds that clocks may differ.
    pub(crate) leeway: u64,
    /// Whether a token has to expire.
    pub(crate) requires_expiry: bool,
    /// The claim with the patterns of each right.
    pub(crate) names: [String; 4],
}

/// The claim that makes a token one of a subscription.
const CHANNEL: &str = "channel";
/// The claim with the id of a token, by which it can be blocked.
const TOKEN_ID: &str = "jti";
/// The claims with server-side subscriptions.
const CHANNELS: &str = "channels";
const SUBS: &str = "subs";

/// The rights of a subscription token: to subscribe to one topic.
#[derive(Clone, PartialEq, Eq)]
pub struct SubscriptionGrant {
    /// The topic.
    pub channel: Box<str>,
    /// The subject of the client; empty for one without credentials.
    pub subject: Box<str>,
    /// The id of the client, if the token is for one connection.
    pub client: Option<Box<str>>,
    /// When the subscription expires, in seconds since 1970; `None` if it does not.
    pub expires_at: Option<u64>,
    /// Data for the client, a JSON value.
    pub data: Option<Vec<u8>>,
    /// Data about the client in the topic, for others to see.
    pub info: Info,
}

// The subject is personal data.
opaque!(SubscriptionGrant);

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadClaim {
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYet,
    /// It is for another audience or from another issuer.
    Foreign,
    /// A claim is missing or has the wrong type.
    Malformed,
}

impl Default for ClaimRules {
    fn default() -> ClaimRules {
        let names = Right::ALL.map(|right| right.word().to_owned());
        ClaimRules { audience: Vec::new(), issuer: Vec::new(), leeway: 0, requires_expiry: true, names }
    }
}

impl ClaimRules {
    /// The client of a verified token at the time `now`, in seconds since 1970.
    pub(crate) fn identity(&self, claims: &Map<String, Value>, now: u64) -> Result<Identity, BadClaim> {
        let expires = self.check_times(claims, now)?;
        self.check_parties(claims)?;
        if claims.get(CHANNEL).is_some_and(Value::is_string) && !self.names.iter().any(|name| name == CHANNEL)
        {
            // It is for one subscription, and no credential of a client.
            return Err(BadClaim::Foreign);
        }
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(BadClaim::Malformed)?;
        let rights = rights(claims, &self.names).ok_or(BadClaim::Malformed)?;
        let identity = Identity::new(subject, Method::Jwt, rights, expires).ok_or(BadClaim::Malformed)?;
        let identity = match claims.get(TOKEN_ID).and_then(Value::as_str) {
            Some(id) => identity.with_credential(sha256(id.as_bytes())),
            None => identity,
        };
        let subscriptions = self.subscriptions(claims).ok_or(BadClaim::Malformed)?;
        let info = info(claims).ok_or(BadClaim::Malformed)?;
        Ok(identity.with_subscriptions(subscriptions).with_info(info))
    }

    /// The server-side subscriptions of a token; `None` if they are malformed. A claim with the name of a right's is not theirs.
    fn subscriptions(&self, claims: &Map<String, Value>) -> Option<ServerSubscriptions> {
        let is_theirs = |name: &str| claims.contains_key(name) && !self.names.iter().any(|own| own == name);
        let mut listed = Map::new();
        for name in [CHANNELS, SUBS].into_iter().filter(|name| is_theirs(name)) {
            listed.insert(name.to_owned(), claims[name].clone());
        }
        if listed.is_empty() {
            return Some(ServerSubscriptions::default());
        }
        let text = serde_json::to_string(&listed).ok()?;
        serde_json::from_str::<Listed<'_>>(&text).ok()?.subscriptions()
    }

    /// The rights of a verified subscription token at the time `now`.
    pub(crate) fn subscription(
        &self,
        claims: &Map<String, Value>,
        now: u64,
    ) -> Result<SubscriptionGrant, BadClaim> {
        let expires = self.check_times(claims, now)?;
        self.check_parties(claims)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let expires_at = match claims.get("expire_at").filter(|claim| !claim.is_null()) {
            None => expires,
            Some(claim) => Some(date(Some(claim)).ok_or(BadClaim::Malformed)?).filter(|at| *at > 0),
        };
        let data = claims.get("data").filter(|data| !data.is_null());
        Ok(SubscriptionGrant {
            channel: text(CHANNEL).ok_or(BadClaim::Malformed)?.into(),
            subject: text("sub").unwrap_or_default().into(),
            client: text("client").filter(|client| !client.is_empty()).map(Into::into),
            expires_at,
            data: data.and_then(|data| serde_json::to_vec(data).ok()),
            info: info(claims).ok_or(BadClaim::Malformed)?,
        })
    }

    /// When a token expires, leeway included; `None` if it does not.
    fn check_times(&self, claims: &Map<String, Value>, now: u64) -> Result<Option<u64>, BadClaim> {
        let expires = match claims.get("exp") {
            None if !self.requires_expiry => None,
            claim => Some(date(claim).ok_or(BadClaim::Malformed)?.saturating_add(self.leeway)),
        };
        if expires.is_some_and(|expires| expires <= now) {
            return Err(BadClaim::Expired);
        }
        if let Some(claim) = claims.get("nbf") {
            let from = date(Some(claim)).ok_or(BadClaim::Malformed)?;
            if from > now.saturating_add(self.leeway) {
                return Err(BadClaim::NotYet);
            }
        }
        Ok(expires)
    }

    fn check_parties(&self, claims: &Map<String, Value>) -> Result<(), BadClaim> {
        let is_audience =
            |name: &Value| name.as_str().is_some_and(|name| self.audience.iter().any(|own| own == name));
        let is_ours = match claims.get("aud") {
            None => self.audience.is_empty(),
            Some(Value::Array(names)) => names.iter().any(is_audience),
            Some(name) => is_audience(name),
        };
        let issuer = claims.get("iss").and_then(Value::as_str);
        let is_trusted = self.issuer.is_empty() || self.issuer.iter().any(|own| Some(own.as_str()) == issuer);
        if is_ours && is_trusted { Ok(()) } else { Err(BadClaim::Foreign) }
    }
}

/// The data for others to see; `None` if they are malformed or too long.
fn info(claims: &Map<String, Value>) -> Option<Info> {
    let json = claims.get("info").map(serde_json::value::to_raw_value).transpose().ok()?;
    let bytes = match claims.get("b64info").filter(|claim| !claim.is_null()) {
        None => None,
        Some(claim) => Some(claim.as_str()?.to_owned()),
    };
    Info::read(json.as_deref(), bytes)
}

/// The topics that `claims` name, under the names of each right. `None` if one of them is malformed.
pub(crate) fn rights(claims: &Map<String, Value>, names: &[String; 4]) -> Option<Rights> {
    let [subscribe, publish, presence, history] = names.each_ref().map(|name| {
        // A `null` claim is as if it were not there.
        match claims.get(name).filter(|claim| !claim.is_null()) {
            None => Some(None),
            Some(claim) => Patterns::of_claim(claim).map(Some),
        }
    });
    Some(Rights {
        subscribe: subscribe?.unwrap_or_default(),
        publish: publish?.unwrap_or_default(),
        presence: presence?,
        history: history?,
    })
}

/// A `NumericDate`: seconds since 1970, perhaps with a fraction.
fn date(claim: Option<&Value>) -> Option<u64> {
    let claim = claim?;
    let fraction =
        || claim.as_f64().filter(|seconds| (0.0..1e18).contains(seconds)).map(|seconds| seconds as u64);
    claim.as_u64().or_else(fraction)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_000;

    fn identity(rules: &ClaimRules, claims: Value) -> Result<Identity, BadClaim> {
        rules.identity(claims.as_object().expect("an object"), NOW)
    }

    #[test]
    fn times_are_checked_with_the_leeway() {
        let rules = ClaimRules { leeway: 10, ..ClaimRules::default() };
        for (claims, expected) in [
            (json!({"sub": "a", "exp": 991}), Ok(())),
            (json!({"sub": "a", "exp": 990}), Err(BadClaim::Expired)),
            (json!({"sub": "a", "exp": 991.9}), Ok(())),
            (json!({"sub": "a", "exp": 2000, "nbf": 1010}), Ok(())),
            (json!({"sub": "a", "exp": 2000, "nbf": 1011}), Err(BadClaim::NotYet)),
            (json!({"sub": "a"}), Err(BadClaim::Malformed)),
            (json!({"sub": "a", "exp": "2000"}), Err(BadClaim::Malformed)),
            (json!({"sub": "a", "exp": -1}), Err(BadClaim::Malformed)),
            (json!({"sub": "a", "exp": null}), Err(BadClaim::Malformed)),
            (json!({"sub": "a", "exp": u64::MAX}), Ok(())),
            (json!({"sub": "a", "exp": 1e300}), Err(BadClaim::Malformed)),
            (json!({"sub": "a", "exp": 2000, "nbf": "1"}), Err(BadClaim::Malformed)),
            (json!({"sub": "a", "exp": 2000, "nbf": null}), Err(BadClaim::Malformed)),
            (json!({"exp": 2000}), Err(BadClaim::Malformed)),
            (json!({"sub": 7, "exp": 2000}), Err(BadClaim::Malformed)),
            (json!({"sub": "", "exp": 2000}), Err(BadClaim::Malformed)),
            (json!({"sub": "a\u{0}", "exp": 2000}), Err(BadClaim::Malformed)),
        ] {
            assert_eq!(identity(&rules, claims.clone()).map(|_| ()), expected, "{claims}");
        }
        let known = identity(&rules, json!({"sub": "a", "exp": 1500})).expect("valid");
        assert_eq!(known.expires_at(), Some(1510));
    }

    #[test]
    fn only_where_it_is_said_may_a_token_be_without_an_expiry() {
        let rules = ClaimRules { requires_expiry: false, ..ClaimRules::default() };
        let known = identity(&rules, json!({"sub": "a"})).expect("valid");
        assert_eq!(known.expires_at(), None);
        for (claims, expected) in [
            (json!({"sub": "a", "exp": 1000}), BadClaim::Expired),
            (json!({"sub": "a", "exp": null}), BadClaim::Malformed),
            (json!({"sub": "a", "nbf": 1001}), BadClaim::NotYet),
        ] {
            assert_eq!(identity(&rules, claims.clone()), Err(expected), "{claims}");
        }
        let grant = |claims: Value| rules.subscription(claims.as_object().expect("an object"), NOW);
        assert_eq!(grant(json!({"channel": "news"})).expect("valid").expires_at, None);
        let until = grant(json!({"channel": "news", "expire_at": 1500})).expect("valid");
        assert_eq!(until.expires_at, Some(1500));
    }

    #[test]
    fn a_token_is_for_its_audience_and_from_its_issuer_only() {
        let none = ClaimRules::default();
        let ours = ClaimRules {
            audience: vec!["us".to_owned()],
            issuer: vec!["https://idp".to_owned(), "other".to_owned()],
            ..ClaimRules::default()
        };
        let claims = |aud: Value, iss: Value| json!({"sub": "a", "exp": 2000, "aud": aud, "iss": iss});
        for (aud, iss, for_none, for_ours) in [
            (json!("us"), json!("https://idp"), false, true),
            (json!(["x", "us"]), json!("other"), false, true),
            (json!(["x"]), json!("https://idp"), false, false),
            (json!([]), json!("https://idp"), false, false),
            (json!("us"), json!("evil"), false, false),
            (json!("us"), json!(["https://idp"]), false, false),
            (json!(null), json!("https://idp"), false, false),
        ] {
            let claims = claims(aud, iss);
            assert_eq!(identity(&none, claims.clone()).is_ok(), for_none, "{claims}");
            assert_eq!(identity(&ours, claims.clone()).is_ok(), for_ours, "{claims}");
        }
        let plain = json!({"sub": "a", "exp": 2000});
        assert!(identity(&none, plain.clone()).is_ok());
        assert_eq!(identity(&ours, plain), Err(BadClaim::Foreign));
    }

    #[test]
    fn a_token_of_a_subscription_is_for_one_topic_and_no_credential() {
        let rules = ClaimRules { leeway: 10, ..ClaimRules::default() };
        let grant = |claims: Value| rules.subscription(claims.as_object().expect("an object"), NOW);
        let claims = json!({"sub": "a", "exp": 2000, "channel": "news"});
        let known = grant(claims.clone()).expect("valid");
        assert_eq!((&*known.channel, &*known.subject, known.expires_at), ("news", "a", Some(2010)));
        assert_eq!(identity(&rules, claims.clone()), Err(BadClaim::Foreign));
        let names = ["channel", "publish", "presence", "history"].map(str::to_owned);
        assert!(
            identity(&ClaimRules { names, ..ClaimRules::default() }, claims).is_ok(),
            "its claim of a right"
        );
        for (more, expires_at) in [(json!(0), None), (json!(1500), Some(1500)), (json!(null), Some(2010))] {
            let claims =
                json!({"exp": 2000, "channel": "news", "expire_at": more, "client": "7f", "data": [1]});
            let known = grant(claims).expect("valid");
            assert_eq!(
                (known.expires_at, known.client.as_deref(), known.data),
                (expires_at, Some("7f"), Some(b"[1]".to_vec()))
            );
        }
        for (claims, expected) in [
            (json!({"channel": "news"}), BadClaim::Malformed),
            (json!({"channel": "news", "exp": 990}), BadClaim::Expired),
            (json!({"channel": "news", "exp": 2000, "nbf": 1100}), BadClaim::NotYet),
            (json!({"channel": "news", "exp": 2000, "aud": "x"}), BadClaim::Foreign),
            (json!({"channel": 7, "exp": 2000}), BadClaim::Malformed),
            (json!({"sub": "a", "exp": 2000}), BadClaim::Malformed),
            (json!({"channel": "news", "exp": 2000, "expire_at": "x"}), BadClaim::Malformed),
        ] {
            assert_eq!(grant(claims.clone()), Err(expected), "{claims}");
        }
    }

    #[test]
    fn a_token_may_have_server_side_subscriptions() {
        let rules = ClaimRules::default();
        let with = |more: Value| {
            let mut claims = json!({"sub": "a", "exp": 2000});
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let known = identity(&rules, claims)?;
            let channels = known.subscriptions().as_slice().iter().map(|one| one.channel.to_string());
            Ok(channels.collect::<Vec<_>>())
        };
        assert_eq!(
            with(json!({"channels": ["b", "a"], "subs": {"c": {"data": 1}}})),
            Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
        );
        assert_eq!(with(json!({"channels": null})), Ok(Vec::new()));
        assert_eq!(with(json!({"channels": "a"})), Err(BadClaim::Malformed));
        let names = ["channels", "publish", "presence", "history"].map(str::to_owned);
        let named = ClaimRules { names, ..ClaimRules::default() };
        let known = identity(&named, json!({"sub": "a", "exp": 2000, "channels": "a.*"})).expect("valid");
        assert!(known.subscriptions().as_slice().is_empty(), "its claim of a right");
    }

    #[test]
    fn the_claims_with_topics_have_the_configured_names() {
        let names = ["https://e/sub", "https://e/pub", "p", "h"].map(str::to_owned);
        let rules = ClaimRules { names, ..ClaimRules::default() };
        let claims =
            json!({"sub": "a", "exp": 2000, "https://e/sub": "a.*", "https://e/pub": ["b"], "publish": "x"});
        let known = identity(&rules, claims).expect("valid");
        assert!(known.rights().name(Right::Subscribe, "a.b") && known.rights().name(Right::Publish, "b"));
        assert!(!known.rights().name(Right::Publish, "x"));
        let malformed = json!({"sub": "a", "exp": 2000, "https://e/sub": 7});
        assert_eq!(identity(&rules, malformed), Err(BadClaim::Malformed));
    }
}

//! The options that limit clients: proxies that are trusted, limits per address and per connection, and bans.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{bytes, count};
use super::options::{ConfigOption, Configurable, Options, options};
use super::reload::Reload;
use crate::common::values::{self, Word};
use echoring_proto::connection::nanos;
use echoring_runtime::admission::{AddressBlock, BanPolicy, PeerLimits, RateAction, TrustedProxies};
use echoring_runtime::limits::{BAN_TIME_DEFAULT, BAN_WINDOW_DEFAULT};

pub(super) const HEADING: &str = "Limits on clients";

/// Both times of a ban.
const BAN_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3_600);

/// The options that limit clients.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct PeerArgs {
    /// Trust this proxy, or all in this block, to report the addresses of its clients; repeatable
    ///
    /// An address, a block such as 10.0.0.0/8, or unix for all that connect through Unix sockets. Forwarded and
    /// X-Forwarded-For from others are ignored. See docs/reference/limits.md#client-addresses.
    #[arg(long, add = Reload::Live, value_name = "CIDR|unix", value_parser = trusted)]
    trusted_proxy: Vec<Trusted>,

    /// Expect a header of the PROXY protocol, version 1 or 2, on every connection of --trusted-proxy
    ///
    /// A connection of a trusted proxy without it is closed. Other connections must not send one.
    #[arg(long, add = Reload::Live)]
    proxy_protocol: bool,

    #[command(flatten)]
    limits: Options<PeerLimits>,

    /// Action when a connection sends more than --message-rate or --byte-rate
    #[arg(long, add = Reload::Live, value_parser = values::one_of(RATE_ACTIONS), default_value = "pause")]
    rate_action: RateAction,

    /// Ban an address that exceeded its limits this many times within --ban-window
    ///
    /// Its connections are closed as soon as they are accepted. Wrong passwords count, pauses of --rate-action do not.
    #[arg(long, add = Reload::Live, value_name = "N", value_parser = values::number_in(1..=1_000_000))]
    ban_after: Option<u32>,

    /// Time window of --ban-after
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = values::shown_time(BAN_WINDOW_DEFAULT),
        value_parser = values::duration_in(BAN_TIMES),
    )]
    ban_window: Duration,

    /// Duration of a ban
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = values::shown_time(BAN_TIME_DEFAULT),
        value_parser = values::duration_in(BAN_TIMES),
    )]
    ban_time: Duration,
}

impl Configurable for PeerLimits {
    const OPTIONS: &'static [ConfigOption<PeerLimits>] = options!(PeerLimits {
        /// Maximum number of connections of one address; further ones are refused with 429
        ///
        /// The /64 of an IPv6 address counts as one address.
        max_connections_per_address [Live "N"]: count(1..=16_777_216) => addresses.max_connections_per_address;
        /// Maximum number of handshakes of one address per second; further ones are refused with 429
        handshake_rate_per_address [Live "N"]: count(1..=1_000_000) => addresses.handshake_rate_per_address;
        /// Maximum number of handshakes per second; further ones are refused with 503
        handshake_rate [Live "N"]: count(1..=10_000_000) => addresses.handshake_rate;
        /// Maximum number of messages that a connection sends per second
        message_rate [Live "N"]: count(1..=100_000_000) => traffic.message_rate;
        /// Maximum bytes that a connection sends per second
        byte_rate [Live "BYTES"]: bytes(64..=1 << 40) => traffic.byte_rate;
        /// Maximum number of messages that a connection publishes to topics per second
        ///
        /// A session of echoring.v1.json gets the error rate-limited; a raw connection is closed with 1008.
        publish_rate [Live "N"]: count(1..=100_000_000) => topics.publish_rate;
        /// Maximum number of messages that all connections of an identity publish to topics per second
        ///
        /// An identity is a subject of [auth].
        publish_rate_per_identity [Live "N"]: count(1..=100_000_000) => topics.publish_rate_per_identity;
        /// Maximum number of topics that a connection subscribes to per second
        ///
        /// By default, a session may subscribe to four times as many as --max-subscriptions, and to at least 512. A session of echoring.v1.json gets the error
        /// rate-limited; a raw connection and an event stream are refused with 429.
        subscribe_rate [Live "N"]: count(1..=100_000_000) => topics.subscribe_rate;
        /// Maximum number of topics that all connections of an identity subscribe to per second
        subscribe_rate_per_identity [Live "N"]: count(1..=100_000_000) => topics.subscribe_rate_per_identity;
        /// Maximum number of topics that all connections of an identity subscribe to together
        ///
        /// Each connection counts: two connections to one topic are two subscriptions.
        max_subscriptions_per_identity [Live "N"]: count(1..=16_777_216) => topics.max_subscriptions_per_identity;
        /// Maximum number of open connections of an identity; further ones are refused with 429
        ///
        /// An identity is a subject of [auth], or a user that --hooks-connect names. A session of Centrifuge's protocol gets the error 106.
        max_connections_per_identity [Live "N"]: count(1..=16_777_216) => topics.max_connections_per_identity;
    });
}

/// Who is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trusted {
    Block(AddressBlock),
    Unix,
}

fn trusted(word: &str) -> Result<Trusted, String> {
    match word {
        "unix" => Ok(Trusted::Unix),
        block => block
            .parse()
            .map(Trusted::Block)
            .map_err(|bad: echoring_runtime::admission::BadBlock| bad.to_string()),
    }
}

/// What happens to a connection that sends too much.
const RATE_ACTIONS: &[Word<RateAction>] = &[
    ("pause", "It is not read until it may send again", RateAction::Pause),
    ("close", "It is closed with 1008", RateAction::Close),
];

impl PeerArgs {
    /// The limits.
    pub(super) fn limits(&self) -> Arc<PeerLimits> {
        let mut limits = self.limits.0.clone();
        limits.traffic.rate_action = self.rate_action;
        let (window, time) = (nanos(self.ban_window), nanos(self.ban_time));
        limits.addresses.bans = self.ban_after.map(|after| BanPolicy { after, window, time });
        limits.proxies = self.proxies();
        Arc::new(limits)
    }

    fn proxies(&self) -> TrustedProxies {
        let blocks = self.trusted_proxy.iter().filter_map(|trusted| match trusted {
            Trusted::Block(block) => Some(*block),
            Trusted::Unix => None,
        });
        TrustedProxies {
            blocks: blocks.collect(),
            unix: self.trusted_proxy.contains(&Trusted::Unix),
            proxy_protocol: self.proxy_protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;
    use crate::serve::config::tests::settings;
    use echoring_runtime::admission::Rate;

    #[test]
    fn without_options_nobody_is_limited_and_nobody_is_trusted() {
        assert!(settings("", &[]).expect("valid").server.peers.is_none());
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let text = r#"
            trusted_proxy = ["10.0.0.0/8", "unix", "2001:db8::1"]
            proxy_protocol = true
            max_connections_per_address = 50
            handshake_rate_per_address = 10
            handshake_rate = 2000
            message_rate = 100
            byte_rate = "64KiB"
            rate_action = "close"
            publish_rate = 20
            publish_rate_per_identity = 40
            subscribe_rate = 45
            subscribe_rate_per_identity = 50
            max_subscriptions_per_identity = 60
            max_topics_per_identity = 70
            ban_after = 20
            ban_window = "30s"
            ban_time = "5m"
        "#;
        let flags = [
            "--trusted-proxy=10.0.0.0/8",
            "--trusted-proxy=unix",
            "--trusted-proxy=2001:db8::1",
            "--proxy-protocol",
            "--max-connections-per-address=50",
            "--handshake-rate-per-address=10",
            "--handshake-rate=2000",
            "--message-rate=100",
            "--byte-rate=64KiB",
            "--rate-action=close",
            "--publish-rate=20",
            "--publish-rate-per-identity=40",
            "--subscribe-rate=45",
            "--subscribe-rate-per-identity=50",
            "--max-subscriptions-per-identity=60",
            "--max-topics-per-identity=70",
            "--ban-after=20",
            "--ban-window=30s",
            "--ban-time=5m",
        ];
        let (file, typed) = (settings(text, &[]).expect("valid"), settings("", &flags).expect("valid"));
        assert_eq!(file.server.peers, typed.server.peers);
        let PeerLimits { addresses, traffic, topics, proxies, .. } = (*file.server.peers).clone();
        assert_eq!(
            (addresses.max_connections_per_address, addresses.bans.expect("bans").after),
            (Some(50), 20)
        );
        assert_eq!((traffic.byte_rate, traffic.rate_action), (Rate::per_second(1 << 16), RateAction::Close));
        assert_eq!(topics.publish_rate_per_identity, Rate::per_second(40));
        assert_eq!(topics.subscribe_rate, Rate::per_second(45));
        assert_eq!(topics.subscribe_rate_per_identity, Rate::per_second(50));
        assert_eq!(topics.max_subscriptions_per_identity, Some(60));
        let created = [&file, &typed].map(|settings| settings.server.creation.max_topics_per_identity);
        assert_eq!(created, [Some(70); 2]);
        assert!(proxies.unix && proxies.proxy_protocol && proxies.blocks.len() == 2);
        assert!(file.to_string().contains("\ntrusted_proxy = [\"10.0.0.0/8\", \"unix\", \"2001:db8::1\"]"));
    }

    #[test]
    fn options_without_effect_and_wrong_values_are_usage_errors() {
        for flags in [
            &["--proxy-protocol"][..],
            &["--rate-action=close"],
            &["--ban-window=7m"],
            &["--ban-time=7m", "--message-rate=5"],
            &["--trusted-proxy=10.0.0.1/8"],
            &["--trusted-proxy=proxy.example"],
            &["--ban-after=3"],
            &["--ban-after=3", "--message-rate=5"],
            &["--ban-after=0", "--handshake-rate-per-address=5"],
            &["--message-rate=0"],
            &["--byte-rate=1"],
            &["--max-connections-per-address=0"],
            &["--rate-action=drop"],
        ] {
            assert!(matches!(settings("", flags), Err(Failure::Usage(_))), "{flags:?} were taken");
        }
        for flags in [
            &["--ban-after=3", "--message-rate=5", "--rate-action=close"][..],
            &["--ban-after=3", "--auth-hook=http://127.0.0.1:1/"],
        ] {
            assert!(settings("", flags).is_ok(), "{flags:?} were refused");
        }
    }
}

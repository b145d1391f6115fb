//! One load, as data: its messages, its connections, its pace, and its validation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::churn::Churn;
use super::connecting::ConnectOptions;
use super::contradiction::{Contradiction, refuse};
use super::declared::with_defaults;
use super::flaw::Flaw;
use super::listening::Listening;
use super::mode::Mode;
use super::pace::Pace;
use super::payload::lines::Lines;
use super::payload::sizes::Spread;
use super::payload::style::{Form, Style};
use super::payload::{CONNECTIONS_MAX, Payloads};
use super::protocol::{CompiledProtocol, Protocol, REQUESTS_MAX};
use super::replay::Replay;
use super::rows::{RowOrder, Rows};
use super::schedule::profile::{Profile, RATE_MAX, RateStage, STAGE_TIME_MAX, STAGES_MAX};
use super::schedule::{Arrivals, BURST_MAX};
use super::target::turns;
use super::template::{BoundTemplate, Names, Template};
use super::timestamps::Timestamps;
use echoring_proto::connection::Compression;
use echoring_proto::limits::{MESSAGE_BYTES_MAX, MILLISECOND};
use echoring_runtime::limits::COMPRESSION_BYTES_DEFAULT;

/// Maximum number of messages in flight per sender.
pub const DEPTH_MAX: u32 = 8_192;
/// Maximum period of a rate in seconds: one message in 1,000 seconds is the lowest rate.
pub const RATE_PERIOD_S_MAX: u32 = 1_000;
/// The echo path when the URL has no path.
const ECHO_PATH: &str = "/echo";
/// The push path when the URL has no path.
const PUSH_PATH: &str = "/push";
/// The topic path when the URL has no path.
const TOPIC_PATH: &str = "/broadcast/{{topic}}";

/// Default time to wait for messages in flight at the end.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(5);
/// Default lateness at p99 above which the generator counts as saturated.
pub const MAX_LATENESS_DEFAULT: Duration = Duration::from_nanos(MILLISECOND);

/// The offer of permessage-deflate (RFC 7692) on every connection of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compress {
    /// The option as given, for the record.
    pub words: String,
    /// The offer, and how this side compresses; `None` offers nothing.
    pub compression: Option<Compression>,
    /// Memory limit of the compression contexts of all the generator's connections. A connection whose server needs
    /// more fails.
    pub context_bytes: u64,
}

impl Compress {
    /// No offer.
    pub fn off() -> Compress {
        Compress { words: "off".to_owned(), compression: None, context_bytes: COMPRESSION_BYTES_DEFAULT }
    }
}

/// Maximum rows of the sample of single messages of a run, all threads of all generators together: about 46 MiB.
pub const SAMPLES_MAX: usize = 500_000;

with_defaults! {
    /// One load, as data that can be serialised. A deserialised load must be [checked](Workload::check); missing fields
    /// have their defaults, which are echoes of 64 bytes of text on one connection, one message at a time, for 10 s
    /// without warm-up.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Workload {
        /// The kind of load.
        pub mode: Mode = Mode::Echo,
        /// Connections, publishers included; in connect mode, the maximum number of concurrent ones.
        pub connections: u32 = 1,
        /// Of those, publishers; broadcast mode only.
        pub publishers: u32 = 0,
        /// Topics that publishers and subscribers are spread over; broadcast mode only.
        pub topics: u32 = 0,
        /// Subscribers that read slowly or not at all once the measured time begins; broadcast mode only.
        pub stalled: u32 = 0,
        /// Bytes per second that slow subscribers read on average; `None` reads nothing.
        pub trickle: Option<u64> = None,
        /// Measured time.
        pub duration: Duration = Duration::from_secs(10),
        /// Time before the measured time, in which the load runs without being recorded.
        pub warmup: Duration = Duration::ZERO,
        /// Whether the warm-up ends before, as soon as the load is steady.
        pub finds_warmup: bool = false,
        /// Smallest and largest payload.
        pub message_bytes: (usize, usize) = (64, 64),
        /// Distribution of sizes between the two.
        pub spread: Spread = Spread::Even,
        /// The protocol of the messages, which contain the payloads; `None` sends the payloads themselves.
        pub protocol: Option<Protocol> = None,
        /// Further protocols: connections or sessions are dealt out among all by their weights.
        pub more_protocols: Vec<Protocol> = Vec::new(),
        /// Data for templates, a row for each connection.
        pub rows: Option<Rows> = None,
        /// Whether every message is shown to the caller; for runs of one connection.
        pub traces: bool = false,
        /// Content of payloads.
        pub style: Style = Style::Text,
        /// Lines of a file as payloads, with their own sizes; echo and connect mode only.
        pub lines: Option<Lines> = None,
        /// When messages are sent.
        pub pace: Pace = Pace::Depth(1),
        /// The period of a [`Pace::Rate`] in seconds: 1, or more for less than a message a second.
        pub rate_period_s: u32 = 1,
        /// How an open loop spreads its messages over time.
        pub arrivals: Arrivals = Arrivals::Even,
        /// Messages per burst of an open-loop sender, at the same mean rate; 1 disables bursts.
        pub burst: u32 = 1,
        /// The part of the warm-up in which the rate of an open loop rises from zero.
        pub ramp: Duration = Duration::ZERO,
        /// How long messages in flight at the end are awaited before they count as lost.
        pub drain: Duration = DRAIN_DEFAULT,
        /// Messages with a longer response time count as late.
        pub late_after: Option<Duration> = None,
        /// Whether a saturated generator is not a failure.
        pub allow_saturated: bool = false,
        /// Lateness at p99 above which the generator counts as saturated.
        pub max_lateness: Duration = MAX_LATENESS_DEFAULT,
        /// Whether and how messages are compressed.
        pub compress: Compress = Compress::off(),
        /// Whose times of messages are used.
        pub timestamps: Timestamps = Timestamps::default(),
        /// Interval of the pings that each connection sends in addition to the load.
        pub ping_every: Option<Duration> = None,
        /// How connections are opened.
        #[serde(rename = "dialling")]
        pub connecting: ConnectOptions = ConnectOptions::default(),
        /// How connections come and go while the load runs.
        pub churn: Churn = Churn::default(),
        /// The recording that is replayed; [`Mode::Replay`] only. It is not serialised, because a recording may be large.
        #[serde(skip)]
        pub replay: Option<Replay> = None,
        /// Options of listeners.
        pub listening: Listening = Listening::default(),
        /// Whether received messages are checked.
        pub verify: bool = true,
        /// The share of single messages that a sample has; none is taken if it is missing.
        pub sample_share: Option<f64> = None,
        /// Maximum rows of that sample, up to [`SAMPLES_MAX`].
        pub sample_rows_max: usize = SAMPLES_MAX,
        /// Flaws that do not fail the run.
        pub allow: Vec<Flaw> = Vec::new(),
        /// Seed of all payloads and arrivals.
        pub seed: u64 = 1,
    }
}

impl Workload {
    /// Validates the load.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub fn check(&self) -> Result<(), Contradiction> {
        let is_possible = (1..=CONNECTIONS_MAX).contains(&self.connections);
        refuse(!is_possible, "--connections", format!("expected 1 to {CONNECTIONS_MAX}"))?;
        let has_no_time = self.duration.is_zero() && self.pace.stages().is_empty();
        refuse(has_no_time, "--duration", "expected a time above 0, such as --duration 10s")?;
        self.check_pace()?;
        self.check_times()?;
        let (least, most) = self.message_bytes;
        refuse(least > most, "--message-bytes", "expected MIN..MAX with MIN not above MAX")?;
        let why = format!("expected at most {MESSAGE_BYTES_MAX} bytes");
        refuse(most as u64 > MESSAGE_BYTES_MAX, "--message-bytes", why)?;
        if self.lines.is_some() {
            let why = "a line has no publisher and no time, which broadcasts need, e.g. --mode echo \
                       --payload-file messages.ndjson";
            refuse(self.mode.form() == Form::Broadcast, "--payload-file", why)?;
        } else if self.senders() > 0 {
            let usage = Payloads::usage(self.style, self.mode.form(), least);
            usage.map_err(|why| Contradiction { flag: "--message-bytes", why })?;
        }
        if self.mode == Mode::Broadcast || self.has_topics() {
            self.check_broadcast()?;
        }
        self.check_replay()?;
        self.churn.check(self)?;
        self.connecting.check(self.mode, &self.pace, self.connections)?;
        self.check_data()?;
        self.check_protocol()?;
        self.listening.check(self.mode, &self.pace)
    }

    fn check_pace(&self) -> Result<(), Contradiction> {
        match &self.pace {
            Pace::Depth(depth) => {
                refuse(*depth == 0, "--depth", "expected at least 1 message in flight")?;
                let why = format!("expected at most {DEPTH_MAX} messages in flight");
                refuse(*depth > DEPTH_MAX, "--depth", why)?;
            }
            Pace::Rate(rate) => {
                refuse(*rate == 0, "--rate", "expected at least 1 message per second")?;
                let why = format!("expected at most {RATE_MAX} messages per second");
                refuse(*rate > RATE_MAX, "--rate", why)?;
            }
            Pace::Stages(stages) => self.check_stages(stages)?,
        }
        let is_possible = (1..=RATE_PERIOD_S_MAX).contains(&self.rate_period_s);
        let why = "expected at least one message in 1,000 seconds, such as --rate 0.5";
        refuse(!is_possible, "--rate", why)?;
        let is_fraction = self.rate_period_s > 1 && self.pace.rate().is_none();
        refuse(is_fraction, "--rate", "only --rate may be a fraction, such as --rate 0.5")
    }

    fn check_replay(&self) -> Result<(), Contradiction> {
        let Some(replay) = &self.replay else {
            let why = "name a recording, such as --replay recording.jsonl";
            return refuse(self.mode == Mode::Replay, "--replay", why);
        };
        refuse(self.mode != Mode::Replay, "--replay", "a recording sets the load: leave --mode out")?;
        replay.check()?;
        let differs = self.connections != replay.connections();
        refuse(differs, "--connections", "the recording sets the number: leave it out")?;
        let why = "the recording says when connections come and go: leave it out";
        refuse(self.churn.is_some(), "--lifetime", why)?;
        let why = "the recording has all messages: leave it out";
        refuse(self.protocol.is_some(), "--protocol", why)?;
        let why = "the recording says when messages are sent: use --replay-speed";
        refuse(self.pace.depth().is_none(), "--rate", why)
    }

    /// Validates the use of templates in the upgrade request and of the rows of the data.
    fn check_data(&self) -> Result<(), Contradiction> {
        for (name, value) in &self.connecting.headers {
            self.bind(value)
                .map_err(|why| Contradiction { flag: "--header", why: format!("{name}: {why}") })?;
        }
        if let Some(origin) = &self.connecting.origin {
            self.bind(origin).map_err(|why| Contradiction { flag: "--origin", why })?;
        }
        let Some(rows) = self.rows.as_ref().filter(|rows| rows.order == RowOrder::Once) else {
            return Ok(());
        };
        let why = format!(
            "{} connections need as many rows, and {} has {}, e.g. --data-order in-order",
            self.connections,
            rows.name(),
            rows.count()
        );
        let is_short = !self.mode.opens_when_due() && rows.count() < self.connections;
        refuse(is_short, "--data-order", why)
    }

    fn check_protocol(&self) -> Result<(), Contradiction> {
        let flag = "--protocol";
        let has_sessions = self.mode == Mode::Session;
        let why = "sessions arrive at a rate, such as --rate 20 or --stage 1m@20";
        refuse(has_sessions && self.pace.depth().is_some(), "--rate", why)?;
        let why = "sessions go through the conversation of a protocol, such as --protocol shop.toml";
        refuse(has_sessions && self.protocol.is_none(), flag, why)?;
        let has_requests = matches!(self.mode, Mode::Echo | Mode::Connect | Mode::Session);
        let why = "several are only for --mode echo, connect and session, and not for --try";
        refuse(!self.more_protocols.is_empty() && (!has_requests || self.traces), flag, why)?;
        let mut requests = 0;
        for protocol in self.protocols() {
            let compiled = protocol.compile(self.columns()).map_err(|why| Contradiction { flag, why })?;
            let name = &protocol.name;
            let has_none = has_requests && compiled.requests.is_empty();
            refuse(has_none, flag, format!("{name} has no requests; use --mode broadcast or --mode push"))?;
            let publishes = matches!(self.mode, Mode::Broadcast | Mode::Storm) && self.has_topics();
            let has_none = publishes && !protocol.has_topics();
            refuse(has_none, flag, format!("{name} has no topics; use --mode echo"))?;
            let thinks = protocol.has_think_times() && self.pace.depth().is_none() && !has_sessions;
            let why = format!(
                "{name} has think times, which need a closed loop or sessions; leave out --rate and --stage, or use \
                 --mode session"
            );
            refuse(thinks, flag, why)?;
            requests += compiled.requests.len();
        }
        let why = format!("expected at most {REQUESTS_MAX} requests in all protocols together");
        refuse(requests > REQUESTS_MAX, flag, why)
    }

    /// The protocols of the messages.
    pub fn protocols(&self) -> impl Iterator<Item = &Protocol> {
        self.protocol.iter().chain(&self.more_protocols)
    }

    /// The columns of the data.
    fn columns(&self) -> &[String] {
        self.rows.as_ref().map_or(&[], Rows::columns)
    }

    /// Looks up the names in a template of the upgrade request.
    pub(crate) fn bind(&self, template: &Template) -> Result<BoundTemplate, String> {
        let topics = self.has_topics();
        template.bind(&Names { columns: self.columns(), topics, ..Names::default() })
    }

    /// Whether messages or upgrade requests may contain wall clock times.
    pub(crate) fn needs_wall_clock(&self) -> bool {
        let ConnectOptions { headers, origin, .. } = &self.connecting;
        self.listening.time.is_some() || self.protocol.is_some() || !headers.is_empty() || origin.is_some()
    }

    /// The places of the protocols in turn, by their weights.
    pub(crate) fn protocol_turns(&self) -> Vec<u16> {
        turns(self.protocols().map(|protocol| protocol.weight))
    }

    /// The protocols that are declared. They were [checked](Workload::check).
    pub(crate) fn compiled_protocols(&self) -> Vec<CompiledProtocol> {
        let mut first_request = 0;
        let compiled = self.protocols().filter_map(|protocol| protocol.compile(self.columns()).ok());
        compiled
            .map(|mut compiled| {
                (compiled.takes_turns, compiled.first_request) = (self.traces, first_request);
                first_request += compiled.requests.len();
                compiled
            })
            .collect()
    }

    fn check_stages(&self, stages: &[RateStage]) -> Result<(), Contradiction> {
        let flag = "--stage";
        let is_possible = (1..=STAGES_MAX).contains(&stages.len());
        refuse(!is_possible, flag, format!("expected 1 to {STAGES_MAX} stages, such as --stage 30s@10k"))?;
        let is_empty = stages.iter().any(|stage| stage.time.is_zero());
        refuse(is_empty, flag, "a stage must be longer than 0, such as --stage 30s@10k")?;
        let is_fast = stages.iter().any(|stage| stage.from.max(stage.to) > RATE_MAX);
        let why = format!("expected at most {RATE_MAX} messages per second, such as --stage 30s@10k");
        refuse(is_fast, flag, why)?;
        let has_none = stages.iter().all(|stage| stage.from == 0 && stage.to == 0);
        let why = "at least one stage must have messages, such as --stage 10s@0 --stage 30s@10k";
        refuse(has_none, flag, why)?;
        let whole: Duration = stages.iter().map(|stage| stage.time).sum();
        let why = "expected at most 24h for all stages together, such as --stage 12h@10k --stage 12h@20k";
        refuse(whole > STAGE_TIME_MAX, flag, why)?;
        refuse(whole != self.duration, flag, "the stages must add up to the measured time")
    }

    /// Validates the times around the measured time, and bursts.
    fn check_times(&self) -> Result<(), Contradiction> {
        let follows = !self.pace.stages().is_empty() || matches!(self.mode, Mode::Storm | Mode::Replay);
        let why = "not with stages, storms and recordings, which begin at a given time: use a time such as --warmup 5s";
        refuse(self.finds_warmup && follows, "--warmup", why)?;
        let is_closed = self.pace.depth().is_some();
        let why = format!("expected 1 to {BURST_MAX} messages, such as --rate 10k --burst 20");
        refuse(!(1..=BURST_MAX).contains(&self.burst), "--burst", why)?;
        let why = "bursts need a rate, such as --rate 10k --burst 20";
        refuse(is_closed && self.burst > 1, "--burst", why)?;
        let why = "a ramp needs a rate, such as --rate 10k --ramp 5s";
        refuse(is_closed && !self.ramp.is_zero(), "--ramp", why)?;
        let why = "the ramp is part of the warm-up and must not exceed it, such as --rate 10k --ramp 5s --warmup 6s";
        refuse(self.ramp > self.warmup, "--ramp", why)?;
        let why = "a ramp needs a first stage with a rate above 0, such as --ramp 5s --stage 30s@10k";
        refuse(!self.ramp.is_zero() && self.first_rate() == Some(0), "--ramp", why)?;
        refuse(self.drain > STAGE_TIME_MAX, "--drain", "expected at most 24h, such as --drain 10s")?;
        let is_wrong = self.ping_every.is_some_and(|every| every.is_zero() || every > STAGE_TIME_MAX);
        let why = "expected a time above 0 and up to 24h, such as --ping-every 1s";
        refuse(is_wrong, "--ping-every", why)?;
        let is_zero = self.late_after.is_some_and(|bound| bound.is_zero());
        refuse(is_zero, "--late-after", "expected a time above 0, such as --late-after 100ms")
    }

    /// The rate at the start of the measured time.
    fn first_rate(&self) -> Option<u64> {
        self.pace.rate().or(self.pace.stages().first().map(|stage| stage.from))
    }

    /// The rate of an open loop over time, warm-up included.
    pub(crate) fn profile(&self) -> Option<Profile> {
        let first = self.first_rate()?;
        let steady = self.warmup.saturating_sub(self.ramp);
        let before = [
            RateStage { time: self.ramp, from: 0, to: first },
            RateStage { time: steady, from: first, to: first },
        ];
        Some(match &self.pace {
            Pace::Stages(stages) => Profile::new(before.into_iter().chain(stages.iter().copied()), None),
            // Constant from the start.
            _ if self.ramp.is_zero() => Profile::constant(first),
            _ => Profile::new(before, Some(first)),
        })
    }

    fn check_broadcast(&self) -> Result<(), Contradiction> {
        let Workload { connections, publishers, topics, stalled, .. } = *self;
        refuse(topics == 0, "--topics", "expected at least 1")?;
        let why = format!("{topics} topics need at least {topics} publishers");
        refuse(publishers < topics, "--publishers", why)?;
        let least = u64::from(publishers) + u64::from(topics);
        let why = format!("{publishers} publishers and a subscriber for each topic need at least {least}");
        refuse(u64::from(connections) < least, "--connections", why)?;
        let most = connections - publishers - topics;
        let why = format!("at least one subscriber of each topic must read: at most {most}");
        refuse(stalled > most, "--slow", why)?;
        let why = "expected at least 1 byte per second, such as --trickle 16KiB/s";
        refuse(self.trickle == Some(0), "--trickle", why)
    }

    /// The payloads of the run.
    pub(crate) fn payloads(&self) -> Payloads {
        match &self.lines {
            Some(lines) => Payloads::of_lines(self.seed, self.style, lines.clone()),
            None => Payloads::new(self.seed, self.style, self.mode.form(), self.message_bytes, self.spread),
        }
    }

    /// Whether publishers send to topics.
    pub fn has_topics(&self) -> bool {
        self.topics > 0
    }

    /// Whether connections only receive messages that the server sends by itself.
    pub(crate) fn only_listens(&self) -> bool {
        self.mode == Mode::Push || self.mode == Mode::Storm && !self.has_topics()
    }

    /// Whether messages are due at given times, whatever the answers are.
    pub fn is_open_loop(&self) -> bool {
        self.pace.depth().is_none() || self.mode == Mode::Replay
    }

    /// Whether connections open while the load runs, and none before.
    pub(crate) fn opens_later(&self) -> bool {
        !self.churn.ramp.is_zero() || self.mode == Mode::Replay
    }

    /// Connections that send.
    pub fn senders(&self) -> u32 {
        match self.mode {
            Mode::Echo | Mode::Connect | Mode::Session | Mode::Ping => self.connections,
            Mode::Broadcast | Mode::Storm => self.publishers,
            // A replay has a schedule of its own.
            Mode::Push | Mode::Replay => 0,
        }
    }

    /// The topic of a connection. Publishers have the lowest numbers.
    pub fn topic(&self, connection: u32) -> u32 {
        let position = if connection < self.publishers { connection } else { connection - self.publishers };
        position % self.topics.max(1)
    }

    /// Whether a connection is a slow subscriber. These have the highest numbers, so that they are spread over the
    /// topics.
    pub fn is_stalled(&self, connection: u32) -> bool {
        connection >= self.connections - self.stalled
    }

    /// Number of publishers of a topic.
    pub(crate) fn publishers_of(&self, topic: u32) -> u32 {
        (self.publishers - topic).div_ceil(self.topics.max(1))
    }

    /// Average deliveries of a message to connections that read and are timed.
    pub(crate) fn deliveries_per_message(&self) -> f64 {
        if !self.has_topics() {
            return 1.0;
        }
        let mut readers = vec![0_u64; self.topics.max(1) as usize];
        for connection in (self.publishers..self.connections).filter(|&c| !self.is_stalled(c)) {
            readers[self.topic(connection) as usize] += 1;
        }
        let deliveries: u64 =
            (0..).zip(&readers).map(|(topic, readers)| readers * u64::from(self.publishers_of(topic))).sum();
        deliveries as f64 / f64::from(self.publishers.max(1))
    }

    /// The name of a topic. The seed separates runs on the same server.
    pub(crate) fn topic_name(&self, topic: u32) -> String {
        format!("bench-{:08x}-{topic}", self.seed as u32)
    }

    /// The request target of connections of a protocol where the URL has none.
    pub(crate) fn default_path(&self, protocol: Option<&Protocol>) -> Template {
        let text = match (protocol, self.mode) {
            (Some(protocol), _) => protocol.path().unwrap_or("/"),
            // Each connection of a replay has its recorded path.
            (None, Mode::Echo | Mode::Connect | Mode::Session | Mode::Ping | Mode::Replay) => ECHO_PATH,
            (None, Mode::Push) => PUSH_PATH,
            (None, Mode::Storm) if !self.has_topics() => ECHO_PATH,
            (None, Mode::Broadcast | Mode::Storm) => TOPIC_PATH,
        };
        // Those of presets and of this file are valid.
        Template::parse(text).unwrap_or_default().for_url()
    }

    /// Checks that the URL's path can contain the topic names, and that its expressions are known.
    ///
    /// # Errors
    /// If there are several topics and the path names one.
    pub fn check_path(&self, url_path: Option<&Template>) -> Result<(), Contradiction> {
        if let Some(path) = url_path {
            self.bind(path).map_err(|why| Contradiction { flag: "URL", why })?;
        }
        let fixed = url_path.is_some_and(|path| !path.uses_topic());
        let why = "the URL's path names one topic; put {topic} where the topic's name goes";
        refuse(self.protocol.is_none() && self.topics > 1 && fixed, "--topics", why)
    }
}

#[cfg(test)]
pub(crate) mod tests;

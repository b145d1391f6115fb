//! What a run of the generator is asked to do, checked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use super::allow::Flaw;
use super::dialling::Dialling;
use super::listening::Listening;
use super::payload::{CONNECTIONS_MAX, Form, Lines, Payloads, Spread, Style};
use super::run::MAX_LATENESS_DEFAULT;
use super::schedule::{Arrivals, BURST_MAX, Profile, RATE_MAX, STAGE_TIME_MAX, STAGES_MAX};
use crate::connection::Compression;
use crate::limits::{COMPRESSION_BYTES_DEFAULT, MESSAGE_BYTES_MAX};

/// Messages a sender may be told to keep under way.
pub const DEPTH_MAX: u32 = 8_192;
/// The most seconds that a rate may be of: a message in 1,000 seconds is the lowest.
pub const RATE_PERIOD_S_MAX: u32 = 1_000;
/// How long what is under way at the end is awaited unless it is said.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(5);
/// Where echoes are asked for when the URL has no path.
const ECHO_PATH: &str = "/echo";
/// Where messages come by themselves when the URL has no path.
const PUSH_PATH: &str = "/push";
/// Where topics are when the URL has no path.
const TOPIC_PATH: &str = "/broadcast/{topic}";
/// Stands for the topic's name in a path.
const TOPIC_MARK: &str = "{topic}";

/// What is sent where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every connection sends, and gets its own messages back.
    Echo,
    /// Publishers send to topics, subscribers receive.
    Broadcast,
    /// Connections are the load: each is opened, gets one message back, and is closed.
    Connect,
    /// Connections listen, and what the server sends is counted and timed.
    Push,
}

impl Mode {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Echo => "echo",
            Mode::Broadcast => "broadcast",
            Mode::Connect => "connect",
            Mode::Push => "push",
        }
    }

    /// What its load is made of, in the plural.
    pub fn unit(self) -> &'static str {
        match self {
            Mode::Echo | Mode::Broadcast | Mode::Push => "messages",
            Mode::Connect => "connections",
        }
    }

    /// What its messages have to tell.
    pub fn form(self) -> Form {
        match self {
            Mode::Echo | Mode::Connect | Mode::Push => Form::Echo,
            Mode::Broadcast => Form::Broadcast,
        }
    }
}

/// What decides when the next message is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Closed loop: each sender keeps this many messages under way; in connect mode, so many connections there are at once.
    Depth(u32),
    /// Open loop: so many messages a second over all senders, whatever comes back.
    Rate(u64),
    /// Open loop at a rate that changes: these stages are the measured time.
    Stages(Vec<RateStage>),
}

impl Pace {
    /// Messages that a sender of a closed loop keeps under way; `None` in an open loop.
    pub fn depth(&self) -> Option<u32> {
        match self {
            Pace::Depth(depth) => Some(*depth),
            Pace::Rate(_) | Pace::Stages(_) => None,
        }
    }

    /// The rate that does not change; `None` in a closed loop and where there are stages.
    pub fn rate(&self) -> Option<u64> {
        match self {
            Pace::Rate(rate) => Some(*rate),
            Pace::Depth(_) | Pace::Stages(_) => None,
        }
    }

    /// The highest rate that it comes to; `None` in a closed loop.
    pub fn highest_rate(&self) -> Option<u64> {
        let of_stages = self.stages().iter().map(|stage| stage.from.max(stage.to)).max();
        self.rate().or(of_stages)
    }

    /// Its stages, if the rate changes.
    pub fn stages(&self) -> &[RateStage] {
        match self {
            Pace::Stages(stages) => stages,
            Pace::Depth(_) | Pace::Rate(_) => &[],
        }
    }

    /// Messages that are due in a second, or in the time that the rate is of, so long after the start of the measured time;
    /// `None` in a closed loop.
    pub fn rate_at(&self, passed: Duration) -> Option<f64> {
        match self {
            Pace::Depth(_) => None,
            Pace::Rate(rate) => Some(*rate as f64),
            Pace::Stages(stages) => {
                let mut left = passed;
                for stage in stages {
                    if let Some(later) = left.checked_sub(stage.time) {
                        left = later;
                        continue;
                    }
                    let share = left.as_secs_f64() / stage.time.as_secs_f64();
                    return Some(stage.from as f64 + share * (stage.to as f64 - stage.from as f64));
                }
                Some(0.0)
            }
        }
    }
}

pub use super::schedule::RateStage;
pub use crate::driver::DriverChoice;

/// What is offered of permessage-deflate (RFC 7692), on every connection of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compress {
    /// As it was asked for, for the record.
    pub words: String,
    /// What is offered and how this side compresses; `None` offers nothing.
    pub compression: Option<Compression>,
    /// Bytes of the windows that the generator's connections may keep from message to message, all together. A
    /// connection whose server keeps more fails.
    pub context_bytes: u64,
}

impl Compress {
    /// No offer.
    pub fn off() -> Compress {
        Compress { words: "off".to_owned(), compression: None, context_bytes: COMPRESSION_BYTES_DEFAULT }
    }
}

/// Who is measured.
pub enum Target {
    /// A server that runs already.
    Url {
        /// As it was given.
        text: String,
        /// Where it is.
        address: SocketAddr,
        /// For the `Host` field.
        authority: String,
        /// Path and query, `None` when the URL ends behind the authority.
        path: Option<String>,
        /// What TLS is spoken with, and the name that the certificate has to be for; `None` for a plain server.
        security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    },
    /// A server in this process.
    Embedded(Box<StartServer>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Url { text, .. } => f.debug_tuple("Url").field(text).finish(),
            Target::Embedded(_) => f.write_str("Embedded"),
        }
    }
}

/// Starts a server in this process on the CPUs it is handed; none leaves it free.
pub type StartServer = dyn FnOnce(&[usize]) -> Result<Embedded, Refused>;

/// A server in this process that runs.
pub struct Embedded {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends it and returns when it is over.
    pub stop: Box<dyn FnOnce()>,
}

/// The environment forbids the run: one line that says what and how it is cured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// One load: data, which can be written down and read back elsewhere. What is read is to be [checked](Workload::check); fields
/// that are not there have their defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// What is sent where.
    pub mode: Mode,
    /// Connections, publishers included; in connect mode, so many may be there at once.
    pub connections: u32,
    /// Of those, publishers; broadcast mode only.
    pub publishers: u32,
    /// Topics that publishers and subscribers are spread over; broadcast mode only.
    pub topics: u32,
    /// Subscribers that read slowly or not at all once the measured time begins; broadcast mode only.
    pub stalled: u32,
    /// Bytes a second that those read on average; `None` is nothing at all.
    pub trickle: Option<u64>,
    /// Measured time.
    pub duration: Duration,
    /// Time before it, in which the load runs and nothing is recorded.
    pub warmup: Duration,
    /// Smallest and largest payload.
    pub message_bytes: (usize, usize),
    /// How sizes between the two are spread.
    pub spread: Spread,
    /// What payloads are made of.
    pub style: Style,
    /// Payloads that are the lines of a file instead; echo mode only. They have their own sizes.
    pub lines: Option<Lines>,
    /// What decides when messages are sent.
    pub pace: Pace,
    /// The seconds that a [`Pace::Rate`] is of: 1, or more for less than a message a second.
    pub rate_period_s: u32,
    /// How an open loop spreads its messages over time.
    pub arrivals: Arrivals,
    /// Messages of an open loop that a sender sends at one instant, its trains being as much farther apart; 1 is none.
    pub burst: u32,
    /// The part of the warm-up in which the rate of an open loop rises from nothing to its first.
    pub ramp: Duration,
    /// How long what is under way at the end is awaited. What has not come then is lost.
    pub drain: Duration,
    /// Messages that take longer, from when they should have left, count as late.
    pub late_after: Option<Duration>,
    /// Whether a generator that is late for its own schedule is no failure.
    pub allow_saturated: bool,
    /// How late the generator may come to its own schedule at p99 without being saturated.
    pub max_lateness: Duration,
    /// Whether and how messages are compressed.
    pub compress: Compress,
    /// How connections are opened.
    pub dialling: Dialling,
    /// What connections that listen are to do.
    pub listening: Listening,
    /// Whether what arrives is checked.
    pub verify: bool,
    /// What may go wrong without the run having failed.
    pub allow: Vec<Flaw>,
    /// What all payloads follow from.
    pub seed: u64,
}

impl Default for Workload {
    /// Echoes of 64 bytes of text on one connection, a message at a time, for 10 s without warm-up.
    fn default() -> Workload {
        Workload {
            mode: Mode::Echo,
            connections: 1,
            publishers: 0,
            topics: 0,
            stalled: 0,
            trickle: None,
            duration: Duration::from_secs(10),
            warmup: Duration::ZERO,
            message_bytes: (64, 64),
            spread: Spread::Even,
            style: Style::Text,
            lines: None,
            pace: Pace::Depth(1),
            rate_period_s: 1,
            arrivals: Arrivals::Even,
            burst: 1,
            ramp: Duration::ZERO,
            drain: DRAIN_DEFAULT,
            late_after: None,
            allow_saturated: false,
            max_lateness: MAX_LATENESS_DEFAULT,
            compress: Compress::off(),
            dialling: Dialling::default(),
            listening: Listening::default(),
            verify: true,
            allow: Vec::new(),
            seed: 1,
        }
    }
}

/// What is wrong with a workload: the flag to blame, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Such as `--depth`.
    pub flag: &'static str,
    /// In one line.
    pub why: String,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flag, self.why)
    }
}

impl Workload {
    /// Checks that the load can be made.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub fn check(&self) -> Result<(), Contradiction> {
        let wrong = |flag, why: &str| Err(Contradiction { flag, why: why.to_owned() });
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return wrong("--connections", &format!("expected 1 to {CONNECTIONS_MAX}"));
        }
        if self.duration.is_zero() && self.pace.stages().is_empty() {
            return wrong("--duration", "nothing can be measured in no time");
        }
        match &self.pace {
            Pace::Depth(0) => return wrong("--depth", "at least one message must be under way"),
            Pace::Depth(depth) if *depth > DEPTH_MAX => {
                return wrong("--depth", &format!("at most {DEPTH_MAX} messages may be under way"));
            }
            Pace::Rate(0) => return wrong("--rate", "expected at least 1 message a second"),
            Pace::Rate(rate) if *rate > RATE_MAX => {
                return wrong("--rate", &format!("expected at most {RATE_MAX} messages a second"));
            }
            Pace::Depth(_) | Pace::Rate(_) => {}
            Pace::Stages(stages) => self.check_stages(stages)?,
        }
        if self.rate_period_s == 0 || self.rate_period_s > RATE_PERIOD_S_MAX {
            return wrong("--rate", "expected at least one message in 1,000 seconds, such as --rate 0.5");
        }
        if self.rate_period_s > 1 && self.pace.rate().is_none() {
            return wrong("--rate", "only a rate has a fraction, such as --rate 0.5");
        }
        self.check_times()?;
        let (least, most) = self.message_bytes;
        if least > most {
            return wrong("--message-bytes", "the range falls");
        }
        if most as u64 > MESSAGE_BYTES_MAX {
            return wrong("--message-bytes", &format!("a message has at most {MESSAGE_BYTES_MAX} bytes"));
        }
        if self.lines.is_some() {
            if self.mode == Mode::Broadcast {
                let why = "a line names no publisher and no time, which broadcasts have to: such as --mode echo \
                           --payload-file messages.ndjson";
                return wrong("--payload-file", why);
            }
        } else if let Err(why) = Payloads::usage(self.style, self.mode.form(), least) {
            return wrong("--message-bytes", &why);
        }
        if self.mode == Mode::Broadcast {
            self.check_broadcast()?;
        }
        self.check_dialling()?;
        self.check_listening()
    }

    fn check_stages(&self, stages: &[RateStage]) -> Result<(), Contradiction> {
        let wrong = |why: &str| Err(Contradiction { flag: "--stage", why: why.to_owned() });
        if stages.is_empty() || stages.len() > STAGES_MAX {
            return wrong(&format!("expected 1 to {STAGES_MAX} stages, such as --stage 30s@10k"));
        }
        if stages.iter().any(|stage| stage.time.is_zero()) {
            return wrong("a stage takes some time, such as --stage 30s@10k");
        }
        if stages.iter().any(|stage| stage.from.max(stage.to) > RATE_MAX) {
            return wrong(&format!("expected at most {RATE_MAX} messages a second, such as --stage 30s@10k"));
        }
        if stages.iter().all(|stage| stage.from == 0 && stage.to == 0) {
            return wrong("some stage has to have messages, such as --stage 10s@0 --stage 30s@10k");
        }
        let whole: Duration = stages.iter().map(|stage| stage.time).sum();
        if whole > STAGE_TIME_MAX {
            return wrong("all stages together take at most 24h, such as --stage 12h@10k --stage 12h@20k");
        }
        if whole != self.duration {
            return wrong("the stages are the measured time");
        }
        Ok(())
    }

    /// What is asked of the time around the measured one, and of trains.
    fn check_times(&self) -> Result<(), Contradiction> {
        let wrong = |flag, why: &str| Err(Contradiction { flag, why: why.to_owned() });
        let is_closed = self.pace.depth().is_some();
        if self.burst == 0 || self.burst > BURST_MAX {
            return wrong(
                "--burst",
                &format!("expected 1 to {BURST_MAX} messages, such as --rate 10k --burst 20"),
            );
        }
        if is_closed && self.burst > 1 {
            return wrong("--burst", "trains are those of a rate, such as --rate 10k --burst 20");
        }
        if is_closed && !self.ramp.is_zero() {
            return wrong("--ramp", "only a rate can rise, such as --rate 10k --ramp 5s");
        }
        if self.ramp > self.warmup {
            return wrong("--ramp", "it is part of the warm-up, such as --rate 10k --ramp 5s --warmup 6s");
        }
        if !self.ramp.is_zero() && self.first_rate() == Some(0) {
            return wrong("--ramp", "the first stage begins at 0, such as --ramp 5s --stage 30s@10k");
        }
        if self.drain > STAGE_TIME_MAX {
            return wrong("--drain", "at most 24h, such as --drain 10s");
        }
        if self.late_after.is_some_and(|bound| bound.is_zero()) {
            return wrong("--late-after", "everything takes some time, such as --late-after 100ms");
        }
        Ok(())
    }

    /// The rate that the measured time begins with.
    fn first_rate(&self) -> Option<u64> {
        self.pace.rate().or(self.pace.stages().first().map(|stage| stage.from))
    }

    /// The rate of an open loop from the start of the load on, warm-up included.
    pub(super) fn profile(&self) -> Option<Profile> {
        let first = self.first_rate()?;
        let steady = self.warmup.saturating_sub(self.ramp);
        let before = [
            RateStage { time: self.ramp, from: 0, to: first },
            RateStage { time: steady, from: first, to: first },
        ];
        Some(match &self.pace {
            Pace::Stages(stages) => Profile::new(before.into_iter().chain(stages.iter().copied()), None),
            // The same at all times: the simplest there is.
            _ if self.ramp.is_zero() => Profile::constant(first),
            _ => Profile::new(before, Some(first)),
        })
    }

    fn check_broadcast(&self) -> Result<(), Contradiction> {
        let wrong = |flag, why: String| Err(Contradiction { flag, why });
        let Workload { connections, publishers, topics, stalled, .. } = *self;
        if topics == 0 {
            return wrong("--topics", "expected at least 1".to_owned());
        }
        if publishers < topics {
            return wrong("--publishers", format!("{topics} topics need at least {topics} publishers"));
        }
        if connections < publishers.saturating_add(topics) {
            let least = u64::from(publishers) + u64::from(topics);
            return wrong(
                "--connections",
                format!("{publishers} publishers and a subscriber for each topic need at least {least}"),
            );
        }
        if stalled > connections - publishers - topics {
            let most = connections - publishers - topics;
            return wrong("--slow", format!("a subscriber of each topic has to read: at most {most}"));
        }
        if self.trickle == Some(0) {
            return wrong(
                "--trickle",
                "expected at least 1 byte a second, such as --trickle 16KiB/s".to_owned(),
            );
        }
        Ok(())
    }

    /// The messages of the run.
    pub(super) fn payloads(&self) -> Payloads {
        match &self.lines {
            Some(lines) => Payloads::of_lines(self.seed, self.style, lines.clone()),
            None => Payloads::new(self.seed, self.style, self.mode.form(), self.message_bytes, self.spread),
        }
    }

    /// Connections that send.
    pub fn senders(&self) -> u32 {
        match self.mode {
            Mode::Echo | Mode::Connect => self.connections,
            Mode::Broadcast => self.publishers,
            Mode::Push => 0,
        }
    }

    /// The topic of a connection. Publishers have the lowest numbers.
    pub fn topic(&self, connection: u32) -> u32 {
        let position = if connection < self.publishers { connection } else { connection - self.publishers };
        position % self.topics.max(1)
    }

    /// Whether a connection is to be slow. These have the highest numbers, so that topics share them.
    pub fn is_stalled(&self, connection: u32) -> bool {
        connection >= self.connections - self.stalled
    }

    /// How many publishers a topic has.
    pub fn publishers_of(&self, topic: u32) -> u32 {
        (self.publishers - topic).div_ceil(self.topics.max(1))
    }

    /// The request target of a connection, from that of the URL.
    pub fn path(&self, url_path: Option<&str>, connection: u32) -> String {
        match self.mode {
            Mode::Echo | Mode::Connect => url_path.unwrap_or(ECHO_PATH).to_owned(),
            Mode::Push => url_path.unwrap_or(PUSH_PATH).to_owned(),
            Mode::Broadcast => {
                // The seed keeps runs on one server apart.
                let name = format!("bench-{:08x}-{}", self.seed as u32, self.topic(connection));
                url_path.unwrap_or(TOPIC_PATH).replace(TOPIC_MARK, &name)
            }
        }
    }

    /// Checks that the URL's path can carry the topics.
    ///
    /// # Errors
    /// When several topics are asked for and the path names one.
    pub fn check_path(&self, url_path: Option<&str>) -> Result<(), Contradiction> {
        let fixed = url_path.is_some_and(|path| !path.contains(TOPIC_MARK));
        if self.mode == Mode::Broadcast && self.topics > 1 && fixed {
            let why = format!("the URL's path names one topic; write {TOPIC_MARK} in it where names go");
            return Err(Contradiction { flag: "--topics", why });
        }
        Ok(())
    }
}

/// Everything that is asked of the generator.
#[derive(Debug)]
pub struct Plan {
    /// Who is measured.
    pub target: Target,
    /// One after the other; all of them passed [`Workload::check`].
    pub workloads: Vec<Workload>,
    /// What the generator may use.
    pub means: Means,
}

/// What the generator may use of this host.
#[derive(Clone, Debug)]
pub struct Means {
    /// Threads, at least 1.
    pub threads: usize,
    /// CPUs to pin the threads to, in turn; none leaves them free.
    pub cpus: Vec<usize>,
    /// CPUs for an embedded server; none leaves it free.
    pub server_cpus: Vec<usize>,
    /// Local addresses, used in turn; none leaves the choice to the kernel, or, where a loopback target has
    /// too few ports for one address, spreads over 127.0.0.x.
    pub sources: Vec<IpAddr>,
    /// Which driver.
    pub driver: DriverChoice,
    /// Descriptors that this process may have.
    pub descriptors: u64,
    /// A process whose CPU time and memory are sampled.
    pub server_pid: Option<u32>,
    /// Set from outside to end the run early with what it has.
    pub stop: Arc<AtomicBool>,
}

impl Means {
    /// The CPU that a thread is pinned to.
    pub(super) fn cpu_of(&self, thread: usize) -> Option<usize> {
        (!self.cpus.is_empty()).then(|| self.cpus[thread % self.cpus.len()])
    }
}

#[cfg(test)]
pub(super) mod tests;

//! The flags of `bench`.

use std::time::Duration;

use super::headings::{GENERATOR, NONE, SCHEDULE};
use super::machine::THREADS_MAX;
use super::parsers::{self, DRIVERS, DURATION_MAX, MODES};
use super::{
    agents, churn, dial, listen, messages, outputs, pace, protocol, replay, request, until, verdicts,
};
use crate::common::values;
use echoring_load::analyse::objective::metric_names;
use echoring_load::{DriverChoice, Mode, Timestamps};

const EXAMPLES: &str = "\
Examples:
  echoring bench
      measure a server in this process: first echo, then broadcast
  echoring bench ws://127.0.0.1:9001 -c 1000 -d 30s --message-bytes 16
      1,000 connections, each with one message in flight
  echoring bench ws://127.0.0.1:9001/echo --rate 50k --json run.json
      an open loop of 50,000 messages per second: latency counts from the time when each was due
  echoring bench ws://127.0.0.1:9001/echo --stage 30s@1k --stage 30s@1k..10k --stage 30s@10k
      90 s in which the rate is steady, rises and is steady again; each stage is reported separately
  echoring bench ws://127.0.0.1:9001/echo --rate 10k --ramp 5s --burst 20 --late-after 50ms
      bursts of 20 messages after a warm-up with a rising rate; answers after more than 50 ms fail the run
  echoring bench wss://localhost:9443 --ca-file ca.pem
      over TLS, with a private CA
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 1001 --depth 8
      one publisher, 1,000 subscribers, 8 messages in flight
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 11000 --topics 1000 --rate 2000 --arrivals poisson
      1,000 topics with a publisher and 10 subscribers each, messages at random times
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 1001 --rate 500 --message-bytes 4KiB --slow 1%
      the effect of 10 subscribers that stop reading on the other 990
  echoring bench ws://127.0.0.1:9001 --mode connect --rate 2000/s --fail-if 'handshake.p99>20ms'
      2,000 new connections per second; each echoes one message and is closed
  echoring bench ws://127.0.0.1:9001 --mode storm -c 10000 --rate 500 --reconnect 500ms..20s
      10,000 subscribers cut at once: the time until they are back, and the messages they missed
  echoring bench ws://127.0.0.1:9001 -c 1000 --rate 10k --connect-ramp 30s --lifetime exp:60s
      users who arrive one by one over 30 s and stay for a minute on average
  echoring bench wss://feed.example/prices --mode push -c 500 --hello 'subscribe all' --time-field ts
      500 connections that only receive: message counts, inter-arrival times, and latency since the time in the member ts
  echoring bench ws://127.0.0.1:9001 --rate 5k --ping-every 100ms
      WebSocket pings beside the load: the network and the event loop against the application
  echoring bench ws://127.0.0.1:9001 --rate 20000 --message-bytes zipf:16..4096
      most messages are short and some long
  echoring bench ws://127.0.0.1:9001 --rate 5000 --kind json --payload-file messages.ndjson
      messages from the lines of a file
  echoring bench --kind json --message-bytes 1KiB --compress on
      compressed messages to a server in this process; JSON compresses as real JSON does, text hardly
  echoring bench ws://127.0.0.1:9001 --rate 20000 --fail-if 'p99.9>5ms' --fail-if 'lost>0'
      exit code 1, with the failed condition, if the server is too slow or loses messages
  echoring bench ws://127.0.0.1:9001 --rate 20000 -d 1h --abort-if 'p99>100ms'
      ends with exit code 1 as soon as the server is that slow
  echoring bench ws://127.0.0.1:9001 --rate 20000 --until 'p99±5%' --max-duration 5m
      ends as soon as the p99 is known to within 5 %
  echoring bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101 --json both.json
      two servers measured in turn; `echoring compare both.json` compares them with confidence intervals
  echoring bench ws://127.0.0.1:9001 --rate 20000 --against ws://127.0.0.1:9101 --until 'p99±3%'
      the same until it is known which has the lower p99, if by more than 3 %: echoring compare URL URL is this, too
  echoring bench ws://127.0.0.1:9001 --rate 20000 --json run.json --hlog run.hlog --csv run.csv
      files for other tools, and for echoring report run.json
  echoring bench ws://127.0.0.1:9001 --rate 20000 --samples 1/1000 --samples-file messages.csv
      single messages with their times, one of a thousand
  echoring bench ws://127.0.0.1:9001 -d 1h --rate 1000 --prometheus 127.0.0.1:9464
      metrics at http://127.0.0.1:9464/metrics during the run
  echoring bench ws://10.0.0.9:9001 -c 300000 --rate 100k --agents 3 --nats nats://10.0.0.1
      the same load from three machines that run `echoring agent`
  echoring bench ws://127.0.0.1:9001 --replay day.jsonl --replay-speed 2 --replay-rule json --replay-ignore /ts
      what echoring proxy --record took, twice as fast; answers other than the recorded ones fail the run
  echoring bench -f scenario.toml --duration 5s
      the runs of a file, each for 5 s";

/// What follows the examples, behind the metrics.
const REST: &str = "\
Every received message is compared with the sent one. From these sizes on a message has its sender and sequence number, \
so that lost, duplicated and reordered messages are distinguished: echo 12 bytes (json 34), broadcast 40 (json 76). \
Shorter echoes and lines of a file are compared with the message that is due, and from 8 bytes on with its neighbours; \
broadcasts cannot be shorter.

Exit codes: 0 done, 1 integrity broken, no message arrived, --fail-if or --abort-if held, worse than the other server \
by --fail-on or --until, 2 usage, 3 the environment forbids it, 4 the generator was the bottleneck (0 with --allow-saturated), \
130 interrupted, after the report of the time until then. Where several apply, 130 goes before 1, 1 before 3 and 3 before 4.";

/// The end of the help.
fn after_help() -> String {
    let metrics = metric_names();
    format!(
        "{EXAMPLES}\n\nIn --fail-if a METRIC is {metrics}; docs/reference/run-record.md#metrics-of-conditions says what they are. OP is < <= > >= == \
         !=; a UNIT is ns us ms s, k M, B kB KiB MiB, or %.\n\n{REST}"
    )
}

/// The flags of `bench`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help(), next_help_heading = GENERATOR)]
pub struct Args {
    /// Server to measure, ws://HOST:PORT[/PATH] or wss://… [default: a server in this process]
    ///
    /// {topic} in the path stands for a topic's name. The path is a template, such as /chat?user={{data.name}}. Of several URLs,
    /// connections take each in turn.
    #[arg(value_name = "URL", help_heading = NONE)]
    pub(super) url: Vec<String>,

    /// What to measure [default: echo; without URL first echo, then broadcast]
    #[arg(long, value_parser = values::one_of(MODES), help_heading = NONE)]
    pub(super) mode: Option<Mode>,

    /// Number of connections, publishers included [default: 100; in --mode connect and session 1000]
    ///
    /// In --mode connect and --mode session, the maximum number of connections open at once; in --mode connect by default --depth
    /// if given. A session that finds none free is refused, and counts as unsent.
    #[arg(short, long, value_name = "N", help_heading = NONE)]
    pub(super) connections: Option<u32>,

    /// Measured time [default: 10s; for each run of --against with --until 2s]
    #[arg(short, long, value_name = "TIME", value_parser = values::duration_in(..=DURATION_MAX), help_heading = NONE)]
    pub(super) duration: Option<Duration>,

    /// Time under load before the measurement; auto: until it is steady [default: 1s, or a longer --ramp]
    ///
    /// auto waits until the response times and the rate have no trend any more (MSER-5), 6.5 s to 60 s after --ramp.
    #[arg(long, value_name = "TIME|auto", value_parser = parsers::warm_up, help_heading = SCHEDULE)]
    pub(super) warmup: Option<parsers::WarmUp>,

    /// Number of generator threads [default: one per CPU of --cpus, otherwise half of the CPUs]
    #[arg(long, value_name = "N", value_parser = values::number_in(1..=THREADS_MAX))]
    pub(super) threads: Option<u32>,

    /// Pin the generator's threads to these CPUs, such as 0,2 or 0-3 [default: not pinned]
    ///
    /// Without URL the default is the second half of the CPUs, and the server gets the first half.
    #[arg(long, value_name = "LIST", value_parser = values::cpu_list)]
    pub(super) cpus: Option<values::CpuList>,

    /// Process of the server; its CPU time and memory become part of the results
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,

    /// I/O driver
    #[arg(long, value_parser = values::one_of(DRIVERS), default_value = "auto")]
    pub(super) driver: DriverChoice,

    /// Message timestamps: the program's, or also the kernel's (on one in N connections); auto: where cheap
    ///
    /// With the kernel's timestamps, response times are split into waiting in the generator, its kernel, network and server, and
    /// from the kernel to the program. Echoes and pings over TCP have them (Linux 6.2). auto uses them in an open loop at
    /// a constant rate, on as many connections as get 5,000 messages a second on each thread.
    #[arg(long, value_name = "auto|program|kernel[:1/N]", value_parser = parsers::timestamps, default_value = "auto")]
    pub(super) timestamps: Timestamps,

    /// Seed of payloads, of random arrivals and of the order of data [default: random]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,

    #[command(flatten)]
    pub(super) agents: agents::Args,

    #[command(flatten)]
    pub(super) pace: pace::Args,

    #[command(flatten)]
    pub(super) dial: dial::Args,

    #[command(flatten)]
    pub(super) churn: churn::Args,

    #[command(flatten)]
    pub(super) request: request::Args,

    #[command(flatten)]
    pub(super) protocol: protocol::Args,

    #[command(flatten)]
    pub(super) replay: replay::Args,

    #[command(flatten)]
    pub(super) listen: listen::Args,

    #[command(flatten)]
    pub(super) messages: messages::Args,

    #[command(flatten)]
    pub(super) verdicts: verdicts::Args,

    #[command(flatten)]
    pub(super) until: until::Args,

    #[command(flatten, next_help_heading = NONE)]
    pub(super) outputs: outputs::Args,
}

//! The figures of a record that conditions and comparisons can name: name and path, a row for each. Unit and mode follow from the path.
//! Error texts, the help of `bench`, the reference and the report print these rows; a test holds them to the fields of a record.

/// A figure that is one number, or the sum of several by cause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) more_is_better: bool,
}

/// A distribution of times, whose quantiles are metrics.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Stands in front of the quantile; empty for the response time.
    pub(super) prefix: &'static str,
    label: &'static str,
    pub(crate) path: &'static str,
    /// The table of the summary leaves it out.
    pub(crate) is_detail: bool,
}

const fn less(name: &'static str, path: &'static str) -> Number {
    Number { name, path, more_is_better: false }
}

/// More of it is better.
const fn more(name: &'static str, path: &'static str) -> Number {
    Number { name, path, more_is_better: true }
}

const fn times(prefix: &'static str, label: &'static str, path: &'static str) -> Times {
    Times { prefix, label, path, is_detail: false }
}

const fn detail(prefix: &'static str, label: &'static str, path: &'static str) -> Times {
    Times { is_detail: true, ..times(prefix, label, path) }
}

impl Times {
    /// Its name in tables.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// The member of a record with the whole distribution, if there is one.
    pub(super) fn histogram(&self) -> Option<&'static str> {
        match self.path {
            "response_ns" => Some("response_histogram"),
            "service_ns" => Some("service_histogram"),
            "server_and_network_ns" => Some("server_and_network_histogram"),
            _ => None,
        }
    }
}

pub(super) const CPU_PER_MESSAGE: &str = "cpu_per_message";
pub(super) const UNREACHED: &str = "unreached";

/// The distributions.
pub(crate) const TIMES: &[Times] = &[
    times("", "response", "response_ns"),
    times("service", "service", "service_ns"),
    times("kernel", "server and network", "server_and_network_ns"),
    times("first", "first subscriber", "broadcast.first_ns"),
    times("median", "median subscriber", "broadcast.median_ns"),
    times("last", "last subscriber", "broadcast.last_ns"),
    times("gap", "gap", "push.gap_ns"),
    detail("ping", "ping", "ping.rtt_ns"),
    detail("back", "reconnect", "reconnects.back_ns"),
    detail("storm", "back after the cut", "storm.back_ns"),
    detail("session", "session", "sessions.duration_ns"),
    detail("session.setup", "session: setup", "sessions.setup_ns"),
    detail("protocol.opening", "protocol: opening", "protocol.opening_ns"),
    detail("handshake", "handshake", "handshake.total_ns"),
    detail("handshake.connect", "handshake: connect", "handshake.connect_ns"),
    detail("handshake.tls", "handshake: TLS", "handshake.tls_ns"),
    detail("handshake.upgrade", "handshake: upgrade", "handshake.upgrade_ns"),
    detail("handshake.first_message", "handshake: first message", "handshake.first_message_ns"),
    detail("handshake.failed", "handshake: failed", "handshake.failed_ns"),
    times("lateness", "lateness", "generator.lateness_ns"),
    times("heartbeat", "heartbeat", "generator.heartbeat_ns"),
];

/// The numbers.
pub(crate) const NUMBERS: &[Number] = &[
    more("messages", "messages"),
    more("messages_per_s", "messages_per_s"),
    more("bytes_per_s", "bytes_per_s"),
    more("received", "received"),
    less("lost", "integrity.lost"),
    less("duplicated", "integrity.duplicated"),
    less("reordered", "integrity.reordered"),
    less("corrupted", "integrity.corrupted"),
    less("late", "integrity.late"),
    less("unmatched", "unmatched"),
    less("unsolicited", "unsolicited"),
    less("errors", "errors"),
    less("closes", "closes"),
    less("dialled", "connections.dialled"),
    more("opened", "connections.opened"),
    less("ended_early", "connections.ended_early"),
    more("reach", "broadcast.reach"),
    less("gaps", "broadcast.gaps"),
    more("published", "broadcast.published"),
    less("push.untimed", "push.untimed"),
    less("push.ahead", "push.ahead"),
    more("ping.sent", "ping.sent"),
    more("ping.answered", "ping.answered"),
    less("ping.skipped", "ping.skipped"),
    less("missed", "reconnects.missed"),
    more("recovered", "reconnects.recovered"),
    less("refused", "reconnects.refused"),
    less("attempts", "reconnects.attempts"),
    less("not_back", "reconnects.not_back"),
    less("departed", "reconnects.ended"),
    less("retired", "reconnects.retired"),
    less("storm.cut", "storm.cut"),
    more("storm.back", "storm.back"),
    more("session.started", "sessions.started"),
    more("session.completed", "sessions.completed"),
    less("session.unfinished", "sessions.unfinished"),
    less("session.refused", "sessions.refused"),
    less("session.failed", "sessions.failed"),
    less("protocol.unexpected", "protocol.unexpected"),
    more("protocol.heartbeats_answered", "protocol.heartbeats_answered"),
    more("protocol.heartbeats_sent", "protocol.heartbeats_sent"),
    more("replay.sent", "replay.sent"),
    more("replay.equal", "replay.equal"),
    less("replay.untimed", "replay.untimed"),
    less("replay.not_ended", "replay.not_ended"),
    less("slow", "stalled.count"),
    more("slow.messages", "stalled.messages"),
    more("slow.bytes", "stalled.bytes"),
    less("wire.bytes_in", "wire.bytes_in"),
    less("wire.bytes_out", "wire.bytes_out"),
    less("retransmissions", "wire.retransmissions"),
    more("compressed", "compression.agreed"),
    more("compressed.messages_in", "compression.messages_in"),
    less("compressed.bytes_in", "compression.bytes_in"),
    less("compressed.bytes_in_plain", "compression.bytes_in_plain"),
    more("compressed.messages_out", "compression.messages_out"),
    less("compressed.bytes_out", "compression.bytes_out"),
    less("compressed.bytes_out_plain", "compression.bytes_out_plain"),
    less("tls", "tls.handshakes"),
    more("tls.resumed", "tls.resumed"),
    more("handshakes", "handshake.count"),
    more("handshakes_per_s", "handshake.per_s"),
    more("handshakes.resumed", "handshake.resumed"),
    less("handshakes.waited", "handshake.waited"),
    less("unsent", "generator.unsent"),
    less("unsent_gone", "generator.unsent_gone"),
    less("generator_cpu", "generator.cpu_share"),
    less("run_delay", "generator.run_delay_ns"),
    less("stolen", "generator.stolen_ns"),
    less(CPU_PER_MESSAGE, "server.cpu_ns_per_message"),
    less("server_cpu", "server.cpu_share"),
    less("server_memory", "server.rss_bytes"),
    more("capacity", "search.low"),
    more("max_rate", "search.max_rate"),
    more("knee", "search.knee"),
    less(UNREACHED, "until.unreached"),
];

/// The names of all metrics, in a few words.
pub fn metric_names() -> String {
    let prefixes: Vec<&str> =
        TIMES.iter().map(|times| times.prefix).filter(|prefix| !prefix.is_empty()).collect();
    let numbers: Vec<&str> = NUMBERS.iter().map(|number| number.name).collect();
    format!(
        "pN such as p50, p97.5 or p99.9, min max mean stddev count (of response time, or of another as in service.p99: {}), {}",
        prefixes.join(" "),
        numbers.join(" ")
    )
}

//! Why connections did not open, in words: how many of how many did, the causes with their counts, and what helps.
//!
//! Never: a cause that is left out.

use std::collections::BTreeMap;

use super::record::Record;

/// No socket could be made, since the process or the host has no descriptor left.
pub const NO_DESCRIPTORS: &str = "too few descriptors";
/// No socket could be connected, since its local address has no port left towards this server.
pub const NO_PORTS: &str = "too few local ports";
/// The 101 did not come in time.
pub const HANDSHAKE_TIMEOUT: &str = "handshake timeout";
/// The run was over before a connection was open.
pub const UNFINISHED: &str = "unfinished handshake";

/// What helps, by how a cause begins; the first that applies is told.
const CURES: [(&str, &str); 6] = [
    (NO_DESCRIPTORS, "raise the limit (ulimit -Hn, LimitNOFILE=) or lower --connections"),
    (
        NO_PORTS,
        "name more addresses with --source-addr, such as 127.0.0.1-127.0.0.8, or widen \
         /proc/sys/net/ipv4/ip_local_port_range",
    ),
    (
        "tls-handshake: invalid peer certificate",
        "name the certificate of its authority with --ca-file, or the host that it is for",
    ),
    (
        HANDSHAKE_TIMEOUT,
        "open fewer a second with --connect-rate, or give each longer with --connect-timeout",
    ),
    ("status ", "check the URL's path, and what the server asks of a request"),
    ("refused", "start the server there, or check the URL"),
];

/// The causes with their counts, the most frequent first: `188 × too few descriptors, 3 × refused`.
pub fn listed(errors: &BTreeMap<String, u64>) -> String {
    let mut causes: Vec<_> = errors.iter().collect();
    causes.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    let parts: Vec<String> = causes.into_iter().map(|(cause, times)| format!("{times} × {cause}")).collect();
    parts.join(", ")
}

/// What helps against one of them, if anything is known to.
pub fn cure(errors: &BTreeMap<String, u64>) -> Option<&'static str> {
    let occurs = |start: &str| errors.keys().any(|cause| cause.starts_with(start));
    CURES.into_iter().find(|(start, _)| occurs(start)).map(|(_, cure)| cure)
}

/// How many connections opened of those that were to, and why not all, in one line; `None` when all did.
pub fn shortfall(record: &Record) -> Option<String> {
    let (opened, dialled) = (record.connections.opened, record.connections.dialled?);
    if opened >= dialled || record.errors.is_empty() {
        return None;
    }
    let mut line = format!(
        "{}: opened {opened} of {dialled} connections: {}",
        record.config.mode,
        listed(&record.errors)
    );
    if let Some(cure) = cure(&record.errors) {
        line.push_str("; ");
        line.push_str(cure);
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(causes: &[(&str, u64)]) -> BTreeMap<String, u64> {
        causes.iter().map(|(cause, times)| ((*cause).to_owned(), *times)).collect()
    }

    #[test]
    fn causes_are_told_with_their_counts_the_most_frequent_first() {
        let found = errors(&[("refused", 3), ("status 503", 1), (NO_DESCRIPTORS, 188)]);
        assert_eq!(listed(&found), "188 × too few descriptors, 3 × refused, 1 × status 503");
        assert_eq!(listed(&errors(&[])), "");
    }

    #[test]
    fn what_ends_on_this_host_is_cured_on_this_host() {
        for (cause, word) in [
            (NO_DESCRIPTORS, "ulimit"),
            (NO_PORTS, "--source-addr"),
            (HANDSHAKE_TIMEOUT, "--connect-timeout"),
            ("tls-handshake: invalid peer certificate: unknown issuer", "--ca-file"),
            ("status 404", "path"),
            ("refused", "start the server"),
        ] {
            let cure = cure(&errors(&[("reset", 1), (cause, 1)])).unwrap_or_else(|| panic!("{cause}"));
            assert!(cure.contains(word), "{cure}");
        }
        assert_eq!(cure(&errors(&[("reset", 1)])), None);
        assert!(
            cure(&errors(&[("refused", 9), (NO_PORTS, 1)])).is_some_and(|cure| cure.contains("port_range"))
        );
    }
}

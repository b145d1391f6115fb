//! Why connections did not open: how many did, the causes with their counts, and what to do.
//!
//! Never: a cause that is omitted.

use std::collections::BTreeMap;

use crate::record::Record;

/// The error of a closed-loop sender that got no reply for too long and continued.
pub(crate) const NO_REPLY: &str = "no reply";
/// An answer reports that the request failed; the name of the request follows.
pub(crate) const ERROR_ANSWER: &str = "error answer";
/// Each row of the data was taken once, and a connection needs another.
pub(crate) const NO_ROW_LEFT: &str = "no row of --data left";
/// A message that no rule of the protocol knows.
pub(crate) const UNEXPECTED_MESSAGE: &str = "unexpected message";
/// A message of a protocol above WebSocket has no end within 16 MiB.
pub(crate) const ENDLESS_MESSAGE: &str = "a message of more than 16 MiB";
/// The process or the host has no free file descriptor.
pub(crate) const NO_DESCRIPTORS: &str = "too few descriptors";
/// The local address has no free port for this server.
pub(crate) const NO_PORTS: &str = "too few local ports";
/// The 101 did not arrive in time.
pub const HANDSHAKE_TIMEOUT: &str = "handshake timeout";
/// The run ended before the connection was open.
pub(crate) const UNFINISHED: &str = "unfinished handshake";

/// Hints by the prefix of a cause; the first match is used.
const CURES: [(&str, &str); 8] = [
    (NO_DESCRIPTORS, "raise the limit (ulimit -Hn, LimitNOFILE=) or lower --connections"),
    (
        NO_PORTS,
        "name more addresses with --source-addr, such as 127.0.0.1-127.0.0.8, or widen \
         /proc/sys/net/ipv4/ip_local_port_range",
    ),
    (
        "tls-handshake: invalid peer certificate: the server presented a CA certificate",
        "make one that is not a CA certificate (openssl req -x509 with -addext basicConstraints=critical,CA:FALSE), and pass it \
         with --ca-file; or pass --insecure in a test",
    ),
    (
        "tls-handshake: invalid peer certificate",
        "pass its CA certificate with --ca-file, or use the host name of the certificate",
    ),
    (NO_ROW_LEFT, "use --data-order in-order, or a file with more rows"),
    (HANDSHAKE_TIMEOUT, "lower the rate with --connect-rate, or raise --connect-timeout"),
    ("status ", "check the URL's path, and the server's requirements for requests"),
    ("refused", "start the server there, or check the URL"),
];

/// The causes with their counts, the most frequent first: `188 × too few descriptors, 3 × refused`.
pub fn listed(errors: &BTreeMap<String, u64>) -> String {
    let mut causes: Vec<_> = errors.iter().collect();
    causes.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    let parts: Vec<String> = causes.into_iter().map(|(cause, times)| format!("{times} × {cause}")).collect();
    parts.join(", ")
}

/// The hint for one of the causes, if there is one.
pub fn hint(errors: &BTreeMap<String, u64>) -> Option<&'static str> {
    let occurs = |start: &str| errors.keys().any(|cause| cause.starts_with(start));
    CURES.into_iter().find(|(start, _)| occurs(start)).map(|(_, hint)| hint)
}

/// How many connections opened and why not all, in one line; `None` if all did.
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
    if let Some(hint) = hint(&record.errors) {
        line.push_str("; ");
        line.push_str(hint);
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
    fn causes_are_listed_with_their_counts_most_frequent_first() {
        let found = errors(&[("refused", 3), ("status 503", 1), (NO_DESCRIPTORS, 188)]);
        assert_eq!(listed(&found), "188 × too few descriptors, 3 × refused, 1 × status 503");
        assert_eq!(listed(&errors(&[])), "");
    }

    #[test]
    fn local_causes_have_local_remedies() {
        for (cause, word) in [
            (NO_DESCRIPTORS, "ulimit"),
            (NO_PORTS, "--source-addr"),
            (HANDSHAKE_TIMEOUT, "--connect-timeout"),
            ("tls-handshake: invalid peer certificate: unknown issuer", "--ca-file"),
            (
                "tls-handshake: invalid peer certificate: the server presented a CA certificate as its own",
                "CA:FALSE",
            ),
            ("status 404", "path"),
            ("refused", "start the server"),
        ] {
            let hint = hint(&errors(&[("reset", 1), (cause, 1)])).unwrap_or_else(|| panic!("{cause}"));
            assert!(hint.contains(word), "{hint}");
        }
        assert_eq!(hint(&errors(&[("reset", 1)])), None);
        assert!(
            hint(&errors(&[("refused", 9), (NO_PORTS, 1)])).is_some_and(|hint| hint.contains("port_range"))
        );
    }
}

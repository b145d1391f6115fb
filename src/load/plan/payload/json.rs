//! Typical records for JSON messages: trades, sensor readings, users and log lines with random values. A message of 1
//! KiB of them compresses to less than half, as such data usually does.
//!
//! They are generated once per run. A message contains consecutive records, which are one slice. Never: characters that
//! need escaping in JSON, or a line break within a record.

use std::io::Write as _;

use echoring_proto::random::SplitMix64;

/// Bytes of records at which messages may begin: several times the largest compression window, so that context takeover
/// rarely meets the same records, and little enough for a CPU cache.
const STARTS_BYTES: usize = 256 * 1024;
/// Bytes of a record at most.
pub(super) const RECORD_BYTES_MAX: usize = 192;
/// Average number of consecutive records of a kind.
const ROW_RECORDS: u64 = 16;
/// Between two records.
const SEPARATOR: &[u8; 2] = b",\n";

const SYMBOLS: [&str; 12] =
    ["ACME", "BRZL", "CNDR", "DYNA", "ELBA", "FJRD", "GRVL", "HELI", "INDU", "JUNO", "KRTO", "LUMA"];
const VENUES: [&str; 5] = ["XNAS", "XNYS", "XETR", "XLON", "XPAR"];
const FIRST_NAMES: [&str; 16] = [
    "Amina", "Bogdan", "Chiara", "Dmitri", "Elena", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Kavita",
    "Liam", "Mei", "Nadia", "Oskar", "Priya",
];
const LAST_NAMES: [&str; 16] = [
    "Almeida", "Becker", "Castillo", "Dubois", "Eriksen", "Fontana", "Gupta", "Haddad", "Ivanova", "Jansen",
    "Kowalski", "Lindgren", "Moreau", "Nakamura", "Okafor", "Petrov",
];
const ROLES: [&str; 4] = ["[\"viewer\"]", "[\"editor\",\"viewer\"]", "[\"admin\"]", "[]"];
const SERVICES: [&str; 8] =
    ["auth", "billing", "catalogue", "checkout", "gateway", "inventory", "search", "shipping"];
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];
const EVENTS: [&str; 8] = [
    "request completed",
    "session token expired",
    "cache miss, loading from origin",
    "retrying after a timeout",
    "connection pool exhausted",
    "configuration reloaded",
    "payload rejected by schema",
    "worker started",
];

/// The records of a run.
#[derive(Debug)]
pub(super) struct Records {
    text: Vec<u8>,
    /// Offsets of the records that a message may begin with.
    starts: Vec<u32>,
}

impl Records {
    /// Generates enough records for messages of `bytes_max` bytes.
    pub(super) fn new(seed: u64, bytes_max: usize) -> Records {
        let mut random = SplitMix64::new(seed);
        let (mut starts, mut kind) = (Vec::new(), 0);
        let mut text = Vec::with_capacity(STARTS_BYTES + bytes_max + 2 * RECORD_BYTES_MAX);
        while text.len() < STARTS_BYTES + bytes_max + SEPARATOR.len() {
            if text.len() < STARTS_BYTES {
                starts.push(text.len() as u32);
            }
            if random.below(ROW_RECORDS) == 0 {
                kind = random.below(4);
            }
            let from = text.len();
            record(kind, &mut random, &mut text);
            debug_assert!(text.len() - from <= RECORD_BYTES_MAX, "a record is short");
            text.extend_from_slice(SEPARATOR);
        }
        Records { text, starts }
    }

    /// As many records as fit into `bytes`, starting with one that `hash` selects: array elements without brackets.
    #[inline]
    pub(super) fn cut(&self, hash: u32, bytes: usize) -> &[u8] {
        let start = self.starts[((u64::from(hash) * self.starts.len() as u64) >> 32) as usize] as usize;
        // The last separator that begins within the bytes, or right after them, ends the last record that fits.
        let reach = &self.text[start..start + bytes + SEPARATOR.len()];
        match reach.iter().rposition(|&byte| byte == SEPARATOR[1]) {
            Some(line_break) => &reach[..line_break + 1 - SEPARATOR.len()],
            None => &[],
        }
    }
}

/// Appends one record.
fn record(kind: u64, random: &mut SplitMix64, text: &mut Vec<u8>) {
    let id = random.below(1_000_000);
    let (hour, minute, second) = (random.below(24), random.below(60), random.below(60));
    let time =
        format!("2026-03-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", 1 + id % 28, random.below(1_000));
    let written = match kind {
        0 => write!(
            text,
            r#"{{"type":"trade","id":{id},"symbol":"{}","price":{}.{:02},"size":{},"side":"{}","venue":"{}","time":"{time}"}}"#,
            random.pick(&SYMBOLS),
            10 + random.below(490),
            random.below(100),
            100 * (1 + random.below(50)),
            random.pick(&["buy", "sell"]),
            random.pick(&VENUES),
        ),
        1 => write!(
            text,
            r#"{{"type":"reading","sensor":"th-{:04}","temperature":{}.{},"humidity":{},"position":{{"lat":{}.{:04},"lon":{}.{:04}}},"battery":{}}}"#,
            random.below(2_000),
            random.below(35),
            random.below(10),
            20 + random.below(70),
            40 + random.below(20),
            random.below(10_000),
            random.below(20),
            random.below(10_000),
            random.pick(&["null", "0.5", "0.75", "1.0"]),
        ),
        2 => {
            let (first, last) = (random.pick(&FIRST_NAMES), random.pick(&LAST_NAMES));
            write!(
                text,
                r#"{{"type":"user","id":{id},"name":"{first} {last}","email":"{}.{}@example.com","age":{},"active":{},"roles":{}}}"#,
                first.to_ascii_lowercase(),
                last.to_ascii_lowercase(),
                18 + random.below(60),
                random.below(5) > 0,
                random.pick(&ROLES),
            )
        }
        _ => write!(
            text,
            r#"{{"type":"log","time":"{time}","level":"{}","service":"{}","message":"{}","duration_ms":{},"trace":"{:08x}"}}"#,
            random.pick(&LEVELS),
            random.pick(&SERVICES),
            random.pick(&EVENTS),
            random.below(5_000),
            random.below(1 << 32),
        ),
    };
    written.expect("a vector takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_as_many_whole_records_as_fit() {
        let records = Records::new(3, 4_096);
        for bytes in [0, 1, 60, RECORD_BYTES_MAX, 500, 4_096] {
            for hash in (0..=u32::MAX).step_by(1 << 22) {
                let cut = records.cut(hash, bytes);
                assert!(cut.len() <= bytes);
                assert!(cut.len() + SEPARATOR.len() + RECORD_BYTES_MAX > bytes, "another would have fit");
                let array = [b"[".as_slice(), cut, b"]"].concat();
                let parsed: Vec<serde_json::Value> = serde_json::from_slice(&array).expect("JSON");
                assert!(parsed.iter().all(|record| record["type"].is_string()));
            }
        }
    }

    #[test]
    fn the_last_start_still_has_room_for_the_largest_message() {
        let records = Records::new(1, 100_000);
        assert!(records.cut(u32::MAX, 100_000).len() > 100_000 - RECORD_BYTES_MAX - SEPARATOR.len());
    }
}

//! `--compress`: the parameters of permessage-deflate (RFC 7692, 7.1), and settings that its header lacks.

use std::fmt;
use std::str::FromStr;

use super::values;
use echoring_proto::deflate::{Direction, Preferences, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use echoring_proto::limits::COMPRESSION_THRESHOLD_BYTES;
use echoring_runtime::limits::COMPRESSION_BYTES_DEFAULT;
use echoring_server::Compression;

/// The value of the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compress {
    /// How to compress, if at all.
    pub(crate) compression: Option<Compression>,
    /// Bytes of windows kept from message to message, on the whole node.
    pub(crate) memory_bytes: u64,
}

impl Compress {
    pub(crate) const OFF: Compress = Compress { compression: None, memory_bytes: COMPRESSION_BYTES_DEFAULT };

    /// All that the extension can do: windows of full size, kept from message to message.
    pub(crate) fn full() -> Compress {
        let direction = Direction { context_takeover: true, window_bits: WINDOW_BITS_MAX };
        let preferences = Preferences { server: direction, client: direction };
        Compress { compression: Some(Compression::default().preferences(preferences)), ..Compress::OFF }
    }

    /// One context per topic, and no memory per connection.
    fn shared() -> Compress {
        let compression = Compression::default();
        let Preferences { server, client } = compression.preferences;
        let preferences = Preferences { server: Direction { context_takeover: true, ..server }, client };
        Compress { compression: Some(compression.preferences(preferences).shared(true)), ..Compress::OFF }
    }
}

impl FromStr for Compress {
    type Err = String;

    fn from_str(words: &str) -> Result<Compress, String> {
        match words {
            "off" => return Ok(Compress::OFF),
            "on" => return Ok(Compress { compression: Some(Compression::default()), ..Compress::OFF }),
            _ => {}
        }
        let list = || words.split([';', ',']).map(str::trim).filter(|word| !word.is_empty());
        let preset = if list().any(|word| word == SHARED) { Compress::shared() } else { Compress::full() };
        let mut memory_bytes = preset.memory_bytes;
        let mut compression = preset.compression.unwrap_or_default();
        let Preferences { server, client } = &mut compression.preferences;
        for word in list() {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            match (name.trim(), value.map(str::trim)) {
                (SHARED, None) => {}
                ("server_no_context_takeover", None) => server.context_takeover = false,
                ("client_no_context_takeover", None) => client.context_takeover = false,
                ("server_max_window_bits", Some(bits)) => server.window_bits = window_bits(bits)?,
                ("client_max_window_bits", Some(bits)) => client.window_bits = window_bits(bits)?,
                ("level", Some(level)) => compression.level = number(level, 1..=9, "level")?,
                ("threshold", Some(bytes)) => {
                    compression.threshold_bytes = u32::try_from(values::bytes(bytes)?)
                        .map_err(|_| "threshold: above the maximum message size".to_owned())?;
                }
                ("memory", Some(bytes)) => memory_bytes = values::bytes(bytes)?,
                _ => {
                    return Err(format!(
                        "{word} is not a parameter; expected on, off, or a list of shared, \
                         server_no_context_takeover, client_no_context_takeover, server_max_window_bits=9..15, \
                         client_max_window_bits=9..15, level=1..9, threshold=BYTES \
                         (default {COMPRESSION_THRESHOLD_BYTES}), memory=BYTES"
                    ));
                }
            }
        }
        if compression.shared && !compression.preferences.server.context_takeover {
            return Err(
                "shared: needs context takeover by the server; remove server_no_context_takeover".to_owned()
            );
        }
        Ok(Compress { compression: Some(compression), memory_bytes })
    }
}

/// The parameter, which may stand alone, for contexts of topics instead of connections.
const SHARED: &str = "shared";

/// Shown as it may be written.
impl fmt::Display for Compress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Compression { preferences, level, threshold_bytes, shared, .. }) = self.compression else {
            return f.write_str("off");
        };
        for word in ["on", SHARED] {
            if word.parse() == Ok(*self) {
                return f.write_str(word);
            }
        }
        let Preferences { server, client } = preferences;
        if shared {
            f.write_str("shared; client_max_window_bits=")?;
            write!(f, "{}; server_max_window_bits={}; ", client.window_bits, server.window_bits)?;
            return self.write_effort(f, level, threshold_bytes);
        }
        for (end, direction) in [("server", server), ("client", client)] {
            if !direction.context_takeover {
                write!(f, "{end}_no_context_takeover; ")?;
            }
            write!(f, "{end}_max_window_bits={}; ", direction.window_bits)?;
        }
        self.write_effort(f, level, threshold_bytes)
    }
}

impl Compress {
    fn write_effort(&self, f: &mut fmt::Formatter<'_>, level: u8, threshold_bytes: u32) -> fmt::Result {
        let [threshold, memory] = [threshold_bytes.into(), self.memory_bytes].map(values::shown_bytes);
        write!(f, "level={level}; threshold={threshold}; memory={memory}")
    }
}

/// The bits of a window that can be deflated with.
fn window_bits(word: &str) -> Result<u8, String> {
    number(word, WINDOW_BITS_MIN + 1..=WINDOW_BITS_MAX, "window bits")
}

fn number(word: &str, range: std::ops::RangeInclusive<u8>, what: &str) -> Result<u8, String> {
    word.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{what}: expected a number from {} to {}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Compression {
        words.parse::<Compress>().expect("valid").compression.expect("not off")
    }

    #[test]
    fn on_keeps_no_windows_and_a_list_keeps_those_it_does_not_decline() {
        assert_eq!("off".parse(), Ok(Compress::OFF));
        let on = parse("on").preferences;
        assert!(!on.server.context_takeover && !on.client.context_takeover);
        assert_eq!(Ok(Compress::full()), "server_max_window_bits=15".parse());
        let list = parse("client_no_context_takeover; server_max_window_bits=10, level=6; threshold=1KiB");
        assert_eq!(list.preferences.server, Direction { context_takeover: true, window_bits: 10 });
        assert_eq!(list.preferences.client, Direction { context_takeover: false, window_bits: 15 });
        assert_eq!((list.level, list.threshold_bytes), (6, 1024));
        assert_eq!("level=1; memory=4MiB".parse::<Compress>().expect("valid").memory_bytes, 4 << 20);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for words in [
            "yes",
            "server_max_window_bits",
            "server_max_window_bits=8",
            "client_max_window_bits=16",
            "server_no_context_takeover=1",
            "level=0",
            "level=10",
            "threshold=lots",
            "threshold=8GiB",
        ] {
            assert!(words.parse::<Compress>().is_err(), "{words}");
        }
    }
}

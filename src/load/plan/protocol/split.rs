//! Several messages in one WebSocket message.

/// How a WebSocket message is divided.
#[derive(Clone, Debug, Default)]
pub(crate) enum Split {
    /// Not at all.
    #[default]
    None,
    /// At each occurrence of these bytes. Empty parts are skipped.
    At(Vec<u8>),
    /// MQTT control packets (MQTT 3.1.1, section 2).
    Mqtt,
}

impl Split {
    /// The next message, which is removed from `rest`.
    #[inline]
    pub(crate) fn next<'a>(&self, rest: &mut Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self {
            Split::None => rest.take(),
            Split::At(separator) => loop {
                let bytes = rest.take()?;
                let part = match find(bytes, separator) {
                    Some(at) => {
                        *rest = Some(&bytes[at + separator.len()..]);
                        &bytes[..at]
                    }
                    None => bytes,
                };
                if !part.is_empty() {
                    return Some(part);
                }
            },
            Split::Mqtt => {
                let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
                let end = packet_bytes(bytes).filter(|end| *end < bytes.len());
                let (packet, behind) = bytes.split_at(end.unwrap_or(bytes.len()));
                *rest = Some(behind);
                Some(packet)
            }
        }
    }
}

fn find(bytes: &[u8], separator: &[u8]) -> Option<usize> {
    match separator {
        [byte] => bytes.iter().position(|other| other == byte),
        _ => bytes.windows(separator.len()).position(|window| window == separator),
    }
}

/// The size of the control packet at the beginning: its type, the remaining length of one to four bytes, and the rest.
fn packet_bytes(bytes: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(2 + index + remaining);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(split: &Split, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = Some(bytes);
        std::iter::from_fn(|| split.next(&mut rest)).collect()
    }

    #[test]
    fn messages_are_divided() {
        assert_eq!(parts(&Split::None, b"a\nb"), [b"a\nb"]);
        assert_eq!(parts(&Split::None, b""), [b""]);
        let lines = Split::At(b"\n".to_vec());
        assert_eq!(parts(&lines, b"a\n\nbc\n"), [&b"a"[..], b"bc"]);
        assert_eq!(parts(&lines, b"\n"), [b""; 0]);
        assert_eq!(parts(&Split::At(b"--".to_vec()), b"a--b-c--"), [&b"a"[..], b"b-c"]);
    }

    #[test]
    fn mqtt_packets_are_divided() {
        let long = [&[0x30, 0x82, 0x01][..], &[7; 130]].concat();
        let both = [&[0x40, 2, 0, 1][..], &long, &[0xd0, 0]].concat();
        assert_eq!(parts(&Split::Mqtt, &both), [&[0x40, 2, 0, 1][..], &long, &[0xd0, 0]]);
        assert_eq!(parts(&Split::Mqtt, &[0x30, 9, 1]), [&[0x30, 9, 1]], "an incomplete one is the rest");
        assert_eq!(parts(&Split::Mqtt, &[0x30, 0xff, 0xff, 0xff, 0xff, 1]).len(), 1);
    }
}

//! Messages of protocols above WebSocket: several in one WebSocket message, or a stream of which WebSocket messages are
//! arbitrary parts.

/// How WebSocket messages are divided.
#[derive(Clone, Debug, Default)]
pub(crate) enum Split {
    /// Not at all.
    #[default]
    None,
    /// At each occurrence of these bytes. Empty parts are skipped.
    At(Vec<u8>),
    /// MQTT control packets (MQTT 3.1.1, section 2). Packets may span WebSocket messages (MQTT-6.0.0-2).
    Mqtt,
    /// STOMP frames (STOMP 1.2, "STOMP Frames"), without the NUL at their end. They may span WebSocket messages.
    Stomp,
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
            Split::Mqtt | Split::Stomp => {
                let (message, behind) = self.first(rest.take()?)?;
                *rest = Some(behind);
                Some(message)
            }
        }
    }

    /// Whether messages are parts of a stream, to which the WebSocket messages of a connection add up.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Split::Mqtt | Split::Stomp)
    }

    /// The first message of a stream, and the bytes after it; `None` if it is not complete.
    pub(crate) fn first<'a>(&self, stream: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        match self {
            Split::None | Split::At(_) => None,
            Split::Mqtt => stream.split_at_checked(packet_bytes(stream)?),
            Split::Stomp => {
                // Ends of lines between frames are heartbeats.
                let from = stream.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
                let (frame, behind) = stream[from..].split_at_checked(frame_bytes(&stream[from..])?)?;
                Some((frame, behind.get(1..).unwrap_or_default()))
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

/// The size of the control packet at the beginning, if that is known: its type, the remaining length of one to four bytes, and
/// the rest. A malformed one is all that there is.
fn packet_bytes(bytes: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(2 + index + remaining);
        }
    }
    (bytes.len() > 4).then_some(bytes.len())
}

/// The size of the frame at the beginning up to the NUL at its end, if that has arrived.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let nul = bytes.iter().position(|byte| *byte == 0)?;
    let mut body = 0;
    let mut length = None;
    for line in bytes[..nul].split_inclusive(|byte| *byte == b'\n') {
        body += line.len();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        // Of a header that is repeated, the first counts.
        let value = line.strip_prefix(b"content-length:").and_then(|value| str::from_utf8(value).ok());
        length = length.or(value.and_then(|value| value.trim().parse::<usize>().ok()));
    }
    let Some(end) = length.and_then(|length| body.checked_add(length)) else { return Some(nul) };
    match bytes.get(end) {
        // It is cut off, or its length is wrong.
        Some(0) => Some(end),
        Some(_) => Some(nul),
        None => None,
    }
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
        assert_eq!(parts(&Split::Mqtt, &[0x30, 9, 1]), [b""; 0], "an incomplete one waits for the rest");
        assert_eq!(
            parts(&Split::Mqtt, &[0x30, 0xff, 0xff, 0xff, 0xff, 1]).len(),
            1,
            "a malformed one does not"
        );
    }

    #[test]
    fn stomp_frames_are_divided() {
        let receipt = b"RECEIPT\nreceipt-id:7\n\n";
        let binary = b"MESSAGE\r\ncontent-length:5\r\n\r\na\0b\0c";
        let all = [b"\n\r\n", &receipt[..], b"\0\n", binary, b"\0", b"ERROR\0\n\n"].concat();
        assert_eq!(parts(&Split::Stomp, &all), [&receipt[..], binary, b"ERROR"]);
        assert_eq!(parts(&Split::Stomp, b"\n"), [b""; 0]);
        let wrong = b"MESSAGE\ncontent-length:2\n\nabc";
        assert_eq!(parts(&Split::Stomp, &[&wrong[..], b"\0"].concat()), [wrong]);
        let huge = format!("MESSAGE\ncontent-length:{}\n\nabc\0", usize::MAX);
        assert_eq!(parts(&Split::Stomp, huge.as_bytes()).len(), 1);
    }

    #[test]
    fn messages_of_a_stream_are_the_same_wherever_it_is_cut() {
        let packets = [&[0x40, 2, 0, 1][..], &[0x30, 0x82, 0x01], &[7; 130], &[0xd0, 0]].concat();
        let frames = b"\nRECEIPT\nreceipt-id:7\n\n\0\nMESSAGE\ncontent-length:3\n\na\0c\0".to_vec();
        for (split, stream) in [(Split::Mqtt, packets), (Split::Stomp, frames)] {
            let whole: Vec<Vec<u8>> = parts(&split, &stream).into_iter().map(<[u8]>::to_vec).collect();
            for cut in 0..stream.len() {
                let (mut found, mut kept) = (Vec::new(), Vec::new());
                for half in [&stream[..cut], &stream[cut..]] {
                    kept.extend_from_slice(half);
                    let mut rest = &kept[..];
                    while let Some((message, behind)) = split.first(rest) {
                        found.push(message.to_vec());
                        rest = behind;
                    }
                    kept = rest.to_vec();
                }
                assert_eq!(found, whole, "cut at {cut}");
            }
        }
    }
}

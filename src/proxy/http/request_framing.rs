//! Parses the heads and bodies of a client's requests (RFC 9112) before hyper does, and enforces the rules of `serve`
//! on heads: hyper accepts lines that end with LF alone, where an upstream may see one line and the proxy two.
//!
//! A violation in a head is replaced with a NUL byte, which no head may contain, so that hyper refuses the request as
//! malformed. hyper finds all other violations itself.
//!
//! Never: bytes that are held back, or memory beyond a head's limit.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use echoring_proto::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};

/// Tracks the framing of one client's requests.
#[derive(Debug)]
pub(crate) struct RequestFraming {
    state: FramingState,
    /// The bytes of the head so far.
    head: Vec<u8>,
    /// The previous byte of a head or trailer.
    before: u8,
    malformed_body: MalformedBody,
}

/// Set when a chunked body is malformed, so that the client is blamed and not the upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct MalformedBody(Rc<Cell<bool>>);

impl MalformedBody {
    pub(crate) fn get(&self) -> bool {
        self.0.get()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingState {
    Head,
    /// This number of body bytes remains.
    Body(u64),
    Chunked(Chunk),
    /// The rest is not inspected: WebSocket frames, or a request that hyper refuses.
    Opaque,
}

/// Position in a chunked body (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size {
        bytes: u64,
        digits: u8,
    },
    /// Behind the size, up to the end of the line.
    Extension {
        bytes: u64,
    },
    SizeLf {
        bytes: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// A line of the trailer section; `empty` while no byte of it was read.
    Trailer {
        empty: bool,
    },
}

impl RequestFraming {
    pub(crate) fn new(malformed_body: &MalformedBody) -> RequestFraming {
        RequestFraming {
            state: FramingState::Head,
            head: Vec::new(),
            before: 0,
            malformed_body: malformed_body.clone(),
        }
    }

    /// Inspects `bytes`, which were just read, and corrupts violations.
    pub(crate) fn inspect(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                FramingState::Opaque => return,
                FramingState::Body(left) | FramingState::Chunked(Chunk::Data { left }) => {
                    let now = (*left).min((bytes.len() - at) as u64);
                    *left -= now;
                    at += now as usize;
                    if *left == 0 {
                        self.state = match self.state {
                            FramingState::Body(_) => FramingState::Head,
                            _ => FramingState::Chunked(Chunk::DataCr),
                        };
                    }
                }
                FramingState::Head => {
                    self.head_byte(&mut bytes[at]);
                    at += 1;
                }
                FramingState::Chunked(chunk) => {
                    let chunk = *chunk;
                    self.chunk_byte(chunk, &mut bytes[at]);
                    at += 1;
                }
            }
        }
    }

    fn head_byte(&mut self, byte: &mut u8) {
        if *byte == b'\n' && self.before != b'\r' {
            *byte = 0;
            self.state = FramingState::Opaque;
            return;
        }
        self.before = *byte;
        self.head.push(*byte);
        if *byte != b'\n' {
            if self.head.len() > HEAD_BYTES_DEFAULT {
                self.state = FramingState::Opaque;
            }
        } else if self.head == b"\r\n" {
            // Empty lines before a request are ignored (RFC 9112, 2.2).
            self.head.clear();
        } else if self.head.ends_with(b"\r\n\r\n") {
            self.state = state_behind(&self.head);
            self.head.clear();
            self.before = 0;
        }
    }

    fn chunk_byte(&mut self, chunk: Chunk, byte: &mut u8) {
        let next = match (chunk, *byte) {
            (Chunk::Size { bytes, digits: digits @ 0..16 }, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
                Some(Chunk::Size { bytes: bytes << 4 | digit, digits: digits + 1 })
            }
            (Chunk::Size { bytes, digits: 1.. } | Chunk::Extension { bytes }, b'\r') => {
                Some(Chunk::SizeLf { bytes })
            }
            (Chunk::Size { bytes, digits: 1.. }, b';' | b' ' | b'\t') => Some(Chunk::Extension { bytes }),
            (Chunk::Extension { bytes }, other) if other != b'\n' => Some(Chunk::Extension { bytes }),
            (Chunk::SizeLf { bytes: 0 }, b'\n') => Some(Chunk::Trailer { empty: true }),
            (Chunk::SizeLf { bytes }, b'\n') => Some(Chunk::Data { left: bytes }),
            (Chunk::DataCr, b'\r') => Some(Chunk::DataLf),
            (Chunk::DataLf, b'\n') => Some(Chunk::Size { bytes: 0, digits: 0 }),
            (Chunk::Trailer { empty }, b'\n') if self.before == b'\r' => {
                self.before = 0;
                if empty {
                    self.state = FramingState::Head;
                    return;
                }
                Some(Chunk::Trailer { empty: true })
            }
            (Chunk::Trailer { .. }, b'\n') => {
                *byte = 0;
                None
            }
            (Chunk::Trailer { empty }, other) => {
                self.before = other;
                Some(Chunk::Trailer { empty: empty && other == b'\r' })
            }
            _ => None,
        };
        self.state = match next {
            Some(chunk) => FramingState::Chunked(chunk),
            None => {
                self.malformed_body.0.set(true);
                FramingState::Opaque
            }
        };
        if matches!(next, Some(Chunk::Trailer { empty: true })) && *byte == b'\n' {
            self.before = 0;
        }
    }
}

/// The state behind a request head, from its header fields.
fn state_behind(head: &[u8]) -> FramingState {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return FramingState::Opaque;
    }
    let lists = |name: &str, token: &str| {
        request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).any(|header| {
            let mut elements = header.value.split(|&byte| byte == b',');
            elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    };
    let mut lengths =
        request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().and_then(|header| str::from_utf8(header.value).ok()?.trim().parse().ok());
    if request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding")) {
        if lists("transfer-encoding", "chunked") && request.version == Some(1) {
            FramingState::Chunked(Chunk::Size { bytes: 0, digits: 0 })
        } else {
            FramingState::Opaque
        }
    } else if let Some(bytes @ 1..) = length {
        FramingState::Body(bytes)
    } else if request.method == Some("GET") && lists("connection", "upgrade") && lists("upgrade", "websocket")
    {
        // WebSocket frames follow, or the end of the connection.
        FramingState::Opaque
    } else {
        FramingState::Head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inspects `sent` in parts of this size. Returns the resulting bytes, and whether a body was malformed.
    fn followed(sent: &[u8], part: usize) -> (Vec<u8>, bool) {
        let malformed_body = MalformedBody::default();
        let mut request_framing = RequestFraming::new(&malformed_body);
        let mut passed = sent.to_vec();
        passed.chunks_mut(part).for_each(|part| request_framing.inspect(part));
        (passed, malformed_body.get())
    }

    const SIZES: [usize; 5] = [1, 2, 3, 7, 10_000];

    #[test]
    fn well_formed_requests_pass_unchanged() {
        let requests: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\n\nab\nGET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\na\nb\r\n00\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\nA \r\n0123\n56789\r\n0\r\nX: y\r\nZ:\r\n\r\nGET",
            b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x81\n\n\n\n\n",
            b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ];
        for sent in requests {
            for part in SIZES {
                assert_eq!(followed(sent, part), (sent.to_vec(), false), "{}", String::from_utf8_lossy(sent));
            }
        }
    }

    #[test]
    fn a_bare_lf_in_a_head_or_trailer_is_corrupted() {
        for (before, behind) in [
            ("GET / HTTP/1.1", "Host: a\r\n\r\n"),
            ("", "GET / HTTP/1.1\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a", "\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", ""),
            ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", "GET / HTTP/1.1\r\n\r\n"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET / HTTP/1.1",
                "\r\n",
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y", "\r\n"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", ""),
        ] {
            let sent = format!("{before}\n{behind}");
            let passed = format!("{before}\0{behind}").into_bytes();
            for part in SIZES {
                assert_eq!(followed(sent.as_bytes(), part).0, passed, "{sent}");
            }
        }
    }

    #[test]
    fn a_malformed_chunk_is_detected() {
        for body in
            ["x\r\n", "\r\n", "5;\n", "3\r\nabcd", "3\r\nabc\rx", "11111111111111111\r\n", "0\r\nA: b\n"]
        {
            let sent = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            for part in SIZES {
                assert!(followed(sent.as_bytes(), part).1, "{body:?}");
            }
        }
    }
}

//! Follows where heads and bodies of a client's requests begin and end (RFC 9112), and holds heads to what `serve` takes:
//! hyper lets a line end with LF alone, and a server behind may see one line where the proxy saw two.
//!
//! It sees bytes as they are read, before hyper does. What is wrong in a head is made a NUL, which no head may have, so
//! that hyper refuses the request as it refuses any malformed one. Whatever else hyper refuses is left to it.
//!
//! Never: bytes that are held back, or memory beyond a head's.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

/// The framing of what one client sends.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// The head so far.
    head: Vec<u8>,
    /// The latest byte of a head or trailer.
    before: u8,
    broken: Broken,
}

/// Whether a body is not chunked as it says, which is the client's fault and not the server's.
#[derive(Clone, Debug, Default)]
pub(super) struct Broken(Rc<Cell<bool>>);

impl Broken {
    pub(super) fn get(&self) -> bool {
        self.0.get()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    Chunked(Chunk),
    /// Nothing more is looked at: frames, or what hyper refuses.
    Through,
}

/// Where in a chunked body (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size {
        bytes: u64,
        digits: u8,
    },
    /// Behind the size, to the end of the line.
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
    /// A line of the trailer section, which is empty or not so far.
    Trailer {
        empty: bool,
    },
}

impl Framing {
    pub(super) fn new(broken: &Broken) -> Framing {
        Framing { state: State::Head, head: Vec::new(), before: 0, broken: broken.clone() }
    }

    /// Follows `bytes`, which were just read, and spoils what may not pass.
    pub(super) fn follow(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Through => return,
                State::Body(left) | State::Chunked(Chunk::Data { left }) => {
                    let now = (*left).min((bytes.len() - at) as u64);
                    *left -= now;
                    at += now as usize;
                    if *left == 0 {
                        self.state = match self.state {
                            State::Body(_) => State::Head,
                            _ => State::Chunked(Chunk::DataCr),
                        };
                    }
                }
                State::Head => {
                    self.head_byte(&mut bytes[at]);
                    at += 1;
                }
                State::Chunked(chunk) => {
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
            self.state = State::Through;
            return;
        }
        self.before = *byte;
        self.head.push(*byte);
        if *byte != b'\n' {
            if self.head.len() > HEAD_BYTES_MAX {
                self.state = State::Through;
            }
        } else if self.head == b"\r\n" {
            // Empty lines before a request are passed over (RFC 9112, 2.2).
            self.head.clear();
        } else if self.head.ends_with(b"\r\n\r\n") {
            self.state = body_of(&self.head);
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
                    self.state = State::Head;
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
            Some(chunk) => State::Chunked(chunk),
            None => {
                self.broken.0.set(true);
                State::Through
            }
        };
        if matches!(next, Some(Chunk::Trailer { empty: true })) && *byte == b'\n' {
            self.before = 0;
        }
    }
}

/// What follows a whole head.
fn body_of(head: &[u8]) -> State {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return State::Through;
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
            State::Chunked(Chunk::Size { bytes: 0, digits: 0 })
        } else {
            State::Through
        }
    } else if let Some(bytes @ 1..) = length {
        State::Body(bytes)
    } else if request.method == Some("GET") && lists("connection", "upgrade") && lists("upgrade", "websocket")
    {
        // Frames follow, or the end of the connection.
        State::Through
    } else {
        State::Head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `sent` in parts of so many bytes, and whether a body was broken.
    fn followed(sent: &[u8], part: usize) -> (Vec<u8>, bool) {
        let broken = Broken::default();
        let mut framing = Framing::new(&broken);
        let mut passed = sent.to_vec();
        passed.chunks_mut(part).for_each(|part| framing.follow(part));
        (passed, broken.get())
    }

    const SIZES: [usize; 5] = [1, 2, 3, 7, 10_000];

    #[test]
    fn what_is_well_formed_passes_as_it_is() {
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
    fn a_line_of_a_head_or_trailer_that_ends_with_lf_alone_is_spoilt_wherever_it_is() {
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
    fn a_chunk_that_is_none_is_noticed() {
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

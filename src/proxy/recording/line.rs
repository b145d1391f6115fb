//! One record as a line of JSON. Fields with their default value (`fin: true`, no encoding) are omitted.

#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{Event, Frame, FrameKind, Open, Record, Side};

/// The first line of a recording.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) schema: String,
    /// Wall-clock time at which the recording started; `t_ns` counts from there.
    pub(super) started_unix_ns: u64,
    /// Version of the program that wrote the recording.
    pub(super) version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Open,
    Text,
    Binary,
    Continuation,
    Ping,
    Pong,
    Close,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Base64,
}

/// A line, as serde reads and writes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    t_ns: u64,
    conn: u64,
    dir: Side,
    kind: Kind,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    fin: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    compressed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subprotocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extensions: Option<String>,
}

fn yes() -> bool {
    true
}

// serde passes references.
fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Line {
    fn new(record: &Record, kind: Kind) -> Line {
        Line {
            t_ns: record.t_ns,
            conn: record.conn,
            dir: record.from,
            kind,
            fin: true,
            compressed: false,
            encoding: None,
            data: None,
            code: None,
            reason: None,
            path: None,
            peer: None,
            upstream: None,
            subprotocol: None,
            extensions: None,
        }
    }

    pub(super) fn of(record: &Record) -> Line {
        match &record.event {
            Event::Open(open) => Line {
                path: Some(open.path.clone()),
                peer: Some(open.peer.clone()),
                upstream: Some(open.upstream.clone()),
                subprotocol: open.subprotocol.clone(),
                extensions: open.extensions.clone(),
                ..Line::new(record, Kind::Open)
            },
            Event::Frame(frame) => {
                let (data, encoding) = encode(frame);
                Line {
                    fin: frame.fin,
                    compressed: frame.compressed,
                    encoding,
                    data: Some(data),
                    ..Line::new(record, frame.kind.into())
                }
            }
            Event::Close { code, reason } => Line {
                code: *code,
                reason: (!reason.is_empty()).then(|| reason.clone()),
                ..Line::new(record, Kind::Close)
            },
            Event::End { code } => Line { code: Some(*code), ..Line::new(record, Kind::End) },
        }
    }

    /// The record, or the problem in the line.
    pub(super) fn into_record(self) -> Result<Record, &'static str> {
        let Line { t_ns, conn, dir, .. } = self;
        let event = match self.kind {
            Kind::Open => Event::Open(Open {
                path: self.path.unwrap_or_default(),
                peer: self.peer.unwrap_or_default(),
                upstream: self.upstream.unwrap_or_default(),
                subprotocol: self.subprotocol,
                extensions: self.extensions,
            }),
            Kind::Close => Event::Close { code: self.code, reason: self.reason.unwrap_or_default() },
            Kind::End => Event::End { code: self.code.ok_or("an end without a code")? },
            Kind::Text => self.frame(FrameKind::Text)?,
            Kind::Binary => self.frame(FrameKind::Binary)?,
            Kind::Continuation => self.frame(FrameKind::Continuation)?,
            Kind::Ping => self.frame(FrameKind::Ping)?,
            Kind::Pong => self.frame(FrameKind::Pong)?,
        };
        Ok(Record { t_ns, conn, from: dir, event })
    }

    fn frame(self, kind: FrameKind) -> Result<Event, &'static str> {
        let data = self.data.ok_or("a frame without data")?;
        let payload = match self.encoding {
            None => data.into_bytes(),
            Some(Encoding::Base64) => STANDARD.decode(data).map_err(|_| "data that is not base64")?,
        };
        let Line { fin, compressed, .. } = self;
        Ok(Event::Frame(Frame { kind, fin, compressed, payload: Bytes::from(payload) }))
    }
}

impl From<FrameKind> for Kind {
    fn from(kind: FrameKind) -> Kind {
        match kind {
            FrameKind::Text => Kind::Text,
            FrameKind::Binary => Kind::Binary,
            FrameKind::Continuation => Kind::Continuation,
            FrameKind::Ping => Kind::Ping,
            FrameKind::Pong => Kind::Pong,
        }
    }
}

/// Valid UTF-8 of text and control frames is written as text, everything else as base64. A continuation may be either;
/// one that is cut inside a character is base64.
fn encode(frame: &Frame) -> (String, Option<Encoding>) {
    let readable = !frame.compressed && frame.kind != FrameKind::Binary;
    match str::from_utf8(&frame.payload) {
        Ok(text) if readable => (text.to_owned(), None),
        _ => (STANDARD.encode(&frame.payload), Some(Encoding::Base64)),
    }
}

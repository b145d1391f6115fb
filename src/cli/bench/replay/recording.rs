//! Makes a script of a recording: whole messages, decompressed, with the ends of their connections.
//!
//! Never: more memory than the bound of a script for incomplete messages, or than [`INFLATER_BYTES_MAX`] for the
//! windows of compressed connections.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use echoring_load::{AnswerComparison, REPLAY_BYTES_MAX, RecordedEnd, Script, ScriptBuilder};
use echoring_proto::connection::MessageKind;
use echoring_proto::deflate::{self, Agreement, Direction, Inflater, Preferences, WINDOW_BITS_MAX};
use echoring_proto::{CloseCode, Role};
use echoring_proxy::recording::{Event, Frame, FrameKind, Open, Reader, Record, Side};

/// Memory of the decompression of all connections that are open at one time in the recording.
const INFLATER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Bytes that are read from the file at once.
const READ_BYTES: usize = 256 * 1024;

/// Reads a recording. Lines after a truncated one are missing, and the script says so.
///
/// # Errors
/// If it cannot be read, is not a recording, or is too large; with the line.
pub(super) fn read(path: &Path, comparison: AnswerComparison) -> Result<Script, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    script_of(BufReader::with_capacity(READ_BYTES, file), name, comparison)
}

fn script_of(input: impl BufRead, name: String, comparison: AnswerComparison) -> Result<Script, String> {
    let mut reader = Reader::new(input).map_err(|error| error.to_string())?;
    let mut translation = Translation {
        builder: ScriptBuilder::new(name, comparison),
        connections: HashMap::new(),
        pending_bytes: 0,
        inflater_bytes: 0,
        inflated: Vec::new(),
    };
    let mut truncated = None;
    while let Some(record) = reader.next() {
        let line = reader.line();
        match record {
            Ok(record) => translation.take(record).map_err(|why| format!("line {line}: {why}"))?,
            Err(error) if error.is_cut_off() => truncated = Some(format!("line {line} is cut off")),
            Err(error) => return Err(error.to_string()),
        }
    }
    translation.builder.finish(truncated)
}

struct Translation {
    builder: ScriptBuilder,
    /// Those that are open, by their numbers.
    connections: HashMap<u64, Connection>,
    /// Bytes of all messages that are not whole yet.
    pending_bytes: u64,
    inflater_bytes: usize,
    /// The latest decompressed message; kept for its capacity.
    inflated: Vec<u8>,
}

/// A connection of the recording.
struct Connection {
    agreement: Option<Agreement>,
    client: Lane,
    upstream: Lane,
}

/// One direction of a connection.
#[derive(Default)]
struct Lane {
    message: Option<Message>,
    inflater: Option<Box<Inflater>>,
}

/// A message that is not whole yet.
struct Message {
    kind: MessageKind,
    is_compressed: bool,
    payload: Vec<u8>,
}

impl Translation {
    fn take(&mut self, Record { t_ns, conn, from, event }: Record) -> Result<(), String> {
        match event {
            Event::Open(open) => self.open(conn, t_ns, open),
            Event::Frame(frame) => match frame.kind {
                FrameKind::Ping if from == Side::Client => self.builder.pinged(conn, t_ns, &frame.payload),
                // The WebSocket layer answers pings.
                FrameKind::Ping | FrameKind::Pong => Ok(()),
                FrameKind::Text | FrameKind::Binary | FrameKind::Continuation => {
                    self.frame(conn, t_ns, from, &frame)
                }
            },
            Event::Close { code, reason } => {
                let code = code.map_or(CloseCode::NO_STATUS, CloseCode);
                let end = match from {
                    Side::Client => RecordedEnd::Close(code, reason),
                    Side::Upstream => RecordedEnd::ByServer(code),
                };
                self.builder.ended(conn, t_ns, end)
            }
            Event::End { code } => {
                self.forget(conn);
                // Only if there was no Close frame.
                self.builder.ended(conn, t_ns, end_without_close(from, CloseCode(code)))
            }
        }
    }

    fn open(&mut self, conn: u64, t_ns: u64, open: Open) -> Result<(), String> {
        let agreement = open.extensions.as_deref().map(agreement).transpose()?;
        self.builder.opened(conn, t_ns, open.path, open.subprotocol)?;
        let connection = Connection { agreement, client: Lane::default(), upstream: Lane::default() };
        self.connections.insert(conn, connection);
        Ok(())
    }

    /// A frame of a message, which may be the last.
    fn frame(&mut self, conn: u64, t_ns: u64, from: Side, frame: &Frame) -> Result<(), String> {
        let unknown = || format!("connection {conn} is not open");
        let connection = self.connections.get_mut(&conn).ok_or_else(unknown)?;
        let lane = match from {
            Side::Client => &mut connection.client,
            Side::Upstream => &mut connection.upstream,
        };
        let kind = match frame.kind {
            FrameKind::Text => Some(MessageKind::Text),
            FrameKind::Binary => Some(MessageKind::Binary),
            _ => None,
        };
        match (&mut lane.message, kind) {
            (None, Some(kind)) => {
                lane.message = Some(Message { kind, is_compressed: frame.compressed, payload: Vec::new() });
            }
            (Some(_), None) => {}
            (None, None) => {
                return Err(format!("connection {conn} continues a message that has no beginning"));
            }
            (Some(_), Some(_)) => return Err(format!("connection {conn} begins a message within another")),
        }
        self.pending_bytes += frame.payload.len() as u64;
        if self.pending_bytes > REPLAY_BYTES_MAX {
            return Err("too many messages are not complete".to_owned());
        }
        let Some(message) = &mut lane.message else { return Ok(()) };
        message.payload.extend_from_slice(&frame.payload);
        if !frame.fin {
            return Ok(());
        }
        let Some(message) = lane.message.take() else { return Ok(()) };
        self.pending_bytes -= message.payload.len() as u64;
        let payload = if message.is_compressed {
            let direction = connection.agreement.as_ref().map(|agreement| agreement.inbound(receiver(from)));
            let direction = direction
                .ok_or_else(|| format!("connection {conn} has compressed messages and no extension"))?;
            if lane.inflater.is_none() {
                self.inflater_bytes += Inflater::memory_bytes(direction);
                if self.inflater_bytes > INFLATER_BYTES_MAX {
                    return Err(format!(
                        "decompression takes more than {} MiB; record with proxy --compress off",
                        INFLATER_BYTES_MAX >> 20
                    ));
                }
            }
            let inflater = lane.inflater.get_or_insert_with(|| Box::new(Inflater::new(direction)));
            let bytes = inflater
                .inflate(&message.payload, &mut self.inflated, REPLAY_BYTES_MAX as usize)
                .map_err(|why| format!("a message of connection {conn} cannot be decompressed: {why}"))?;
            &self.inflated[..bytes]
        } else {
            &message.payload
        };
        match from {
            Side::Client => self.builder.sent(conn, t_ns, message.kind, payload),
            Side::Upstream => self.builder.answered(conn, t_ns, message.kind, payload),
        }
    }

    /// A connection is over: messages that are not whole are left out.
    fn forget(&mut self, conn: u64) {
        let Some(Connection { agreement, client, upstream }) = self.connections.remove(&conn) else { return };
        for (side, lane) in [(Side::Client, client), (Side::Upstream, upstream)] {
            self.pending_bytes -= lane.message.map_or(0, |message| message.payload.len() as u64);
            if let (Some(_), Some(agreement)) = (lane.inflater, &agreement) {
                self.inflater_bytes -= Inflater::memory_bytes(agreement.inbound(receiver(side)));
            }
        }
    }
}

/// The role that receives what `side` sends.
fn receiver(side: Side) -> Role {
    match side {
        Side::Client => Role::Server,
        Side::Upstream => Role::Client,
    }
}

/// The parameters of the extension of a recorded connection.
fn agreement(extensions: &str) -> Result<Agreement, String> {
    const ANY: Direction = Direction { context_takeover: true, window_bits: WINDOW_BITS_MAX };
    let any = Preferences { server: ANY, client: ANY };
    match deflate::accept_response([extensions.as_bytes()].into_iter(), &any) {
        Ok(Some(agreement)) => Ok(agreement),
        Ok(None) => Err(format!("unknown extension {extensions:?}")),
        Err(why) => Err(format!("extension {extensions:?}: {why}")),
    }
}

/// How a connection ended that had no Close frame of either side.
fn end_without_close(by: Side, code: CloseCode) -> RecordedEnd {
    /// The close code for a client whose upstream failed.
    const BAD_GATEWAY: CloseCode = CloseCode(1014);
    match by {
        _ if code != CloseCode::ABNORMAL && code != BAD_GATEWAY => {
            // The proxy closed it. So the server saw a client that did.
            RecordedEnd::Close(code, String::new())
        }
        Side::Client => RecordedEnd::Abort,
        Side::Upstream => RecordedEnd::ByServer(CloseCode::ABNORMAL),
    }
}

#[cfg(test)]
mod tests;

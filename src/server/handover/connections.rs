//! Open connections move to the successor, on a socket of their own, which the predecessor makes and passes with its listeners.
//!
//! ```text
//! predecessor                                   successor
//!     ── Connections, and their descriptors ──>   each goes to a shard, which takes it in or not
//!     <───────────────────────────── Taken ──   the predecessor forgets it, or continues it
//!     <───────────────── Taken, of nothing ──   the successor takes no more, and has said everything
//! ```
//!
//! The predecessor keeps what it has sent until it hears of it. So a connection that the successor refuses goes on where it was. One is
//! never read by both: a shard of the successor reads nothing before it has taken the connection in, and the predecessor nothing before it
//! knows that none has. A successor that is killed may have read what it has not said that it took: those connections end.

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::commands::ShardCommand;
use crate::commands::move_order::MoveOrder;
use crate::limits::{MOVE_TIMEOUT, PROCESS_FRAME_BYTES_MAX, PROCESS_STALL_TIMEOUT};
use crate::node::handle::Handle;
use crate::processes::wire::{
    FrameKind, append_frame, in_words, invalid, receive, receive_sockets, send_sockets,
};
use echoring_proto::Plain as _;
use echoring_runtime::shard::{ControlMessage, Destination, Detached, Exits, MoveAnswer, Record};

/// Connections of one frame.
const CONNECTIONS_PER_FRAME: usize = 64;
/// The most bytes of numbers and lengths in front of a record, and in front of all.
const LENGTHS_BYTES: usize = 16;
/// Bytes of records after which a frame ends.
const FRAME_BYTES: usize = 1024 * 1024;
/// Connections that are sent and not answered.
const UNANSWERED_MAX: usize = 1_024;
/// Interval of checks whether all shards are done.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// How many connections have moved to a successor, and how many have come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenConnections {
    pub(super) taken_in: u64,
    pub(super) refused: u64,
}

/// The connections that are on their way.
#[derive(Debug, Default)]
struct Unanswered {
    connections: BTreeMap<u64, Detached>,
    counts: GivenConnections,
    /// The successor answers no more.
    is_over: bool,
}

/// How many connections a successor has room for, and the paths of its back ends.
pub(super) type Room = (usize, Arc<[String]>);

/// Moves all connections that can move to the successor, as far as it has room.
///
/// # Errors
/// If the socket fails: connections that the successor may have are lost then, and the others stay.
pub(super) fn give(server: &Handle, stream: &UnixStream, room: Room) -> io::Result<GivenConnections> {
    let (most, backends) = room;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(Some(Duration::from_nanos(PROCESS_STALL_TIMEOUT)))?;
    let (way, leaving) = mpsc::channel();
    let unanswered = Arc::new(Mutex::new(Unanswered::default()));
    let answers = {
        let (unanswered, exits) = (Arc::clone(&unanswered), Arc::clone(&server.exits));
        let stream = stream.try_clone()?;
        thread::Builder::new()
            .name("moves-answered".to_owned())
            .spawn(move || take_answers(&stream, &unanswered, &exits))?
    };
    server.exits.set_process(Some(way));
    let (done, reports) = mpsc::sync_channel(server.remotes.len());
    let share = most.div_ceil(server.remotes.len());
    server.send_all(|| {
        let (to, within, done) = (Destination::Process, MOVE_TIMEOUT, done.clone());
        ControlMessage::Command(ShardCommand::MoveAway(MoveOrder {
            to,
            backends: Arc::clone(&backends),
            most: share,
            only_idle: false,
            within,
            done,
        }))
    });
    drop(done);
    let sent = send_all(stream, &leaving, &unanswered, &reports, &server.exits);
    server.exits.set_process(None);
    // Those that came too late.
    leaving.try_iter().for_each(|detached| go_back(&server.exits, detached));
    // The successor hears that no more follow, and the answers end.
    let _ = stream.shutdown(Shutdown::Write);
    let given_up = Instant::now() + Duration::from_nanos(PROCESS_STALL_TIMEOUT);
    while !answers.is_finished() && Instant::now() < given_up {
        thread::sleep(CHECK_INTERVAL);
    }
    let _ = stream.shutdown(Shutdown::Both);
    let _ = answers.join();
    sent.map(|()| lock(&unanswered).counts)
}

fn lock(unanswered: &Mutex<Unanswered>) -> MutexGuard<'_, Unanswered> {
    unanswered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that was not taken in goes on where it was.
fn go_back(exits: &Exits, detached: Detached) {
    if exits.send_back(detached).is_err() {
        exits.note_arrival();
    }
}

/// Sends connections until all shards are done and everything is answered.
fn send_all(
    stream: &UnixStream,
    leaving: &mpsc::Receiver<Detached>,
    unanswered: &Mutex<Unanswered>,
    reports: &mpsc::Receiver<(usize, usize)>,
    exits: &Exits,
) -> io::Result<()> {
    let given_up = Instant::now() + 2 * Duration::from_nanos(MOVE_TIMEOUT);
    let (mut number, mut are_done) = (0, false);
    loop {
        let batch = if lock(unanswered).connections.len() < UNANSWERED_MAX {
            next_batch(leaving)
        } else {
            thread::sleep(CHECK_INTERVAL);
            Vec::new()
        };
        if batch.is_empty() {
            are_done |= loop {
                match reports.try_recv() {
                    Ok(_) => {}
                    Err(error) => break error == mpsc::TryRecvError::Disconnected,
                }
            };
            let unanswered = lock(unanswered);
            let is_over = unanswered.is_over || Instant::now() >= given_up;
            if is_over || (are_done && unanswered.connections.is_empty()) {
                return Ok(());
            }
        } else {
            let (frame, sockets) = match encode_batch(&batch, number) {
                Ok(encoded) => encoded,
                Err(error) => {
                    // The successor has heard nothing of them.
                    batch.into_iter().for_each(|detached| go_back(exits, detached));
                    return Err(error);
                }
            };
            // Before the answer can come.
            for detached in batch {
                lock(unanswered).connections.insert(number, detached);
                number += 1;
            }
            io::Write::write_all(&mut &*stream, &frame).map_err(in_words)?;
            send_sockets(stream, &sockets.iter().map(OwnedFd::as_fd).collect::<Vec<_>>())?;
        }
    }
}

fn next_batch(leaving: &mpsc::Receiver<Detached>) -> Vec<Detached> {
    let Ok(first) = leaving.recv_timeout(CHECK_INTERVAL) else { return Vec::new() };
    let mut bytes = first.record.len();
    let mut batch = vec![first];
    while batch.len() < CONNECTIONS_PER_FRAME
        && bytes < FRAME_BYTES
        && let Ok(detached) = leaving.try_recv()
    {
        bytes += detached.record.len();
        batch.push(detached);
    }
    batch
}

/// The frame of some connections, of which the first has this number, and duplicates of their sockets.
fn encode_batch(batch: &[Detached], number: u64) -> io::Result<(Record, Vec<OwnedFd>)> {
    let records: Vec<(u64, &[u8])> =
        batch.iter().zip(number..).map(|(detached, number)| (number, &detached.record[..])).collect();
    // At its full size, as no part of a secret is to stay behind.
    let bytes: usize = records.iter().map(|(_, record)| record.len() + LENGTHS_BYTES).sum();
    let mut frame = Record::new(Vec::with_capacity(bytes + LENGTHS_BYTES));
    append_frame(&mut frame, FrameKind::CONNECTIONS, |frame| records.put(frame));
    if frame.len() > PROCESS_FRAME_BYTES_MAX {
        return Err(invalid("a connection is longer than a frame may be"));
    }
    let sockets: io::Result<_> = batch.iter().map(|detached| detached.socket.try_clone()).collect();
    Ok((frame, sockets?))
}

/// Takes the successor's answers until it says no more.
fn take_answers(stream: &UnixStream, unanswered: &Mutex<Unanswered>, exits: &Exits) {
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    let takes_no_more = loop {
        match receive(&mut reader, &mut body) {
            Ok(FrameKind::TAKEN) if body.is_empty() => break true,
            Ok(FrameKind::TAKEN) => {}
            Ok(_) | Err(_) => break false,
        }
        let mut answers = &body[..];
        while let Some((number, is_taken)) = <(u64, bool)>::take(&mut answers) {
            let detached = lock(unanswered).connections.remove(&number);
            match detached {
                Some(_) if is_taken => {
                    lock(unanswered).counts.taken_in += 1;
                    exits.note_arrival();
                }
                Some(detached) => {
                    lock(unanswered).counts.refused += 1;
                    go_back(exits, detached);
                }
                None => {}
            }
        }
    };
    let left = {
        let mut unanswered = lock(unanswered);
        unanswered.is_over = true;
        std::mem::take(&mut unanswered.connections)
    };
    for detached in left.into_values() {
        if takes_no_more {
            go_back(exits, detached);
        } else {
            exits.note_arrival();
        }
    }
}

/// Takes the connections of the predecessor in, on threads of its own, which end with the socket.
pub(super) fn take_on_threads(server: &Handle, stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(Some(Duration::from_nanos(PROCESS_STALL_TIMEOUT)))?;
    let (answer, answers) = mpsc::channel();
    let writing = stream.try_clone()?;
    thread::Builder::new()
        .name("moves-answers".to_owned())
        .spawn(move || send_answers(&writing, &answers))?;
    let (exits, shards) = (Arc::clone(&server.exits), server.remotes.len());
    thread::Builder::new().name("moves-in".to_owned()).spawn(move || {
        let end = take_all(&stream, &exits, shards, &answer);
        if end.kind() != io::ErrorKind::UnexpectedEof {
            tracing::warn!(error = %end, "no longer taking over connections of the previous server");
            // The connections that were taken out of the channel are still answered.
            let _ = stream.shutdown(Shutdown::Read);
        }
    })?;
    Ok(())
}

/// Passes connections on to the shards in turn, until the predecessor ends, as the error tells.
fn take_all(
    stream: &UnixStream,
    exits: &Exits,
    shards: usize,
    answer: &mpsc::Sender<(u64, bool)>,
) -> io::Error {
    let mut body = Record::default();
    loop {
        let taken = match receive(&mut &*stream, &mut body) {
            Ok(FrameKind::CONNECTIONS) => take_batch(stream, &body, exits, shards, answer),
            Ok(_) => Err(invalid("an unexpected frame")),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            return error;
        }
    }
}

fn take_batch(
    stream: &UnixStream,
    body: &[u8],
    exits: &Exits,
    shards: usize,
    answer: &mpsc::Sender<(u64, bool)>,
) -> io::Result<()> {
    let records = Vec::<(u64, &[u8])>::decode(body).filter(|records| records.len() <= CONNECTIONS_PER_FRAME);
    let records = records.ok_or_else(|| invalid("connections that are not well formed"))?;
    let sockets = receive_sockets(stream, records.len())?;
    for (socket, (number, record)) in sockets.into_iter().zip(records) {
        let record = Record::new(record.to_vec());
        let to = Destination::Shard((number % shards as u64) as usize);
        let answer = Some(MoveAnswer::new(answer.clone(), number));
        let charge = exits.charge(record.len());
        // Dropped, with the answer that it is not taken in, if the shard has ended.
        let _ = exits.send(Detached { record, socket, to, from: None, is_returned: false, answer, charge });
    }
    Ok(())
}

fn send_answers(stream: &UnixStream, answers: &mpsc::Receiver<(u64, bool)>) {
    while let Ok(first) = answers.recv() {
        let mut frame = Vec::new();
        append_frame(&mut frame, FrameKind::TAKEN, |frame| {
            for (number, is_taken) in std::iter::once(first).chain(answers.try_iter()) {
                (number, is_taken).put(frame);
            }
        });
        if io::Write::write_all(&mut &*stream, &frame).is_err() {
            return;
        }
    }
    let mut last = Vec::new();
    append_frame(&mut last, FrameKind::TAKEN, |_| {});
    let _ = io::Write::write_all(&mut &*stream, &last);
    let _ = stream.shutdown(Shutdown::Write);
}

//! The access log: a line for each ended connection, written by a thread of its own.
//!
//! A shard formats a record and appends it to a bounded queue. A record that does not fit, or cannot be written, is
//! dropped, counted ([`ACCESS_LOG`]), and reported in the log.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use serde_json::json;

use super::fields::Cut;
use super::format::Form;
use super::target::Target;
use crate::limits::{
    ACCESS_DROPS_LOG_INTERVAL, ACCESS_PATH_BYTES_MAX, ACCESS_QUEUE_BYTES, ACCESS_QUEUE_RECORDS,
};
use echoring_runtime::driver::monotonic_now;
use echoring_runtime::shard::{AccessRecord, WriteAccess};
use echoring_runtime::stats::{ACCESS_LOG, Traffic};

/// The access log of this process.
static ENTRANCE: OnceLock<SyncSender<AccessEntry>> = OnceLock::new();
static QUEUED_BYTES: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
enum AccessEntry {
    Record(Vec<u8>),
    Reopen,
    /// Answered once everything before it has been written, or has failed.
    Flush(SyncSender<()>),
}

/// Starts the thread that writes to `target`, and returns the appender of records.
///
/// # Errors
/// If the thread cannot be started, or the process has an access log already.
pub(super) fn start(target: Target, form: Form) -> io::Result<Arc<WriteAccess>> {
    let (entrance, exit) = sync_channel(ACCESS_QUEUE_RECORDS);
    ENTRANCE.set(entrance).map_err(|_| io::Error::other("this process has an access log already"))?;
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || run(target, &exit))?;
    Ok(Arc::new(move |record| append(line(form, SystemTime::now(), record))))
}

fn append(record: Vec<u8>) {
    let Some(entrance) = ENTRANCE.get() else { return };
    let bytes = record.len();
    let has_room = QUEUED_BYTES.fetch_add(bytes, Relaxed) + bytes <= ACCESS_QUEUE_BYTES;
    if !(has_room && entrance.try_send(AccessEntry::Record(record)).is_ok()) {
        QUEUED_BYTES.fetch_sub(bytes, Relaxed);
        note_dropped("it is not written fast enough");
    }
}

/// Counts a record that was dropped for this reason, and logs that once in [`ACCESS_DROPS_LOG_INTERVAL`].
fn note_dropped(reason: &str) {
    /// When it was logged last; 0 for never.
    static TOLD_AT: AtomicU64 = AtomicU64::new(0);
    let records = ACCESS_LOG.dropped.fetch_add(1, Relaxed) + 1;
    let (now, told_at) = (monotonic_now().max(1), TOLD_AT.load(Relaxed));
    let is_due = told_at == 0 || now.saturating_sub(told_at) >= ACCESS_DROPS_LOG_INTERVAL;
    if is_due && TOLD_AT.compare_exchange(told_at, now, Relaxed, Relaxed).is_ok() {
        tracing::warn!(records, reason, "the access log has lost records");
    }
}

/// Lets the log open its file again.
pub(super) fn reopen() {
    if let Some(entrance) = ENTRANCE.get() {
        // Waits while the queue is full: its caller is the thread of a signal.
        let _ = entrance.send(AccessEntry::Reopen);
    }
}

/// Notifies `done` once everything that is queued now has been written. False if there is no room for that, or no log.
pub(super) fn flush(done: SyncSender<()>) -> bool {
    ENTRANCE.get().is_some_and(|entrance| entrance.try_send(AccessEntry::Flush(done)).is_ok())
}

fn run(mut target: Target, exit: &Receiver<AccessEntry>) {
    for entry in exit {
        match entry {
            AccessEntry::Record(record) => {
                match target.write(&record) {
                    Ok(()) => drop(ACCESS_LOG.written.fetch_add(1, Relaxed)),
                    Err(error) => note_dropped(&error.to_string()),
                }
                QUEUED_BYTES.fetch_sub(record.len(), Relaxed);
            }
            AccessEntry::Reopen => {
                if let Err(error) = target.reopen() {
                    tracing::error!(%error, "the access log cannot be reopened; writing to the old file");
                }
            }
            // Fails if nobody waits any more.
            AccessEntry::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// The line of a record.
fn line(form: Form, now: SystemTime, record: &AccessRecord<'_>) -> Vec<u8> {
    let time = humantime::format_rfc3339_micros(now);
    let AccessRecord { address, identity, path, status, code, cause, traffic, duration } = record;
    let path = path.map(|path| {
        let mut cut = String::new();
        // Writing to a string does not fail.
        let _ = write!(Cut::new(&mut cut, ACCESS_PATH_BYTES_MAX), "{path}");
        cut
    });
    let duration_s = *duration as f64 * 1e-9;
    if form == Form::Json {
        let Traffic { messages_in, messages_out, bytes_in, bytes_out } = traffic.unwrap_or_default();
        let counted = |count: u64| traffic.map(|_| count);
        let object = json!({
            "time": time.to_string(),
            "address": address,
            "identity": identity,
            "path": path,
            "status": status,
            "code": code,
            "cause": cause,
            "messages_in": counted(messages_in),
            "messages_out": counted(messages_out),
            "bytes_in": counted(bytes_in),
            "bytes_out": counted(bytes_out),
            "duration_s": duration_s,
        });
        return format!("{object}\n").into_bytes();
    }
    let (address, status, code) = (shown(*address), shown(*status), shown(*code));
    let path = path.map_or_else(|| "-".to_owned(), |path| format!("{path:?}"));
    let identity = identity.map_or_else(|| "-".to_owned(), |identity| format!("{identity:?}"));
    let [messages_in, messages_out, bytes_in, bytes_out] = [
        traffic.map(|traffic| traffic.messages_in),
        traffic.map(|traffic| traffic.messages_out),
        traffic.map(|traffic| traffic.bytes_in),
        traffic.map(|traffic| traffic.bytes_out),
    ]
    .map(shown);
    format!(
        "{time} address={address} identity={identity} path={path} status={status} code={code} cause={cause} \
         messages_in={messages_in} messages_out={messages_out} bytes_in={bytes_in} bytes_out={bytes_out} \
         duration_s={duration_s:.6}\n"
    )
    .into_bytes()
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AccessRecord<'static> {
        AccessRecord {
            address: Some("192.0.2.1:50000".parse().expect("an address")),
            path: Some("/broadcast/a\" x\n"),
            status: Some(101),
            code: Some(1000),
            cause: "peer",
            traffic: Some(Traffic { messages_in: 1, messages_out: 2, bytes_in: 30, bytes_out: 40 }),
            duration: 1_500_000_000,
            ..AccessRecord::default()
        }
    }

    fn text(form: Form, record: &AccessRecord<'_>) -> String {
        String::from_utf8(line(form, SystemTime::UNIX_EPOCH, record)).expect("text")
    }

    #[test]
    fn a_line_of_text_has_what_a_peer_chose_in_quotes() {
        assert_eq!(
            text(Form::Text, &record()),
            "1970-01-01T00:00:00.000000Z address=192.0.2.1:50000 identity=- path=\"/broadcast/a\\\" x\\\\n\" \
             status=101 code=1000 cause=peer messages_in=1 messages_out=2 bytes_in=30 bytes_out=40 \
             duration_s=1.500000\n"
        );
        let nothing = AccessRecord { cause: "gone", ..AccessRecord::default() };
        assert!(
            text(Form::Text, &nothing)
                .contains("address=- identity=- path=- status=- code=- cause=gone messages_in=- ")
        );
    }

    #[test]
    fn an_object_has_null_for_what_is_unknown() {
        let object: serde_json::Value = serde_json::from_str(&text(Form::Json, &record())).expect("JSON");
        assert_eq!(object["address"], "192.0.2.1:50000");
        assert_eq!(object["path"], "/broadcast/a\" x\\n");
        assert_eq!((&object["code"], &object["bytes_out"]), (&json!(1000), &json!(40)));
        assert_eq!((&object["duration_s"], &object["identity"]), (&json!(1.5), &json!(null)));
        let nothing = AccessRecord { cause: "gone", ..AccessRecord::default() };
        let object: serde_json::Value = serde_json::from_str(&text(Form::Json, &nothing)).expect("JSON");
        assert_eq!((&object["path"], &object["messages_in"]), (&json!(null), &json!(null)));
    }
}

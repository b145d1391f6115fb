//! Where a log goes: stderr, a file that can be opened again, or systemd's journal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::{LOG_FILE_MODE, LOG_RETRY};

/// The socket on which journald takes records with fields.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where records are written. Only the thread of a log writes there, and may block there.
#[derive(Debug)]
pub(super) struct Target {
    sink: Sink,
    /// A write failed inside a record.
    mid_line: bool,
}

#[derive(Debug)]
enum Sink {
    /// A stream that this process did not open.
    Stream(File),
    File {
        path: PathBuf,
        file: File,
    },
    Journal(UnixDatagram),
}

impl Target {
    /// A copy of the process's stderr.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(super) fn stderr() -> io::Result<Target> {
        // Its own descriptor: with the lock of `std::io::stderr`, others would wait for the log's thread.
        Ok(Target::of(Sink::Stream(File::from(io::stderr().as_fd().try_clone_to_owned()?))))
    }

    /// A copy of the process's stdout.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(super) fn stdout() -> io::Result<Target> {
        Ok(Target::of(Sink::Stream(File::from(io::stdout().as_fd().try_clone_to_owned()?))))
    }

    /// The end of a file, which is created if it does not exist.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub(super) fn file(path: &Path) -> io::Result<Target> {
        Ok(Target::of(Sink::File { path: path.to_owned(), file: open(path)? }))
    }

    /// The journal, if this process's stderr is connected to it (systemd.exec(5), `JOURNAL_STREAM`).
    pub(super) fn journal() -> Option<Target> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
        if !is_stream(&stream, stderr.dev(), stderr.ino()) {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(JOURNAL).ok()?;
        Some(Target::of(Sink::Journal(socket)))
    }

    fn of(sink: Sink) -> Target {
        Target { sink, mid_line: false }
    }

    /// Opens a file again, which something else has renamed or removed. If it cannot be opened, the old one stays.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Sink::File { path, file } = &mut self.sink {
            *file = open(path)?;
            self.mid_line = false;
        }
        Ok(())
    }

    /// Writes a record.
    ///
    /// # Errors
    /// If it could not be written, or not all of it.
    pub(super) fn write(&mut self, record: &[u8]) -> io::Result<()> {
        if let Sink::Journal(socket) = &self.sink {
            // Longer than the socket takes are only records that nobody writes.
            return socket.send(record).map(drop);
        }
        if self.mid_line {
            self.write_rest(b"\n")?;
            self.mid_line = false;
        }
        self.write_rest(record)
    }

    fn write_rest(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let (Sink::Stream(file) | Sink::File { file, .. }) = &mut self.sink else { return Ok(()) };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.mid_line = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process made the open file description non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_nanos(LOG_RETRY));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(LOG_FILE_MODE).open(path)
}

/// Whether the variable names the file with this device and inode.
fn is_stream(variable: &str, device: u64, inode: u64) -> bool {
    variable.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_used_only_where_stderr_leads_to_it() {
        assert!(is_stream("9:123456", 9, 123_456));
        for other in ["9:1", "1:123456", "9", "", ":", "9:123456:1"] {
            assert!(!is_stream(other, 9, 123_456), "{other}");
        }
    }

    #[test]
    fn a_renamed_file_is_left_when_it_is_opened_again() {
        let directory = std::env::temp_dir().join(format!("echoring-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let (path, old) = (directory.join("log"), directory.join("log.1"));
        let mut target = Target::file(&path).expect("a file");
        target.write(b"one\n").expect("written");
        std::fs::rename(&path, &old).expect("renamed");
        target.write(b"two\n").expect("written");
        target.reopen().expect("opened");
        target.write(b"three\n").expect("written");
        let text = |path: &Path| std::fs::read_to_string(path).expect("text");
        assert_eq!((text(&old), text(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}

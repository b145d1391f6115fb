//! Writes the output of a command, to stdout or to a file.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::common::failure::Failure;
use crate::common::values::FileOrStream;

/// Prints, and tells by the exit code whether that was possible.
pub(crate) fn print(bytes: &[u8]) -> ExitCode {
    to_stdout(bytes).map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Writes a line to stderr. A closed stderr must not turn an exit code into a panic.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a file or stdout.
pub(crate) fn write(to: &FileOrStream, bytes: &[u8]) -> Result<(), Failure> {
    match to {
        FileOrStream::Stream => to_stdout(bytes),
        FileOrStream::File(path) => fs::write(path, bytes).map_err(|error| {
            Failure::Environment(format!("{} could not be written: {error}", path.display()))
        }),
    }
}

/// Writes a file as a whole or not at all, so that a reader finds the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
        // It may not be there.
        let _ = fs::remove_file(&new);
    })
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
pub(crate) fn to_stdout(bytes: &[u8]) -> Result<(), Failure> {
    try_to_stdout(bytes).map_err(|error| Failure::Environment(format!("cannot write to stdout: {error}")))
}

/// The same for callers that word the error.
pub(crate) fn try_to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

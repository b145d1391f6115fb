//! Writes the output of a command, to stdout or to a file.

use std::io::Write as _;
use std::process::ExitCode;

use crate::common::failure::Failure;
use crate::common::values::FileOrStream;

/// Prints, and tells by the exit code whether that was possible.
pub(crate) fn print(bytes: &[u8]) -> ExitCode {
    to_stdout(bytes).map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Writes a file or stdout.
pub(crate) fn write(to: &FileOrStream, bytes: &[u8]) -> Result<(), Failure> {
    match to {
        FileOrStream::Stream => to_stdout(bytes),
        FileOrStream::File(path) => std::fs::write(path, bytes).map_err(|error| {
            Failure::Environment(format!("{} could not be written: {error}", path.display()))
        }),
    }
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
pub(crate) fn to_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Environment(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

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
        FileOrStream::File(path) => write_file(path, bytes).map_err(Failure::Environment),
    }
}

/// The same of a file. The error is a line.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), String> {
    replace(path, bytes).map_err(|error| format!("{} could not be written: {error}", path.display()))
}

/// Writes a file as a whole or not at all, so that a reader finds the old one or the new one, also on a full disk. The new one is written
/// beside it and renamed. A link stays one, and what is no file (a pipe, a device) is written to.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let old = fs::metadata(&target).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        return fs::write(&target, bytes);
    }
    let mut new = target.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    let written = File::create(&new).and_then(|mut file| {
        if let Some(old) = old {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, &target)).inspect_err(|_| {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_stays() {
        let directory = std::env::temp_dir().join(format!("echoring-output-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let (file, link) = (directory.join("file"), directory.join("link"));
        write_file(&file, b"old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
        symlink("file", &link).expect("a link");
        write_file(&link, b"new").expect("written");
        assert_eq!(fs::read(&file).expect("there"), b"new");
        assert!(link.is_symlink(), "it is still a link");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
        // A folder in place of the new file stops the write as a full disk does.
        let beside = directory.join(format!("file.{}.new", std::process::id()));
        fs::create_dir(&beside).expect("a folder");
        let line = write_file(&file, b"newer").expect_err("it cannot be written beside");
        assert!(line.contains("file could not be written: "), "{line}");
        assert_eq!(fs::read(&file).expect("there"), b"new", "the older one");
        write_file(Path::new("/dev/null"), b"gone").expect("a device is written to");
        fs::remove_dir_all(&directory).expect("our own directory");
    }
}

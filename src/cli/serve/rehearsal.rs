//! The part of `serve --check` that tries to open what a start would write to: logs, and the folders of Unix sockets.
//!
//! Never: a file that is left behind.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::settings::Settings;
use crate::Failure;
use crate::logging::Destination;
use echoring_server::ListenAddress;

/// Tries to open the files that a start with these settings would create or append to.
///
/// # Errors
/// [`Failure::Environment`] for a log that cannot be written, and for a socket whose folder is missing or not writable.
pub(super) fn check(settings: &Settings) -> Result<(), Failure> {
    let wrong = |flag: &str, what: &str, error: &io::Error| {
        let line = format!("{what}: {error}; choose another path, or change the folder's owner or mode");
        settings.origins.caused(flag, &line)
    };
    let access = settings.args.access_log.clone().map(|destination| ("--access-log", destination));
    for (flag, destination) in [("--log-file", settings.args.log_destination())].into_iter().chain(access) {
        if let Destination::File(path) = &destination {
            let what = format!("the log in {} cannot be started", path.display());
            try_file(path).map_err(|error| wrong(flag, &what, &error))?;
        }
    }
    let admin = settings.args.admin.as_ref().map(|address| ("--admin", address));
    let listen = settings.server.listen.iter().map(|address| ("--listen", address));
    for (flag, address) in listen.chain(admin) {
        if let ListenAddress::Unix(path) = address {
            let what = format!("cannot listen on unix:{}", path.display());
            try_folder_of(path).map_err(|error| wrong(flag, &what, &error))?;
        }
    }
    Ok(())
}

/// Whether a file can be appended to, or created.
fn try_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => try_folder_of(path),
        opened => opened.map(drop),
    }
}

/// Whether a file can be created beside this one, tried with an unnamed file.
fn try_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder) {
        // The file system does not have such files.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => Ok(()),
        opened => opened.map(drop),
    }
}

//! The part of `serve --check` that tries what a start would open for writing: logs, and the folders of Unix sockets.
//!
//! Never: a file that exists afterwards and did not before.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::args::Admin;
use super::settings::Settings;
use crate::Failure;
use crate::logging::Destination;
use echoring_server::ListenAddress;

/// Tries what a start with these settings would create or append to.
///
/// # Errors
/// [`Failure::Environment`] for a log that cannot be written, and for a socket whose folder is missing or not writable.
pub(super) fn check(settings: &Settings) -> Result<(), Failure> {
    let access = settings.logs.access.as_ref().map(|(destination, _)| destination);
    for destination in [&settings.logs.destination].into_iter().chain(access) {
        if let Destination::File(path) = destination {
            try_file(path).map_err(|error| {
                wrong(&format!("the log in {} cannot be started", path.display()), &error)
            })?;
        }
    }
    let admin = match &settings.admin {
        Admin::At(address) => Some(address),
        Admin::Off => None,
    };
    let sockets = settings.server.listen.iter().chain(admin).filter_map(|address| match address {
        ListenAddress::Unix(path) => Some(path),
        ListenAddress::Tcp(_) => None,
    });
    for path in sockets {
        try_folder_of(path)
            .map_err(|error| wrong(&format!("cannot listen on unix:{}", path.display()), &error))?;
    }
    Ok(())
}

fn wrong(what: &str, error: &io::Error) -> Failure {
    Failure::Environment(format!(
        "{what}: {error}; choose another path, or change the folder's owner or mode"
    ))
}

/// Whether a file can be appended to, or created.
fn try_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => try_folder_of(path),
        opened => opened.map(drop),
    }
}

/// Whether a file can be created beside this one: a file without a name tells.
fn try_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder) {
        // The file system does not have such files.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => Ok(()),
        opened => opened.map(drop),
    }
}

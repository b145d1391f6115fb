//! Names of failure causes in records.

use std::io;

use crate::record::failures::{HANDSHAKE_TIMEOUT, NO_DESCRIPTORS, NO_PORTS};
use echoring_proto::connection::Cause;
use echoring_proto::handshake::BadHandshake;

/// A socket could not be created.
pub(super) fn of_error(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => NO_DESCRIPTORS.to_owned(),
        Some(libc::EADDRNOTAVAIL) => NO_PORTS.to_owned(),
        // Those that have no number say what they are.
        None => error.to_string(),
        _ => of_kind(error.kind()),
    }
}

/// A connection ended.
pub(super) fn of_end(cause: &Cause, was_open: bool) -> String {
    match cause {
        Cause::BadHandshake(BadHandshake::Status(status)) => format!("status {status}"),
        Cause::BadHandshake(bad) => format!("handshake: {bad}"),
        Cause::HandshakeTimeout => HANDSHAKE_TIMEOUT.to_owned(),
        Cause::Gone if was_open => "ended without close".to_owned(),
        Cause::Gone => "ended in the handshake".to_owned(),
        Cause::Failed(kind) => of_kind(*kind),
        Cause::ProtocolError(offence) => format!("protocol: {offence}"),
        Cause::Tunnel(error) => error.to_string(),
        Cause::Tls(fault, detail) => format!("{}: {detail}", fault.name()),
        Cause::PongTimeout => "timeout".to_owned(),
        other => other.name().to_owned(),
    }
}

fn of_kind(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            "reset".to_owned()
        }
        io::ErrorKind::TimedOut => "timeout".to_owned(),
        io::ErrorKind::AddrNotAvailable => NO_PORTS.to_owned(),
        kind => kind.to_string(),
    }
}

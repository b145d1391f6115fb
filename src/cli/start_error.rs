//! Errors of a server's start in the words of the command line: the library names its settings, and this program its flags.

use std::borrow::Cow;
use std::io::ErrorKind;

use echoring_server::{StartError, StartErrorKind};

use crate::file::flags::flag_of;

/// The error in one line.
pub(super) fn line(error: &StartError) -> String {
    let line = problem_and_hint(error);
    match flag(error) {
        Some(flag) => format!("{flag}: {line}"),
        None => line,
    }
}

/// The flag of the wrong setting, if there is one.
pub(super) fn flag(error: &StartError) -> Option<String> {
    error.setting().and_then(key_of).map(flag_of)
}

/// The key in a configuration file of a setting that the library names.
pub(super) fn key_of(setting: &str) -> Option<&'static str> {
    match setting {
        "congestion" => Some("congestion"),
        "connections_max" => Some("max_connections"),
        "cpus" => Some("cpus"),
        "message_bytes_max" => Some("max_message"),
        _ => None,
    }
}

/// The problem, and what to do.
pub(super) fn problem_and_hint(error: &StartError) -> String {
    format!("{}; {}", error.problem, hint(error))
}

fn hint(error: &StartError) -> Cow<'_, str> {
    match error.kind() {
        StartErrorKind::Listen(ErrorKind::AddrInUse) => {
            "stop the process that listens there, choose another --listen, or replace it with --takeover"
                .into()
        }
        StartErrorKind::Listen(
            ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied | ErrorKind::NotFound,
        ) => error.hint.as_str().into(),
        StartErrorKind::Listen(_) => "choose another --listen".into(),
        StartErrorKind::Driver => format!("{}, or use --driver epoll", error.hint).into(),
        StartErrorKind::Takeover => "it goes on; stop it, and start without --takeover".into(),
        _ => error.hint.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use echoring_server::{Resolved, ServerConfig};

    use super::*;

    #[test]
    fn what_to_change_is_a_flag() {
        use StartErrorKind::{Descriptors, Driver, Inherited, Listen, Takeover};

        let in_use =
            "stop the process that listens there, choose another --listen, or replace it with --takeover";
        for (kind, hint) in [
            (Listen(ErrorKind::AddrInUse), in_use),
            (Listen(ErrorKind::AddrNotAvailable), "the hint"),
            (Listen(ErrorKind::PermissionDenied), "the hint"),
            (Listen(ErrorKind::NotFound), "the hint"),
            (Listen(ErrorKind::Unsupported), "choose another --listen"),
            (Inherited(ErrorKind::InvalidInput), "the hint"),
            (Descriptors, "the hint"),
            (Driver, "the hint, or use --driver epoll"),
            (Takeover, "it goes on; stop it, and start without --takeover"),
        ] {
            let error = StartError::new(kind, "the problem", "the hint");
            assert_eq!(line(&error), format!("the problem; {hint}"), "{kind:?}");
        }
    }

    #[test]
    fn a_wrong_setting_is_named_by_its_flag() {
        let server = ServerConfig::default;
        for (config, setting, flag) in [
            (
                ServerConfig { cpus: vec![1 << 20], ..server() },
                "cpus: ",
                "--cpus: this process may not use CPU",
            ),
            (
                ServerConfig { connections_max: Some(u32::MAX), ..server() },
                "connections_max: ",
                "--max-connections: 4294967295 connections need more than the limit of",
            ),
            (
                ServerConfig { congestion: Some("none".to_owned()), ..server() },
                "congestion: ",
                "--congestion: no congestion control \"none\": ",
            ),
        ] {
            let error = Resolved::of(&config).expect_err("not on any host");
            assert!(error.to_string().starts_with(setting), "{error}");
            assert!(line(&error).starts_with(flag), "{}", line(&error));
        }
    }
}

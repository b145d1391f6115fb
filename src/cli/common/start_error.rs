//! Errors of a server's start in the words of the command line: the library names its settings, and this program its flags.

use std::borrow::Cow;
use std::io::ErrorKind;

use echoring_server::{StartError, StartErrorKind};

use crate::common::values::flag_of;

/// The error in one line.
pub(crate) fn line(error: &StartError) -> String {
    let line = problem_and_hint(error);
    match flag(error) {
        Some(flag) => format!("{flag}: {line}"),
        None => line,
    }
}

/// The flag of the wrong setting, if there is one.
pub(crate) fn flag(error: &StartError) -> Option<String> {
    error.setting().and_then(key_of).map(flag_of)
}

/// The key in a configuration file of a setting that the library names.
pub(crate) fn key_of(setting: &str) -> Option<&'static str> {
    match setting {
        "congestion" => Some("congestion"),
        "connections_max" => Some("max_connections"),
        "connections_per_identity" => Some("max_connections_per_identity"),
        "cpus" => Some("cpus"),
        "hosts" => Some("allow_host"),
        "memory_budget_bytes" => Some("memory_budget"),
        "message_bytes_max" => Some("max_message"),
        "origins" => Some("allow_origin"),
        "proxy_protocol" => Some("proxy_protocol"),
        "subscribe_rate_per_connection" => Some("subscribe_rate"),
        "subscribe_rate_per_identity" => Some("subscribe_rate_per_identity"),
        "subscriptions_per_identity" => Some("max_subscriptions_per_identity"),
        "topics_max" => Some("max_topics"),
        "topics_per_connection" => Some("max_topics_per_connection"),
        "topics_per_identity" => Some("max_topics_per_identity"),
        _ => None,
    }
}

/// A text of the library, with the flags of the settings that it names in backticks.
pub(crate) fn reword(text: &str) -> Cow<'_, str> {
    let mut parts = text.split('`');
    let mut worded = Cow::Borrowed(parts.next().unwrap_or_default());
    while let Some(name) = parts.next() {
        let rest = parts.next();
        match (key_of(name), rest) {
            (Some(key), Some(rest)) => worded.to_mut().extend([flag_of(key).as_str(), rest]),
            (None, Some(rest)) => worded.to_mut().extend(["`", name, "`", rest]),
            (_, None) => worded.to_mut().extend(["`", name]),
        }
    }
    worded
}

/// The problem, and the remedy.
pub(crate) fn problem_and_hint(error: &StartError) -> String {
    format!("{}; {}", reword(&error.problem), reword(&hint(error)))
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
        StartErrorKind::Takeover => "it keeps running; stop it, and start without --takeover".into(),
        _ => error.hint.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use echoring_server::{Resolved, ServerConfig};

    use super::*;

    #[test]
    fn settings_of_the_library_become_flags_that_there_are() {
        use echoring_proto::handshake::Refusal;

        let flags = crate::common::file::flags::command::<crate::serve::Args>();
        let known = |flag: &str| flags.get_arguments().any(|arg| arg.get_long() == flag.strip_prefix("--"));
        for hint in Refusal::ALL.iter().map(|refusal| refusal.hint) {
            let worded = reword(hint);
            assert!(!worded.contains('`') && !hint.contains(" --"), "{worded}");
            let mut words = worded.split([' ', '(', ')', ';']).filter(|word| word.starts_with("--"));
            assert!(words.all(known), "{worded}");
        }
        assert_eq!(reword(Refusal::UNAVAILABLE.hint), "try again later, or raise --max-connections");
        for (text, worded) in [
            ("", ""),
            ("`topics_max`", "--max-topics"),
            ("a `b` `hosts` c", "a `b` --allow-host c"),
            ("not `hosts", "not `hosts"),
            (
                "`topics_per_identity`, `topics_per_connection`",
                "--max-topics-per-identity, --max-topics-per-connection",
            ),
            (
                "`subscriptions_per_identity``proxy_protocol`",
                "--max-subscriptions-per-identity--proxy-protocol",
            ),
        ] {
            assert_eq!(reword(text), worded);
            assert!(
                worded
                    .split([' ', ','])
                    .filter(|word| word.starts_with("--") && !word[2..].contains("--"))
                    .all(known)
            );
        }
    }

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
            (Takeover, "it keeps running; stop it, and start without --takeover"),
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

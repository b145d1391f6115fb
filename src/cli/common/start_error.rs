//! Errors of a server's start in the words of the command line, with the flag of a wrong setting.

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
    error.setting().map(flag_of)
}

/// The problem, and the remedy.
pub(crate) fn problem_and_hint(error: &StartError) -> String {
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
        StartErrorKind::Takeover => "it keeps running; stop it, and start without --takeover".into(),
        _ => error.hint.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use echoring_server::{Resolved, ServerConfig};

    use super::*;

    /// The names in backticks of the texts in a source file. Comments and documentation are no texts.
    fn named(source: &str) -> Vec<&str> {
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let texts = code.flat_map(|line| line.split('"').skip(1).step_by(2));
        let names = texts.flat_map(|text| text.split('`').skip(1).step_by(2));
        let is_name = |name: &&str| {
            name.contains('_') && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        names.filter(is_name).collect()
    }

    #[test]
    fn every_setting_that_an_error_or_a_hint_names_is_a_key() {
        // A parameter of a URL, and not a setting.
        const OTHERS: [&str; 1] = ["cf_connect"];
        let command = crate::common::file::flags::command::<crate::serve::Args>();
        let is_key = |name: &&str| crate::serve::keys(&command).any(|arg| arg.get_id() == *name);
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut folders: Vec<_> =
            ["broker", "proto", "runtime", "server", "topics"].map(|part| root.join(part)).into();
        let mut known = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "rs") {
                    let source = std::fs::read_to_string(&path).expect("text");
                    for name in named(&source).into_iter().filter(|name| !OTHERS.contains(name)) {
                        assert!(is_key(&name), "{}: there is no key `{name}`", path.display());
                        known += 1;
                    }
                }
            }
        }
        assert!(known > 5, "only {known} names were found");
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
                ServerConfig { max_connections: Some(1 << 24), ..server() },
                "max_connections: ",
                "--max-connections: 16777216 connections need more than the limit of",
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

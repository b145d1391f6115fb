//! The setup of a command's own process before it runs: the descriptor limit and the log.

use std::io;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};

use crate::Failure;
use crate::logging::{self, Destination, Form};

/// Raises the soft limit on descriptors to the hard one and gives it back. Every connection may need one,
/// and the usual soft limit of 1,024 exists for programs that use `select`.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// Raises the limit on locked memory as far as this process may. Recent kernels count rings as locked memory, unless the process
/// has the capability that the sandbox gives up.
pub(crate) fn raise_locked_memory_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    let raise = |limit| setrlimit(Resource::Memlock, Rlimit { current: limit, maximum: limit });
    // Only a privileged process raises the hard limit. One that cannot raise either runs on what it has, or on epoll.
    if raise(None).is_err() {
        let _ = raise(maximum);
    }
}

/// A file of echoring in the folder for persistent state that needs no backup (XDG Base Directory Specification).
pub(crate) fn state_file(name: &str) -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("echoring").join(name))
}

/// A remedy for this error, after a semicolon, if one is known.
pub(crate) fn hint(error: &io::Error) -> String {
    echoring_runtime::listening::descriptors_hint(error).map(|hint| format!("; {hint}")).unwrap_or_default()
}

/// The limit on this process's address space and its use, in bytes; `None` without a limit.
pub(crate) fn address_space() -> Option<(u64, u64)> {
    let limit = getrlimit(Resource::As).current?;
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let used_kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some((limit, used_kib * 1024))
}

/// Checks the value of `--log`: a level, or directives such as `warn,echoring_runtime::shard=debug`.
pub(crate) fn log_filter(word: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected error, warn, info, debug, trace or off, or module=level pairs";
    for directive in word.split(',') {
        let level = directive.split_once('=').map_or(directive, |(_, level)| level);
        if level.parse::<LevelFilter>().is_err() || level.is_empty() {
            return Err(EXPECTED.to_owned());
        }
    }
    filter(word).map_err(|_| EXPECTED.to_owned())?;
    let mut modules =
        word.split(',').filter_map(|directive| directive.split_once('=')).map(|(module, _)| module);
    match modules.find(|module| !is_logged(module)) {
        Some(module) => {
            Err(format!("nothing is logged for {module}: expected a module of echoring_*, or async_nats"))
        }
        None => Ok(word.to_owned()),
    }
}

/// Whether there are records of a module, or of some span or field in it.
fn is_logged(module: &str) -> bool {
    /// The crates of the program that log, without their prefix.
    const OWN: [&str; 14] = [
        "admin", "async", "auth", "broker", "cli", "client", "cluster", "load", "proto", "proxy", "runtime",
        "server", "topics", "wire",
    ];
    let name = module.split(['[', '{']).next().unwrap_or_default();
    let name = name.split("::").next().unwrap_or_default();
    let is_own = |name: &str| OWN.contains(&name);
    matches!(name, "" | "async_nats" | "echoring") || name.strip_prefix("echoring_").is_some_and(is_own)
}

/// The filter of these directives. The NATS client is silent unless they name it: it logs every attempt to connect as
/// an error, and important errors are logged once elsewhere.
pub(crate) fn filter(word: &str) -> Result<EnvFilter, ParseError> {
    const CLIENT: &str = "async_nats";
    if word.contains(CLIENT) {
        return EnvFilter::try_new(word);
    }
    EnvFilter::try_new(format!("{CLIENT}=off,{word}"))
}

/// Starts the log on stderr.
pub(crate) fn start_log(filter: &str) -> Result<(), Failure> {
    start_log_on(filter, &Destination::Stderr, Form::Text)
}

/// Starts the log.
pub(crate) fn start_log_on(filter: &str, destination: &Destination, form: Form) -> Result<(), Failure> {
    logging::start(checked_filter(filter)?, filter, destination, form).map_err(|error| {
        let place = match destination {
            Destination::File(path) => format!(" in {}", path.display()),
            Destination::Stderr | Destination::Stdout => String::new(),
        };
        Failure::Environment(format!("the log{place} cannot be started: {error}"))
    })
}

/// The filter that `--log` describes.
pub(crate) fn checked_filter(word: &str) -> Result<EnvFilter, Failure> {
    filter(word).map_err(|error| Failure::Usage(format!("--log: {error}")))
}

/// A seed that no other run has.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_is_known_or_refused() {
        let modules = "warn,echoring_runtime::shard=debug,async_nats=info,echoring_server[span]=trace";
        for right in ["error", "warn", "info", "debug", "trace", "off", modules] {
            assert_eq!(log_filter(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "loud",
            "echoring",
            "echoring=loud",
            "info,,",
            "9",
            "nonsense=debug",
            "info,echoring_shard=debug",
            "warn,echoring_backbone::connection=debug",
        ] {
            assert!(log_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_descriptor_limit_ends_at_the_hard_one() {
        let raised = raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(raised, limit.maximum.unwrap_or(u64::MAX));
    }
}

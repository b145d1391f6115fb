//! The sandbox of a server's process: another user, no capabilities, no new privileges, few files, few system calls.
//!
//! [`Sandbox::enter`] is called when all addresses are bound and before any thread is started, so that every thread inherits it.
//! The later work of a server is allowed: it re-reads its files, reopens its logs, and hands its listeners over. The
//! data path makes no other system call than before, and the kernel keeps the verdict on calls that are always allowed
//! in a bitmap.
//!
//! | file | what it limits |
//! |---|---|
//! | `identity` | user and groups, capabilities |
//! | `files` | the file system (Landlock) |
//! | `system_calls` | system calls (seccomp) |

mod files;
mod identity;
mod system_calls;

use std::env;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::geteuid;
use rustix::thread::set_no_new_privs;

pub(crate) use files::landlock_version;
pub(crate) use identity::UserName;

/// The part that limits files.
const LANDLOCK: &str = "Landlock";

/// How much of the sandbox a server needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// All that the kernel supports; the log names what is missing
    Auto,
    /// All of it, or exit code 3
    On,
    /// None of it
    Off,
}

/// A sandbox to enter.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) mode: Mode,
    /// The user to become.
    pub(crate) user: Option<UserName>,
    /// Files that the server reads, now or later; with each, its folder is readable.
    pub(crate) reads: Vec<PathBuf>,
    /// Files and sockets that the server creates or replaces; with each, its folder is writable.
    pub(crate) writes: Vec<PathBuf>,
}

/// The outcome of entering a sandbox, for the log.
#[derive(Debug, Default)]
pub(crate) struct Entered {
    active: Vec<&'static str>,
    missing: Vec<String>,
    is_root: bool,
}

/// Why a sandbox cannot be entered: the option that asks for it, and the reason.
#[derive(Debug)]
pub(crate) struct SandboxError {
    pub(crate) flag: &'static str,
    pub(crate) reason: String,
}

impl SandboxError {
    fn of_user(reason: String) -> SandboxError {
        SandboxError { flag: "--user", reason }
    }
}

impl Sandbox {
    /// Number of the user that the process has inside.
    ///
    /// # Errors
    /// If this host does not have that user.
    pub(crate) fn user(&self) -> Result<u32, SandboxError> {
        let found = self.user.as_ref().map(|user| user.find().map(|found| found.uid())).transpose();
        Ok(found.map_err(SandboxError::of_user)?.unwrap_or(geteuid().as_raw()))
    }

    /// Whether a file is among those that the process reaches inside, where it has Landlock.
    pub(crate) fn reaches(&self, file: &Path) -> bool {
        files::is_reached(file, &self.readable(), &self.writes)
    }

    fn readable(&self) -> Vec<PathBuf> {
        let mut reads = self.reads.clone();
        reads.extend(files::tls_roots(|name| env::var_os(name)));
        reads
    }

    /// Enters the sandbox. The process must have one thread, and everything that needs privileges must be done.
    ///
    /// # Errors
    /// If the user cannot be changed, and in [`Mode::On`] if a part is unavailable.
    pub(crate) fn enter(&self) -> Result<Entered, SandboxError> {
        if let Some(user) = &self.user {
            let found = user.find().map_err(SandboxError::of_user)?;
            identity::become_user(&found).map_err(SandboxError::of_user)?;
        }
        let mut entered = Entered { is_root: geteuid().is_root(), ..Entered::default() };
        if self.mode == Mode::Off {
            return Ok(entered);
        }
        entered.note("no capabilities", identity::drop_capabilities().map_err(|error| error.to_string()));
        entered.note("no new privileges", set_no_new_privs(true).map_err(|error| error.to_string()));
        entered.note(LANDLOCK, files::restrict(&self.readable(), &self.writes));
        entered.note("seccomp", system_calls::restrict());
        match (self.mode, &entered.missing[..]) {
            (Mode::On, [first, ..]) => {
                let reason = format!("{first}; run on a kernel that has it, or choose auto");
                Err(SandboxError { flag: "--sandbox", reason })
            }
            _ => Ok(entered),
        }
    }
}

impl Entered {
    fn note(&mut self, part: &'static str, result: Result<(), String>) {
        match result {
            Ok(()) => self.active.push(part),
            Err(error) => self.missing.push(format!("{part}: {error}")),
        }
    }

    /// Whether files are out of reach.
    pub(crate) fn hides_files(&self) -> bool {
        self.active.contains(&LANDLOCK)
    }

    /// Logs the active and the missing parts, and a server that runs as root.
    pub(crate) fn log(&self) {
        if !self.active.is_empty() {
            tracing::info!(
                parts = self.active.join(", "),
                "in a sandbox; a denied system call fails with EPERM"
            );
        }
        for missing in &self.missing {
            tracing::warn!(missing, "a part of the sandbox is unavailable");
        }
        if self.is_root {
            tracing::warn!("running as root; use --user NAME");
        }
    }
}

//! Reads the configuration of a running server again, and applies the changes that the server can make.
//!
//! One thread does it, for every cause: SIGHUP, `POST /reload`, and files that have changed. A configuration that is wrong
//! changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use serde::Serialize;

use super::args::Watch;
use super::changes::{Change, changes};
use super::config::Sources;
use super::log_level::LOG_LEVEL;
use super::openings;
use super::settings::Settings;
use super::watch::{Version, Watched};
use crate::common::environment;
use crate::limits::{RELOAD_TIMEOUT, WATCH_INTERVAL};
use crate::sandbox::Sandbox;
use crate::{Failure, logging};
use echoring_admin::{Reload, ReloadCounters, Reloaded};
use echoring_server::Handle;
use echoring_server::machinery::{CarryOut, NodeOrder, ProgramOrder};

/// The schema of [`Report`].
const SCHEMA: &str = "echoring.reload/1";

/// Asks the thread for a reload, from any thread.
#[derive(Clone, Debug)]
pub(super) struct Reloader(mpsc::Sender<Request>);

#[derive(Debug)]
struct Request {
    cause: &'static str,
    reply: mpsc::SyncSender<Reloaded>,
}

/// A reloader whose thread has not started.
#[derive(Debug)]
pub(super) struct Pending {
    requests: mpsc::Receiver<Request>,
}

/// The parts of the program that use settings.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) sources: Sources,
    /// The settings that hold.
    pub(super) settings: Settings,
    pub(super) server: Handle,
    pub(super) control: Option<echoring_admin::Handle>,
    pub(super) counters: Arc<ReloadCounters>,
    /// The sandbox, if it puts files out of reach.
    pub(super) sandbox: Option<Sandbox>,
}

/// The settings that a reload takes over.
struct Next {
    settings: Settings,
    warnings: Vec<String>,
    /// The keys that differ from the running settings.
    changed: Vec<Change>,
}

/// A report on a reload, see docs/reference/admin.md#reloading.
#[derive(Debug, Default, Serialize)]
struct Report {
    schema: &'static str,
    /// Keys whose new values hold.
    changed: Vec<Change>,
    /// Keys whose new values need a restart.
    restart: Vec<Change>,
    /// Files that are not configuration, and have other contents.
    files: Vec<PathBuf>,
}

impl Reloader {
    pub(super) fn new() -> (Reloader, Pending) {
        let (sender, requests) = mpsc::channel();
        (Reloader(sender), Pending { requests })
    }

    /// Asks for a reload and waits for its result, for a bounded time.
    pub(super) fn reload_for(&self, cause: &'static str) -> Reloaded {
        let (reply, result) = mpsc::sync_channel(1);
        // A thread that has ended drops the request, and with it the only sender of a result.
        let _ = self.0.send(Request { cause, reply });
        let unknown = |_| Reloaded::Refused("the reload has not ended in time; see the log".to_owned());
        result.recv_timeout(RELOAD_TIMEOUT).unwrap_or_else(unknown)
    }

    /// Carries out what a server that has taken over passes on.
    pub(super) fn carry_out(&self) -> CarryOut {
        let reloader = self.clone();
        CarryOut::new(move |order| match order {
            ProgramOrder::LogLevel(filter) => (LOG_LEVEL.set)(&filter),
            ProgramOrder::Reload => match reloader.reload_for("the server that has taken over") {
                Reloaded::Accepted(_) => Ok(()),
                Reloaded::Partial(reason) | Reloaded::Refused(reason) => Err(reason),
            },
        })
    }
}

impl Reload for Reloader {
    fn reload(&self) -> Reloaded {
        self.reload_for("POST /reload")
    }
}

impl Pending {
    /// Starts the thread, which does not keep the process alive.
    pub(super) fn start(self, running: Running) -> io::Result<()> {
        let files = Contents::of(&running.settings);
        let mut thread = ReloadThread { running, files, watched: Watched::default() };
        thread::Builder::new().name("reload".to_owned()).spawn(move || thread.run(&self.requests)).map(drop)
    }
}

#[derive(Debug)]
struct ReloadThread {
    running: Running,
    /// The contents of the files with certificates, keys and tokens.
    files: Contents,
    watched: Watched,
}

impl ReloadThread {
    fn run(&mut self, requests: &mpsc::Receiver<Request>) {
        self.watched.set(self.running.watched_files());
        loop {
            match requests.recv_timeout(WATCH_INTERVAL) {
                Ok(Request { cause, reply }) => {
                    let settings = self.running.sources.settings();
                    let reloaded = self.reload(cause, settings);
                    // Fails if nobody waits any more.
                    drop(reply.try_send(reloaded));
                }
                Err(RecvTimeoutError::Timeout) if self.watched.look() => {
                    let settings = self.running.reread();
                    self.reload("changed files", settings);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Applies the changeable part of `settings`, and logs it.
    fn reload(&mut self, cause: &str, settings: Result<Settings, Failure>) -> Reloaded {
        let taken_over = settings.and_then(|settings| {
            let files = Contents::of(&settings);
            let report = self.running.take_over(settings, self.files.differing(&files))?;
            self.files = files;
            Ok(report)
        });
        let reloaded = match taken_over {
            Ok(report) => {
                report.log(cause);
                self.watched.set(self.running.watched_files());
                match self.running.pass_on() {
                    Ok(()) => Reloaded::Accepted(serde_json::to_string_pretty(&report).unwrap_or_default()),
                    Err(reason) => {
                        let line = format!("the configuration was reloaded, but not everywhere: {reason}");
                        tracing::warn!(cause, "{line}");
                        Reloaded::Partial(line)
                    }
                }
            }
            Err(failure) => {
                let Running { sources, sandbox, .. } = &self.running;
                let out_of_reach = sandbox.as_ref().and_then(|sandbox| sources.out_of_reach(sandbox));
                let line = out_of_reach.unwrap_or(failure).into_line();
                tracing::error!(
                    cause,
                    "the configuration was not reloaded, and the old one stays in effect: {line}"
                );
                Reloaded::Refused(line)
            }
        };
        self.running.counters.count(&reloaded);
        reloaded
    }
}

impl Running {
    /// The settings in effect, with the current contents of their files; with `--watch all`, those of all sources.
    fn reread(&self) -> Result<Settings, Failure> {
        if self.settings.args.watch == Watch::All { self.sources.settings() } else { self.settings.reread() }
    }

    /// Has the process before this one read its configuration again, while it drains.
    fn pass_on(&self) -> Result<(), String> {
        let reload = NodeOrder::Program(ProgramOrder::Reload);
        self.server.pass_on(reload).map_err(|error| error.to_string())
    }

    fn watched_files(&self) -> Vec<(PathBuf, Version)> {
        let Settings { args, secret_files, config_file, .. } = &self.settings;
        match args.watch {
            Watch::Off => Vec::new(),
            Watch::Files => secret_files.clone(),
            Watch::All => secret_files.iter().chain(config_file).cloned().collect(),
        }
    }

    /// Applies the settings of `wanted` that a running server can change.
    ///
    /// # Errors
    /// If something in it cannot be used; then nothing was changed.
    fn take_over(&mut self, wanted: Settings, files: Vec<PathBuf>) -> Result<Report, Failure> {
        openings::refuse_empty(&self.settings, &wanted)?;
        let filter = environment::checked_filter(&wanted.args.log)?;
        let tokens = wanted.args.admin_tokens(&wanted.origins)?;
        let beyond = self.server.needs_restart(&wanted.server).into_iter().map(|beyond| {
            let hint = format!("at most {} without a restart", beyond.most);
            (beyond.setting, hint)
        });
        let kept = beyond.collect::<Vec<_>>();
        let Next { settings, warnings, changed } = self.next(&wanted, &files, &kept)?;
        let hint = |change: Change| {
            let kept = kept.iter().find(|(key, _)| *key == change.key);
            Change { hint: kept.map(|(_, hint)| hint.clone()), ..change }
        };
        let restart = changes(&settings, &wanted).into_iter().map(hint).collect();
        // A level that `PUT /log-level` has set stays, unless the configuration has another one.
        if changed.iter().any(|change| change.key == "log") {
            // Fails only without a log.
            let _ = logging::set_level(filter, settings.args.log.clone());
        }
        if let Some(control) = &self.control {
            control.set_tokens(tokens);
            control.set_certificates(settings.certificate_reports());
        }
        // Fails only on the thread of a shard.
        let _ = self.server.reconfigure(&settings.server);
        self.settings = settings;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(Report { schema: SCHEMA, changed, restart, files })
    }

    /// The part of `wanted` that this process can take over without the keys of `kept`, with what the running settings have learned.
    fn next(&self, wanted: &Settings, files: &[PathBuf], kept: &[(&str, String)]) -> Result<Next, Failure> {
        let is_kept = |key: &str| kept.iter().any(|(kept, _)| *kept == key);
        let mut next = wanted.as_far_as_live(&self.settings, is_kept)?;
        next.keep_ticket_keys_of(&self.settings);
        // Its settings need a restart, and its thread runs.
        next.server.hooks.clone_from(&self.settings.server.hooks);
        let mut warnings = next.warnings()?;
        warnings.extend(openings::opened(&self.settings, &next)?);
        let changed = changes(&self.settings, &next);
        let auth_changed = files.iter().any(|file| next.auth_files.contains(file))
            || changed.iter().any(|change| change.key.starts_with("auth_") || change.key == "tls_client_ca");
        next.keep_clients_of(&self.settings, auth_changed);
        next.server.backends.keep(&self.settings.server.backends);
        next.server.webhooks = Arc::new(next.server.webhooks.continuing(&self.settings.server.webhooks));
        next.server
            .start_calls()
            .map_err(|problem| Failure::Environment(format!("{problem}; raise the limit on processes")))?;
        Ok(Next { settings: next, warnings, changed })
    }
}

impl Report {
    fn log(&self, cause: &str) {
        let keys =
            |changes: &[Change]| changes.iter().map(|change| &*change.key).collect::<Vec<_>>().join(", ");
        let (changed, files) = (keys(&self.changed), format!("{:?}", self.files));
        tracing::info!(cause, changed, files, "the configuration was reloaded");
        if !self.restart.is_empty() {
            let keys = keys(&self.restart);
            tracing::warn!(cause, keys, "changes of these keys need a restart");
        }
    }
}

/// Hashes of the contents of files; `None` for one that cannot be read.
#[derive(Debug, Default)]
struct Contents(BTreeMap<PathBuf, Option<u64>>);

impl Contents {
    fn of(settings: &Settings) -> Contents {
        let hash = |(file, _): &(PathBuf, Version)| {
            let bytes = fs::read(file).ok();
            (file.clone(), bytes.map(|bytes| hash(&bytes)))
        };
        Contents(settings.secret_files.iter().map(hash).collect())
    }

    /// The files of `others` that differ.
    fn differing(&self, others: &Contents) -> Vec<PathBuf> {
        let differs = |(file, hash): &(&PathBuf, &Option<u64>)| self.0.get(*file) != Some(hash);
        others.0.iter().filter(differs).map(|(file, _)| file.clone()).collect()
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

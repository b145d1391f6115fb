//! The configuration of a running server: which changes of it a reload applies.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::args::Watch;
use super::changes::changes;
use super::config::Sources;
use super::openings;
use super::settings::Settings;
use crate::common::environment;
use crate::sandbox::Sandbox;
use crate::{Failure, logging};
use echoring_admin::{Change, Configuration, FileVersion, ReloadReport};
use echoring_server::Handle;
use echoring_server::machinery::{NodeOrder, ProgramOrder};

/// The parts of the program that use settings.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) sources: Sources,
    /// The settings that hold.
    pub(super) settings: Settings,
    pub(super) server: Handle,
    pub(super) control: Option<echoring_admin::Handle>,
    /// The sandbox, if it puts files out of reach.
    pub(super) sandbox: Option<Sandbox>,
    /// The contents of the files with certificates, keys and tokens.
    pub(super) contents: Contents,
}

/// The settings that a reload takes over.
struct Next {
    settings: Settings,
    warnings: Vec<String>,
    /// The keys that differ from the running settings.
    changed: Vec<Change>,
}

impl Configuration for Running {
    fn reload_elsewhere(&self) -> Result<(), String> {
        let order = NodeOrder::Program(ProgramOrder::Reload);
        self.server.pass_on(order).map_err(|error| error.to_string())
    }

    fn reload(&mut self, only_watched: bool) -> Result<ReloadReport, String> {
        self.reload_from(only_watched).map_err(|failure| {
            let out_of_reach = self.sandbox.as_ref().and_then(|sandbox| self.sources.out_of_reach(sandbox));
            out_of_reach.unwrap_or(failure).into_line()
        })
    }

    fn watched_files(&self) -> Vec<(PathBuf, FileVersion)> {
        let Settings { args, secret_files, config_file, .. } = &self.settings;
        match args.watch {
            Watch::Off => Vec::new(),
            Watch::Files => secret_files.clone(),
            Watch::All => secret_files.iter().chain(config_file).cloned().collect(),
        }
    }
}

impl Running {
    /// Without `--watch all`, watched files are only those that the settings name.
    fn reload_from(&mut self, only_watched: bool) -> Result<ReloadReport, Failure> {
        let keeps_settings = only_watched && self.settings.args.watch != Watch::All;
        let settings = if keeps_settings { self.settings.reread() } else { self.sources.settings() }?;
        let contents = settings.contents();
        let report = self.take_over(settings, self.contents.differing(&contents))?;
        self.contents = contents;
        Ok(report)
    }

    /// Applies the settings of `wanted` that a running server can change.
    ///
    /// # Errors
    /// If something in it cannot be used; then nothing was changed.
    fn take_over(&mut self, wanted: Settings, files: Vec<PathBuf>) -> Result<ReloadReport, Failure> {
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
        Ok(ReloadReport { changed, restart, files })
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

/// Hashes of the contents of files; `None` for one that cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Contents(BTreeMap<PathBuf, Option<u64>>);

impl Contents {
    pub(crate) fn of<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Contents {
        let hash = |file: &PathBuf| {
            let bytes = fs::read(file).ok();
            (file.clone(), bytes.map(|bytes| hash(&bytes)))
        };
        Contents(files.map(hash).collect())
    }

    /// The files of `others` that differ.
    pub(crate) fn differing(&self, others: &Contents) -> Vec<PathBuf> {
        let differs = |(file, hash): &(&PathBuf, &Option<u64>)| self.0.get(*file) != Some(hash);
        others.0.iter().filter(differs).map(|(file, _)| file.clone()).collect()
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

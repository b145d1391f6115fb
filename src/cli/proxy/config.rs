//! The sources of the proxy's options, the command line and the file of `--config`, and which changes of them a reload applies.
//!
//! The keys of the file are the options, read by the same parsers. The command line overrides the file. Environment variables are
//! not read: those of the server, whose options have the same names, may be set for a proxy beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};
use rustls::pki_types::UnixTime;

use super::args::Args;
use super::connections_within;
use crate::common::environment;
use crate::common::file::flags::{self, Flag, Given};
use crate::common::file::{Entry, Source, entries};
use crate::common::http_client::trust;
use crate::serve::{Contents, Reload, admin_tokens, between, reload_of, value, write_option};
use crate::{Failure, logging};
use echoring_admin::{AdminTokens, Configuration, FileVersion, ReloadReport, Token};
use echoring_async::tls::{self, ServerTls, Trust};
use echoring_proxy::{Config, Handle, UpstreamUrl};

/// Options about the file, which are not in it.
const NO_KEYS: [&str; 2] = ["config", "check"];

/// The sources of the options. All but the file stay as they are while the process runs.
#[derive(Debug)]
pub(super) struct Sources {
    /// The file of `--config`.
    pub(super) file: Option<PathBuf>,
    /// The command line.
    pub(super) typed: ArgMatches,
    /// The limit on descriptors.
    pub(super) descriptors: u64,
}

/// The options, and the configuration that they resolve to.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) given: Given<Args>,
    pub(super) config: Config,
    pub(super) tokens: AdminTokens,
    /// The contents of the files with certificates, keys and tokens.
    contents: Contents,
    warnings: Vec<String>,
}

impl Sources {
    /// Reads the options of all sources, and the files that they name.
    ///
    /// # Errors
    /// [`Failure::Environment`] for files that cannot be used, [`Failure::Usage`] for everything that is wrong in one.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let command = flags::command::<Args>();
        let file = self.file.as_deref().map(|path| flags_of_file(&command, path)).transpose()?;
        let typed = flags::typed(&command, &self.typed, &NO_KEYS);
        self.resolve(flags::over(&command, file.unwrap_or_default(), typed, |_, _| false))
    }

    fn resolve(&self, flags: Vec<Flag>) -> Result<Loaded, Failure> {
        let given: Given<Args> = Given::parse(flags, |line| Failure::Usage(line.to_owned()))?;
        let Given { args, origins, .. } = &given;
        let mut config = args.validate(origins)?;
        config.max_connections = connections_within(args.max_connections, self.descriptors)
            .map_err(|failure| origins.caused("--max-connections", &failure.into_line()))?;
        let mut warnings = Vec::new();
        if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
            let unusable = |error: tls::TlsError| origins.caused("--tls-cert", &error.to_string());
            config.tls = Some(tls::server_config(&ServerTls::new(cert, key)).map_err(unusable)?);
            warnings = tls::expiry_warnings(&cert.into(), UnixTime::now()).map_err(unusable)?;
        }
        if config.upstreams.iter().any(UpstreamUrl::is_secure) {
            let trust = trust(args.ca_file.as_deref(), args.insecure);
            let unusable = |error: tls::TlsError| origins.caused("--ca-file", &error.to_string());
            config.upstream_tls = Some(tls::client_config(&trust).map_err(unusable)?);
            if trust == Trust::Insecure {
                warnings.push("--insecure: the certificates of upstreams are not checked".to_owned());
            }
        }
        let tokens = admin_tokens(&args.admin_token_file, &args.admin_read_token_file, origins)?;
        let tokens_of = args.admin_token_file.iter().chain(&args.admin_read_token_file);
        warnings.extend(tokens_of.clone().filter_map(|file| Token::warning(file)));
        let of_tls = args.tls_cert.iter().chain(&args.tls_key).chain(&args.ca_file);
        let contents = Contents::of(of_tls.chain(tokens_of));
        Ok(Loaded { given, config, tokens, contents, warnings })
    }
}

fn flags_of_file(command: &Command, path: &Path) -> Result<Vec<Flag>, Failure> {
    let source = Source::read("--config", path)?;
    let root = source.root()?;
    let flag = |entry: Entry<'_>| match keys(command).find(|arg| arg.get_id() == entry.key) {
        // A proxy is started in its working directory, where relative files are.
        Some(arg) => Flag::from_entry(command, arg, &entry, Path::new("")),
        None => Err(entry.unknown(&keys(command).map(|arg| arg.get_id().as_str()).collect::<Vec<_>>())),
    };
    entries(&source, "", root.get_ref()).into_iter().map(flag).collect()
}

/// The options that a file can have.
fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NO_KEYS.contains(&arg.get_id().as_str()))
}

impl Loaded {
    /// The value of each key as a file has it, defaults included.
    fn values(&self) -> BTreeMap<String, String> {
        let command = flags::command::<Args>();
        let shown = |arg: &Arg| Some((arg.get_id().to_string(), value(arg, &self.given.matches)?));
        keys(&command).filter_map(shown).collect()
    }

    /// The same as a file.
    pub(super) fn text(&self) -> String {
        let Given { matches, origins, .. } = &self.given;
        let mut text = String::new();
        for arg in keys(&flags::command::<Args>()) {
            // Writing to a string does not fail.
            let _ = write_option(&mut text, arg.get_id().as_str(), arg, value(arg, matches), origins);
        }
        text
    }

    pub(super) fn warn(&self) {
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
}

/// The configuration of a running proxy.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) sources: Sources,
    /// The options that hold.
    pub(super) loaded: Loaded,
    pub(super) proxy: Handle,
    pub(super) control: Option<echoring_admin::Handle>,
}

impl Configuration for Running {
    fn reload(&mut self, _only_watched: bool) -> Result<ReloadReport, String> {
        self.reread().map_err(Failure::into_line)
    }

    fn watched_files(&self) -> Vec<(PathBuf, FileVersion)> {
        Vec::new()
    }
}

impl Running {
    /// Applies the options that a running proxy can change.
    ///
    /// # Errors
    /// If something in the sources cannot be used; then nothing was changed.
    fn reread(&mut self) -> Result<ReloadReport, Failure> {
        let wanted = self.sources.load()?;
        let command = flags::command::<Args>();
        let running = &self.loaded;
        let tls_begins_or_ends = wanted.config.tls.is_some() != running.config.tls.is_some();
        let is_live = |flag: &Flag| {
            let key = flag.id.as_str();
            let arg = keys(&command).find(|arg| arg.get_id() == key);
            let is_live = arg.is_some_and(|arg| reload_of(arg) == Reload::Live);
            is_live && !(tls_begins_or_ends && key.starts_with("tls_"))
        };
        let mut next =
            self.sources.resolve(flags::live(&wanted.given.flags, &running.given.flags, is_live))?;
        if let Some(used) = &running.config.tls {
            next.config.tls = next.config.tls.map(|tls| tls::with_ticket_keys_of(tls, used));
        }
        let filter = environment::checked_filter(&next.given.args.log)?;
        let changed = between(&running.values(), &next.values());
        let restart = between(&next.values(), &wanted.values());
        let files = running.contents.differing(&next.contents);
        self.proxy.reconfigure(next.config.clone()).map_err(|error| Failure::Usage(error.to_string()))?;
        if changed.iter().any(|change| change.key == "log") {
            // Fails only without a log.
            let _ = logging::set_level(filter, next.given.args.log.clone());
        }
        if let Some(control) = &self.control {
            control.set_tokens(next.tokens.clone());
        }
        next.warn();
        self.loaded = next;
        Ok(ReloadReport { changed, restart, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_what_the_guide_says() {
        let command = flags::command::<Args>();
        let fixed = keys(&command).filter(|arg| reload_of(arg) == Reload::Restart);
        let mut fixed: Vec<String> = fixed.map(|arg| format!("`{}`", arg.get_id())).collect();
        let guide = include_str!("../../../docs/guide/proxy.md").replace('\n', " ");
        let (_, listed) = guide.split_once("- Changes of ").expect("a sentence");
        let (listed, _) = listed.split_once(" need a restart").expect("its end");
        let words = listed.split([' ', ',']).filter(|word| word.starts_with('`'));
        let mut listed: Vec<&str> = words.collect();
        fixed.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, fixed);
    }

    #[test]
    fn the_key_of_an_option_is_its_name() {
        for arg in flags::command::<Args>().get_arguments() {
            let name = arg.get_long().expect("long flags only");
            assert_eq!(arg.get_id(), name.replace('-', "_").as_str());
        }
    }
}

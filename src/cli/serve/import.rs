//! `echoring import-centrifugo`: writes the configuration of `serve` that a configuration of Centrifugo stands for.
//!
//! [`source`] reads the file, [`version`] refuses one of version 5, [`placeholders`] fills in variables, and [`given`] hands out the
//! keys that are there. [`server`], [`hooks`] and [`channels`] translate them, and [`left`] says what to do about those that nobody took.
//! [`written`] is the result. What cannot be said here is closed in the result, and listed.

mod channels;
mod given;
mod hooks;
mod left;
mod placeholders;
mod server;
mod source;
mod version;
mod written;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::given::Given;
use self::written::{Secret, Written};
use crate::common::output::{note, replace};
use crate::{Failure, to_stdout};

const EXAMPLES: &str = "\
Examples:
  echoring import-centrifugo config.json > echoring.toml
  echoring import-centrifugo config.yaml --secrets-dir secrets --out echoring.toml
  echoring serve --config echoring.toml --check

Everything that the configuration does not open is closed in the written file. What could not be \
carried over is listed on stderr, and in comments at the top of the file, with what to do about it. \
Settings in environment variables of Centrifugo are read with --env. Those in its flags are not in its \
file: add them first.

Secrets go to files of their own, which only their owner can read. They are never printed.

Exit codes: 0 written, 2 the file is no configuration of Centrifugo, 3 a file cannot be read or \
written.";

/// Where the files with secrets are expected without `--secrets-dir`.
const SECRETS_DIR_DEFAULT: &str = "/etc/echoring/secrets";

/// The flags of `import-centrifugo`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Configuration of Centrifugo 6, as JSON, YAML or TOML by the ending of its name
    file: PathBuf,

    /// Write the configuration to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Write keys and secrets to files in this directory, with mode 600
    ///
    /// The directory is created if it is missing. Files that exist with other contents are not overwritten. Without it, the
    /// list says which files to write.
    #[arg(long, value_name = "DIR")]
    secrets_dir: Option<PathBuf>,

    /// Read the environment as Centrifugo does
    ///
    /// Variables such as CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY override the file, and ${NAME} in a value becomes the variable NAME.
    /// Without it, a placeholder is an error.
    #[arg(long)]
    env: bool,
}

pub(crate) fn run(arguments: &Args) -> Result<ExitCode, Failure> {
    let dir = arguments.secrets_dir.as_deref();
    let root = source::read(&arguments.file)?;
    let variables = arguments.env.then(|| std::env::vars_os().filter_map(text_pair).collect());
    let mut written = translate(root, variables, dir.unwrap_or(Path::new(SECRETS_DIR_DEFAULT)))
        .map_err(|wrong| Failure::Usage(format!("{}: {wrong}", arguments.file.display())))?;
    if let Some(dir) = dir {
        write_secrets(dir, &written.secrets)?;
    }
    written.list_secrets(dir.is_some());
    let name = arguments.file.file_name().unwrap_or_default().to_string_lossy();
    let text = written.text(&name);
    match &arguments.out {
        Some(path) => replace(path, text.as_bytes()).map_err(|error| unwritten(path, &error))?,
        None => to_stdout(text.as_bytes())?,
    }
    for line in written.list() {
        note(line);
    }
    Ok(ExitCode::SUCCESS)
}

fn text_pair((name, value): (OsString, OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// The configuration, with these variables if they count. Its secrets are in `secrets_dir`.
fn translate(
    mut root: serde_json::Value,
    variables: Option<BTreeMap<String, String>>,
    secrets_dir: &Path,
) -> Result<Written, String> {
    version::check(&root)?;
    placeholders::fill(&mut root, "", variables.as_ref())?;
    let mut given = Given::new(root)?.over_by(variables.unwrap_or_default());
    let mut written = Written::new(secrets_dir);
    let surroundings = server::translate(&mut given, &mut written)?;
    channels::translate(&mut given, &surroundings, &mut written)?;
    left::list(given, &mut written);
    Ok(written)
}

fn write_secrets(dir: &Path, secrets: &[Secret]) -> Result<(), Failure> {
    if secrets.is_empty() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| unwritten(dir, &error))?;
    for secret in secrets {
        let (path, contents) = (&secret.path, secret.contents.as_bytes());
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let done = match new {
            Ok(mut file) => file.write_all(contents).and_then(|()| file.sync_all()),
            // A new secret of an earlier import stays, since it may be in use.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match std::fs::read(path) {
                Ok(present) if present == contents || (secret.is_new() && !present.is_empty()) => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        };
        done.map_err(|error| unwritten(path, &error))?;
    }
    Ok(())
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let hint = if error.kind() == ErrorKind::AlreadyExists {
        ", with other contents; remove it, or choose another directory"
    } else {
        ""
    };
    Failure::Environment(format!("{} could not be written: {error}{hint}", path.display()))
}

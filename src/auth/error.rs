//! Why the settings of authentication cannot be used.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file or a setting that cannot be used. The text never repeats a secret.
///
/// ```
/// # use echoring_auth::{Authenticator, Settings as AuthSettings};
/// let settings = AuthSettings::default().tokens("/missing/tokens.toml");
/// let error = Authenticator::load(&settings).unwrap_err();
/// assert!(error.to_string().starts_with("/missing/tokens.toml: "));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The setting, such as `auth_tokens`.
    pub setting: &'static str,
    file: Option<PathBuf>,
    problem: String,
}

impl LoadError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> LoadError {
        LoadError { setting, file: None, problem: problem.into() }
    }

    pub(crate) fn in_file(setting: &'static str, file: &Path, problem: impl Into<String>) -> LoadError {
        LoadError { setting, file: Some(file.into()), problem: problem.into() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for LoadError {}

echoring_proto::error_debug!(struct LoadError { setting, file, problem });

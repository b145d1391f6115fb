//! The files with the tokens of the admin address.

use std::path::PathBuf;

use crate::Failure;
use crate::admin_client::read_token;
use echoring_server::control::AdminTokens;

/// The files of `--admin-token-file` and `--admin-read-token-file`.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenFiles {
    pub(super) write: Option<PathBuf>,
    pub(super) read: Option<PathBuf>,
}

impl TokenFiles {
    /// The files that are given.
    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.write.iter().chain(&self.read)
    }

    /// Reads the tokens.
    ///
    /// # Errors
    /// If a file has no token, or both have the same one.
    pub(super) fn read(&self) -> Result<AdminTokens, Failure> {
        let token = |file: &Option<PathBuf>| file.as_deref().map(read_token).transpose();
        let tokens = AdminTokens { write: token(&self.write)?, read: token(&self.read)? };
        if tokens.are_equal() {
            let line = "--admin-token-file and --admin-read-token-file have the same token";
            return Err(Failure::Environment(line.to_owned()));
        }
        Ok(tokens)
    }
}

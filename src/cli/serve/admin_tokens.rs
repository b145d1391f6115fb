//! The files with the tokens of the admin address.

use std::path::PathBuf;

use crate::Failure;
use crate::admin::admin_client::read_token;
use crate::common::file::flags::Origins;
use echoring_admin::AdminTokens;

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
    pub(super) fn read(&self, origins: &Origins) -> Result<AdminTokens, Failure> {
        const READ: &str = "--admin-read-token-file";
        let token = |flag: &str, file: &Option<PathBuf>| {
            let read = file.as_deref().map(read_token).transpose();
            read.map_err(|failure| origins.unusable(flag, &failure.into_line()))
        };
        let (write, read) = (token("--admin-token-file", &self.write)?, token(READ, &self.read)?);
        let tokens = AdminTokens { write, read };
        if tokens.are_equal() {
            return Err(origins.unusable(READ, "has the same token as --admin-token-file"));
        }
        Ok(tokens)
    }
}

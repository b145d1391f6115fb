//! The files with the tokens of the admin address.

use std::path::PathBuf;

use super::args::Args;
use crate::Failure;
use crate::admin::admin_client::read_token;
use crate::common::file::flags::Origins;
use crate::common::values::FileOrOff;
use echoring_admin::AdminTokens;

impl Args {
    /// The files of `--admin-token-file` and `--admin-read-token-file` that are given.
    pub(super) fn admin_token_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.admin_token_file.iter().chain(&self.admin_read_token_file)
    }

    /// Reads the tokens.
    ///
    /// # Errors
    /// If a file has no token, or both have the same one.
    pub(super) fn admin_tokens(&self, origins: &Origins) -> Result<AdminTokens, Failure> {
        admin_tokens(&self.admin_token_file, &self.admin_read_token_file, origins)
    }
}

/// Reads the tokens of these files of `--admin-token-file` and `--admin-read-token-file`.
///
/// # Errors
/// If a file has no token, or both have the same one.
pub(crate) fn admin_tokens(
    write: &FileOrOff,
    read: &FileOrOff,
    origins: &Origins,
) -> Result<AdminTokens, Failure> {
    const READ: &str = "--admin-read-token-file";
    let token = |flag: &str, file: &FileOrOff| {
        let read = file.as_deref().map(read_token).transpose();
        read.map_err(|failure| origins.unusable(flag, &failure.into_line()))
    };
    let tokens = AdminTokens { write: token("--admin-token-file", write)?, read: token(READ, read)? };
    if tokens.are_equal() {
        return Err(origins.unusable(READ, "has the same token as --admin-token-file"));
    }
    Ok(tokens)
}

//! Where keys and certificates are.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::TlsError;

/// A key or certificates: in a file, or in memory. A path is turned into it; PEM text is not.
///
/// ```
/// use echoring::tls::{ServerTls, Source, TlsError, server_config};
///
/// // Of a program that gets its key from a vault.
/// fn with_key_of(vault: impl Fn(&str) -> Vec<u8>) -> Result<(), TlsError> {
///     let tls = ServerTls::new("chain.pem", Source::Memory(vault("tls/key")));
///     server_config(&tls).map(drop)
/// }
/// # let error = with_key_of(|_| Vec::new()).unwrap_err();
/// # assert!(error.to_string().starts_with("chain.pem: "));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// The file with this path.
    File(PathBuf),
    /// The contents that the file would have.
    Memory(Vec<u8>),
}

impl Source {
    /// The path of a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File(path) => Some(path),
            Source::Memory(_) => None,
        }
    }

    /// The path, for errors and reports; contents have no name.
    pub(super) fn name(&self) -> PathBuf {
        self.path().unwrap_or(Path::new("(memory)")).to_owned()
    }

    pub(super) fn contents(&self) -> Result<Cow<'_, [u8]>, TlsError> {
        match self {
            Source::File(path) => match fs::read(path) {
                Ok(contents) => Ok(Cow::Owned(contents)),
                Err(error) => Err(TlsError::Read { file: path.clone(), error }),
            },
            Source::Memory(contents) => Ok(Cow::Borrowed(contents)),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Source {
        Source::File(path.into())
    }
}

// Contents may be secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name()).finish()
    }
}

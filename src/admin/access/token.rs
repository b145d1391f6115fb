//! Bearer tokens of the admin address, and the files with them.

use std::fmt;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hyper::header::{HeaderValue, InvalidHeaderValue};

use crate::limits::{ADMIN_TOKEN_BYTES_MAX, ADMIN_TOKEN_BYTES_MIN};

/// The tokens of the admin address. With any of them, every request must present one.
#[derive(Clone, Debug, Default)]
pub struct AdminTokens {
    /// For everything.
    pub write: Option<Token>,
    /// For `GET` and `HEAD` only.
    pub read: Option<Token>,
}

impl AdminTokens {
    /// Whether both are the same, so that the read token would do everything.
    #[doc(hidden)]
    pub fn are_equal(&self) -> bool {
        self.write.as_ref().zip(self.read.as_ref()).is_some_and(|(write, read)| write.is(&read.0))
    }
}

/// The bearer token of the admin address (RFC 6750).
///
/// ```
/// use echoring::server::{Token, TokenError};
///
/// let refused = Token::read("missing.token".as_ref());
/// assert!(matches!(refused, Err(TokenError::Unreadable(_))));
/// ```
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a file has no token. The message never shows the content of the file.
///
/// ```
/// use echoring::server::TokenError;
///
/// assert!(TokenError::NotAToken.to_string().starts_with("expected one line"));
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(io::Error),
    /// The file is not one line of visible ASCII characters, or its length is not allowed.
    #[error(
        "expected one line of {ADMIN_TOKEN_BYTES_MIN} to {ADMIN_TOKEN_BYTES_MAX} visible ASCII characters, \
         such as `openssl rand -hex 32` prints"
    )]
    NotAToken,
}

echoring_proto::error_debug!(
    enum TokenError {
        Unreadable(error),
        NotAToken,
    }
);

impl Token {
    /// Reads the token of a file: its only line, without spaces, from [`ADMIN_TOKEN_BYTES_MIN`] to
    /// [`ADMIN_TOKEN_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// If the file cannot be read, or has no token.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let file = File::open(path).map_err(TokenError::Unreadable)?;
        let mut line = Vec::new();
        // One byte more than allowed, and the line break.
        let most = ADMIN_TOKEN_BYTES_MAX as u64 + 3;
        file.take(most).read_to_end(&mut line).map_err(TokenError::Unreadable)?;
        Token::parse(&line)
    }

    /// The reason why the file is not secret enough.
    #[doc(hidden)]
    pub fn warning(path: &Path) -> Option<String> {
        let mode = fs::metadata(path).ok()?.permissions().mode();
        let is_open = mode & 0o077 != 0;
        is_open.then(|| format!("other users may read the admin token in {}: chmod 600 it", path.display()))
    }

    pub(crate) fn parse(line: &[u8]) -> Result<Token, TokenError> {
        let token = line.strip_suffix(b"\n").unwrap_or(line);
        let token = token.strip_suffix(b"\r").unwrap_or(token);
        let fits = (ADMIN_TOKEN_BYTES_MIN..=ADMIN_TOKEN_BYTES_MAX).contains(&token.len());
        if fits && token.iter().all(u8::is_ascii_graphic) {
            Ok(Token(token.into()))
        } else {
            Err(TokenError::NotAToken)
        }
    }

    /// The header field of a request that presents the token.
    ///
    /// # Errors
    /// Never for a token that was read.
    #[doc(hidden)]
    pub fn authorization(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut field = HeaderValue::from_bytes(&[b"Bearer ", &*self.0].concat())?;
        field.set_sensitive(true);
        Ok(field)
    }

    /// Whether `given` is the token, in constant time.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        let mut difference = self.0.len() ^ given.len();
        for (at, byte) in self.0.iter().enumerate() {
            let other = given.get(at).copied().unwrap_or_default();
            difference = black_box(difference | usize::from(byte ^ other));
        }
        difference == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        for line in [SECRET, "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            assert!(Token::parse(line.as_bytes()).is_ok_and(|token| token.is(SECRET.as_bytes())), "{line:?}");
        }
        let long = "x".repeat(ADMIN_TOKEN_BYTES_MAX + 1);
        for line in
            ["", "\n", "0123456789abcde", "0123456789abcdef\n\n", " 0123456789abcdef", "0123456789 abcdef"]
                .into_iter()
                .chain(["0123456789abcdef\nfedcba9876543210\n", "0123456789abcdeä", &long])
        {
            assert!(matches!(Token::parse(line.as_bytes()), Err(TokenError::NotAToken)), "{line:?}");
        }
        let token = Token::parse(SECRET.as_bytes()).expect("a token");
        assert_eq!(token.authorization().expect("a field").as_bytes(), format!("Bearer {SECRET}").as_bytes());
        assert!(!format!("{:?}", Token::parse(SECRET.as_bytes())).contains(SECRET));
    }

    #[test]
    fn debug_of_an_error_is_its_text_and_with_a_sharp_its_fields() {
        let unreadable = Token::read("/nonexistent/token".as_ref()).expect_err("no file");
        for (error, fields) in [(&unreadable, "Unreadable("), (&TokenError::NotAToken, "NotAToken")] {
            assert_eq!(format!("{error:?}"), error.to_string());
            assert_eq!(format!("{error:#?}").lines().next(), Some(fields));
        }
    }
}

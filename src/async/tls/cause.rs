//! Errors of the TLS library, in a type of this crate: rustls has no version 1.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error};

/// What the TLS library reports about a failure.
///
/// ```no_run
/// use echoring::{DialError, dial};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// match dial("wss://server.example/").await {
///     Err(DialError::Tls(cause)) if cause.is_untrusted() => eprintln!("not the server that was meant? {cause}"),
///     Err(error) => eprintln!("{error}"),
///     Ok(_) => {}
/// }
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct Cause(Error);

impl Cause {
    /// Whether the peer's certificate is not accepted: not issued by a trusted authority, for another name, or expired.
    pub fn is_untrusted(&self) -> bool {
        matches!(self.0, Error::InvalidCertificate(_))
    }

    /// Whether the peer's certificate was not issued by a trusted authority. Its CA certificate helps, if you trust
    /// that.
    pub fn is_unknown_issuer(&self) -> bool {
        matches!(self.0, Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    /// The alert that the peer sent, as its number (RFC 8446, section 6), if that ended the handshake.
    pub fn alert(&self) -> Option<u8> {
        match self.0 {
            Error::AlertReceived(alert) => Some(alert.into()),
            _ => None,
        }
    }

    /// Whether the failure may be temporary. Certificate errors and missing common parameters are permanent.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.0,
            Error::AlertReceived(
                AlertDescription::CloseNotify
                    | AlertDescription::InternalError
                    | AlertDescription::UserCanceled
            ) | Error::DecryptError
                | Error::FailedToGetCurrentTime
                | Error::FailedToGetRandomBytes
        )
    }

    /// The remedy, to be appended to the text.
    #[cfg(feature = "client")]
    pub(crate) fn hint(&self) -> &'static str {
        use rustls::InvalidMessage;

        match &self.0 {
            _ if self.is_authority() => {
                "; make a certificate that is not a CA certificate, such as with openssl req -x509 with -addext \
                 basicConstraints=critical,CA:FALSE"
            }
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "; if you trust the issuer, pass its CA certificate"
            }
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => "; connect to a name that the certificate covers",
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => "; check the clocks of both ends, or renew the server's certificate",
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                "; does the server speak ws instead of wss?"
            }
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                "; the server requires a client certificate: pass an `Identity`"
            }
            _ => "",
        }
    }
}

impl Cause {
    pub(crate) fn of(error: Error) -> Cause {
        Cause(error)
    }

    /// Whether the server's certificate is that of an authority, as self-signed ones often are.
    fn is_authority(&self) -> bool {
        matches!(&self.0, Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string() == "CaUsedAsEndEntity")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_authority() {
            // The library's text is the name of its type.
            return f.write_str("invalid peer certificate: the server presented a CA certificate as its own");
        }
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    /// The source of the library's error; this error has the library's text.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

echoring_proto::error_debug!(struct Cause(error));

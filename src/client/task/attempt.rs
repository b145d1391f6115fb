//! One attempt to connect: a token, if one is needed, and the handshakes.
//!
//! Never: presenting a token twice that the server has refused.

use echoring_async::reconnect::{BoxError, Failure};
use echoring_async::{ClientStream, Conn, DialError, Dialer};

use crate::protocol::Protocol;
use crate::token::{self, Credentials};

#[derive(Clone)]
pub(crate) struct Attempt {
    protocol: Protocol,
    url: String,
    dialer: Dialer,
    credentials: Credentials,
}

impl Attempt {
    pub(crate) fn new(protocol: Protocol, url: String, dialer: Dialer, credentials: Credentials) -> Attempt {
        Attempt { protocol, url, dialer: dialer.subprotocols([protocol.subprotocol()]), credentials }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The [`DialError`], or the error of the token source.
    pub(crate) async fn run(self) -> Result<Conn<ClientStream>, BoxError> {
        let kept = self.credentials.kept();
        let is_kept = kept.is_some() && self.credentials.source().is_some();
        let token = match kept {
            Some(token) => Some(token),
            None => self.credentials.fetch().await?,
        };
        match self.dial(token).await {
            // It has expired meanwhile.
            Err(error) if is_kept && is_unauthorized(&error) => {
                let token = self.credentials.fetch().await?;
                Ok(self.dial(token).await?)
            }
            dialled => Ok(dialled?),
        }
    }

    async fn dial(&self, token: Option<String>) -> Result<Conn<ClientStream>, DialError> {
        match token {
            // Otherwise the session's first request has it.
            Some(token) if !self.protocol.connects() => {
                let dialer = self.dialer.clone().header("Authorization", format!("Bearer {token}"));
                dialer.dial(&self.url).await
            }
            _ => self.dialer.dial(&self.url).await,
        }
    }
}

fn is_unauthorized(error: &DialError) -> bool {
    error.response().is_some_and(|response| response.status() == 401)
}

/// Whether a client tries again after a failure. `may_renew` says whether its next attempt may have other
/// credentials.
pub(crate) fn retries(protocol: Protocol, may_renew: bool, failure: &Failure) -> bool {
    if let Failure::Connect(error) = failure {
        return !token::is_final(error);
    }
    let reconnects = failure.close_code().and_then(|code| match protocol.reconnects_after(code.0) {
        None if protocol.expires_by(code.0) => Some(may_renew),
        by_protocol => by_protocol,
    });
    reconnects.unwrap_or_else(|| failure.is_temporary())
}

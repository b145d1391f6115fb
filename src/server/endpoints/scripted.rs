//! Endpoints with a scripted server: closes, pings, aborts, pushed messages, and reports about the request.

use std::borrow::Cow;

use serde::Serialize;

use super::parameters::{Parameters, not};
use crate::handlers::failure::Result;
use crate::handlers::handler::Handler;
use crate::handlers::message::Message;
use crate::handlers::remote::Remote;
use crate::limits::{ENDPOINT_MESSAGES_MAX, ENDPOINT_MS_MAX, PING_STORM_RATE_MAX};
use crate::routes::request_context::Opening;
use crate::routes::response::Response;
use echoring_proto::CloseCode;
use echoring_proto::handshake::{Request, SubprotocolPreference, is_subprotocol};
use echoring_proto::limits::{MILLISECOND, Nanos, REASON_BYTES_MAX, SECOND};
use echoring_runtime::shard::Disposition;

/// `/close?code=&reason=`: closes at once with this code and reason.
#[derive(Debug)]
pub(super) struct Close {
    code: CloseCode,
    reason: String,
}

impl Close {
    pub(super) fn of(opening: &mut Opening<'_>) -> Result<Close, Response> {
        let parameters = Parameters::of(opening, &["code", "reason"])?;
        let code = CloseCode(parameters.number("code", 1000, 0..=u64::from(u16::MAX))? as u16);
        if !code.may_be_sent() {
            let value = opening.query_value("code").unwrap_or_default();
            let rule = "must be a code that may be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999";
            return Err(not("code", rule, value));
        }
        Ok(Close { code, reason: parameters.text("reason", REASON_BYTES_MAX)? })
    }
}

impl Handler for Close {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.close(self.code, &self.reason);
        Ok(())
    }
}

/// `/ping-storm?rate=&bytes=` sends numbered pings, and `/push?ms=` messages, at an interval. Both echo.
#[derive(Debug)]
pub(super) struct Beats {
    interval: Nanos,
    /// The number of the next ping, and its payload; `None` for messages.
    pings: Option<(u64, Vec<u8>)>,
    stalled: bool,
}

impl Beats {
    pub(super) fn of_pings(opening: &mut Opening<'_>) -> Result<Beats, Response> {
        let parameters = Parameters::of(opening, &["rate", "bytes"])?;
        let interval = SECOND / parameters.number("rate", 10, 1..=PING_STORM_RATE_MAX)?;
        let bytes = parameters.number("bytes", 8, 0..=125)? as usize;
        Ok(Beats { interval, pings: Some((0, vec![0; bytes])), stalled: false })
    }

    pub(super) fn of_messages(opening: &mut Opening<'_>) -> Result<Beats, Response> {
        let parameters = Parameters::of(opening, &["ms"])?;
        let interval = parameters.number("ms", 3_000, 10..=ENDPOINT_MS_MAX)? * MILLISECOND;
        Ok(Beats { interval, pings: None, stalled: false })
    }

    fn beat(&mut self, remote: &mut Remote<'_>) {
        let sent = match &mut self.pings {
            Some((number, payload)) => {
                let bytes = payload.len().min(8);
                payload[..bytes].copy_from_slice(&number.to_be_bytes()[8 - bytes..]);
                let sent = remote.ping(payload);
                *number += u64::from(sent.is_ok());
                sent
            }
            None => remote.send_text("heart beat"),
        };
        self.stalled = sent.is_err();
        if !self.stalled {
            remote.wake_at(remote.now() + self.interval);
        }
    }
}

impl Handler for Beats {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.beat(remote);
        Ok(())
    }

    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        self.beat(remote);
        Ok(())
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        if self.stalled {
            self.beat(remote);
        }
        Ok(())
    }
}

/// `/abort?after=&ms=`: echoes, and ends the stream without a Close frame after a number of messages or a time.
#[derive(Debug)]
pub(super) struct Abort {
    /// Messages still to be echoed.
    left: u64,
    after: Option<Nanos>,
}

impl Abort {
    pub(super) fn of(opening: &mut Opening<'_>) -> Result<Abort, Response> {
        let parameters = Parameters::of(opening, &["after", "ms"])?;
        let after = parameters.optional_number("ms", 0..=ENDPOINT_MS_MAX)?.map(|ms| ms * MILLISECOND);
        let messages = parameters.optional_number("after", 0..=ENDPOINT_MESSAGES_MAX)?;
        // With a time only, the number of messages is unlimited.
        let left = messages.unwrap_or(if after.is_some() { u64::MAX } else { 1 });
        Ok(Abort { left, after })
    }
}

impl Handler for Abort {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        if self.left == 0 || self.after == Some(0) {
            remote.hang_up();
        } else if let Some(after) = self.after {
            remote.wake_at(remote.now() + after);
        }
        Ok(())
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        self.left -= 1;
        if self.left > 0 {
            return Ok(Disposition::Echo);
        }
        // A peer that does not read misses the last message.
        let _ = remote.send(message);
        remote.hang_up();
        Ok(Disposition::Done)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.hang_up();
        Ok(())
    }
}

/// `/headers` and `/subprotocol`: reports about the request in the first message, and echoes.
#[derive(Debug)]
pub(super) struct Greet {
    text: String,
}

impl Greet {
    pub(super) fn with_headers(opening: &mut Opening<'_>) -> Result<Greet, Response> {
        Parameters::of(opening, &[])?;
        let text = serde_json::to_string(&Shown::of(opening)).map_err(|_| Response::internal_error())?;
        Ok(Greet { text })
    }

    /// `?supported=A,B&preference=server|client`; without `supported`, all offered ones are.
    pub(super) fn with_subprotocol(opening: &mut Opening<'_>) -> Result<Greet, Response> {
        let parameters = Parameters::of(opening, &["supported", "preference"])?;
        let choices = [("server", SubprotocolPreference::Server), ("client", SubprotocolPreference::Client)];
        let preference = parameters.choice("preference", &choices)?;
        let supported = parameters.text("supported", usize::MAX)?;
        let chosen = if opening.query_value("supported").is_none() {
            opening.upgrade().subprotocols().next()
        } else {
            let names: Vec<&str> = supported.split(',').collect();
            if let Some(name) = names.iter().find(|name| !is_subprotocol(name)) {
                return Err(not("supported", "must be comma-separated names", name));
            }
            opening.upgrade().subprotocol(&names, preference)
        };
        let text = chosen.unwrap_or_default().to_owned();
        opening.choose_subprotocol(Some(text.as_str()).filter(|name| !name.is_empty()));
        Ok(Greet { text })
    }
}

impl Handler for Greet {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.send_text(&std::mem::take(&mut self.text))?;
        Ok(())
    }

    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }
}

/// A request as JSON.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    query: &'a str,
    host: &'a str,
    /// Pairs of name and value as received, in order: a name may be repeated.
    /// Those without credentials.
    headers: Vec<(&'a str, Cow<'a, str>)>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(request: &'a Request<'a>) -> Shown<'a> {
        let Request { method, target, path, query, host, .. } = *request;
        let headers = request.fields().filter(|(name, _)| !is_credential(name)).map(|(name, value)| {
            // JSON has no bytes that are not UTF-8.
            let value = String::from_utf8_lossy(value);
            match name.eq_ignore_ascii_case("sec-websocket-protocol") {
                true => (name, without_credentials(&value).into()),
                false => (name, value),
            }
        });
        Shown { method, target, path, query, host, headers: headers.collect() }
    }
}

/// Parts of field and subprotocol names that indicate credentials.
const TELLING: [&str; 11] = [
    "assertion",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "oidc",
    "apikey",
    "password",
    "secret",
    "token",
];
/// The same as separate words.
const TELLING_ALONE: [&str; 2] = ["auth", "basic"];
/// Maximum characters of a subprotocol name that is shown. Longer ones are probably tokens.
const SUBPROTOCOL_SHOWN_MAX: usize = 40;

/// Whether a name indicates a credential. Browsers and proxies add such fields for the user, and each proxy has its own
/// names: a page that may read `/headers` must not learn them.
fn is_credential(name: &str) -> bool {
    let folded = name.to_ascii_lowercase();
    let mut parts = folded.split(['.', '-', '_', ':']);
    let joined = folded.replace(['-', '_'], "");
    TELLING.iter().any(|word| joined.contains(word)) || parts.any(|part| TELLING_ALONE.contains(&part))
}

/// The names of a list of subprotocols. Clients that cannot set other fields put tokens among them: after a revealing
/// name such as `bearer`, in a name with such a prefix, or as a name that is too long. Those are omitted, as is the
/// name after one that indicates a credential.
fn without_credentials(list: &str) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut follows = false;
    for name in list.split(',').map(str::trim) {
        let tells = is_credential(name);
        if !tells && !follows && name.len() <= SUBPROTOCOL_SHOWN_MAX {
            shown.push(name);
        }
        follows = tells;
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols_are_shown_without_the_credentials_among_them() {
        for (list, shown) in [
            ("chat, superchat", "chat, superchat"),
            ("graphql-transport-ws", "graphql-transport-ws"),
            ("chat, bearer, s3cr3t", "chat"),
            ("Bearer, s3cr3t, chat", "chat"),
            ("access_token, s3cr3t,v1.json", "v1.json"),
            ("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.czNjcjN0", "v4.channel.k8s.io"),
            // It is unknown whether the token is in the name or after it.
            ("bearer.v1, s3cr3t", ""),
            (
                "base64url.bearer.authorization.k8s.io.czNjcjN0, base64.binary.k8s.io, v5.channel.k8s.io",
                "v5.channel.k8s.io",
            ),
            ("realtime, example-insecure-api-key.s3cr3t, beta.v1, chat", "realtime, chat"),
            ("bearer, token, s3cr3t, chat", "chat"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl, chat", "chat"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(list), shown, "{list}");
        }
    }

    #[test]
    fn what_identifies_a_user_is_no_field_that_is_shown() {
        for name in
            ["Cookie", "AUTHORIZATION", "proxy-authorization", "X-Api-Key", "X-ApiKey", "X_Auth_Token"]
                .into_iter()
                .chain([
                    "X-Forwarded-Access-Token",
                    "Cf-Access-Jwt-Assertion",
                    "X-Amzn-Oidc-Data",
                    "X-Auth-Request-User",
                ])
        {
            assert!(is_credential(name), "{name}");
        }
        for name in ["Host", "Sec-WebSocket-Key", "User-Agent", "Idempotency-Key", "X-Author", "X-Basics"] {
            assert!(!is_credential(name), "{name}");
        }
    }
}

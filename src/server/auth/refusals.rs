//! The responses to clients that are not let in.

use echoring_auth::{Denied, Sources};
use echoring_proto::handshake::Refusal;

/// The response for a client that is not let in, with the schemes (RFC 9110, 11.6.1) that `sources` accept.
pub(crate) fn refusal(denied: Denied, sources: Option<&Sources>) -> Refusal {
    let (status, reason, hint) = denied.response();
    let headers = match status {
        401 => challenge(sources, denied != Denied::Missing),
        429 => "Retry-After: 5\r\n",
        503 => "Retry-After: 2\r\n",
        _ => "",
    };
    Refusal { status, reason, headers, hint }
}

/// `WWW-Authenticate` (RFC 6750, 3; RFC 7617, 2).
fn challenge(sources: Option<&Sources>, has_credentials: bool) -> &'static str {
    let (tokens, passwords) = sources.map_or((true, false), |sources| (sources.tokens, sources.passwords));
    match (tokens, passwords, has_credentials) {
        (false, true, _) => "WWW-Authenticate: Basic realm=\"echoring\", charset=\"UTF-8\"\r\n",
        (_, false, false) => "WWW-Authenticate: Bearer realm=\"echoring\"\r\n",
        (_, false, true) => "WWW-Authenticate: Bearer realm=\"echoring\", error=\"invalid_token\"\r\n",
        (true, true, false) => {
            "WWW-Authenticate: Bearer realm=\"echoring\"\r\n\
             WWW-Authenticate: Basic realm=\"echoring\", charset=\"UTF-8\"\r\n"
        }
        (true, true, true) => {
            "WWW-Authenticate: Bearer realm=\"echoring\", error=\"invalid_token\"\r\n\
             WWW-Authenticate: Basic realm=\"echoring\", charset=\"UTF-8\"\r\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_status_and_every_401_a_challenge() {
        let of = |tokens, passwords| Sources { tokens, passwords, ..Sources::default() };
        for denied in Denied::ALL {
            for sources in [of(true, false), of(false, true), of(true, true)] {
                let Refusal { status, headers, .. } = refusal(denied, Some(&sources));
                assert!(headers.is_empty() || headers.ends_with("\r\n"), "{denied:?}");
                match status {
                    401 => {
                        assert_eq!(headers.contains("Bearer"), sources.tokens, "{denied:?}");
                        assert_eq!(headers.contains("Basic"), sources.passwords, "{denied:?}");
                    }
                    429 | 503 => assert!(headers.contains("Retry-After"), "{denied:?}"),
                    _ => assert_eq!((status, denied), (403, Denied::Forbidden)),
                }
            }
        }
    }
}

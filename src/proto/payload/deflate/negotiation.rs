//! Offers and responses of permessage-deflate (RFC 7692, sections 5 and 7.1), for both roles.
//!
//! A server declines an offer that it cannot accept and tries the next one. A client fails the connection when the
//! response does not match its offer.
//!
//! Never: other extensions.

#![forbid(unsafe_code)]

use std::io::Write as _;

use super::extensions::{Extension, Value, extensions};
use super::{AVAILABLE, Agreement, Direction, Preferences, WINDOW_BITS_MAX};

const NAME: &[u8] = b"permessage-deflate";

/// The windows of a server that may not have its own. A message to a topic is compressed once for each window in use, so that clients which
/// offer all sizes would multiply its cost.
const SERVER_BITS: [u8; 2] = [12, 9];

/// Server: the agreement for the values of all `Sec-WebSocket-Extensions` fields, in order. `None` when no offer is
/// accepted, so that messages stay uncompressed.
///
/// The server accepts the first acceptable offer. It declines malformed offers, and offers with unknown, repeated or
/// invalid parameters (RFC 7692, 7.1); they do not fail the handshake. An offer that limits the server to a window of
/// 256 bytes leaves the messages of the server uncompressed ([`Direction::deflates`]). The server accepts it only if
/// there is no other.
pub fn agree<'a>(offers: impl Iterator<Item = &'a [u8]>, preferences: &Preferences) -> Option<Agreement> {
    if !AVAILABLE {
        return None;
    }
    let mut last_resort = None;
    let elements = offers.flat_map(extensions).flatten().filter(|extension| extension.name == NAME);
    for offer in elements.filter_map(Parameters::parse) {
        let agreement = offer.accept_with(preferences);
        if agreement.server.deflates() {
            return Some(agreement);
        }
        last_resort = last_resort.or(Some(agreement));
    }
    last_resort
}

/// Server: appends the value of `Sec-WebSocket-Extensions` in the response.
pub fn write_response(out: &mut Vec<u8>, agreement: &Agreement) {
    let Agreement { server, client, states_server_bits, states_client_bits } = *agreement;
    write_name(out, server, client);
    // Writing to a vector cannot fail.
    if states_server_bits {
        let _ = write!(out, "; server_max_window_bits={}", server.window_bits);
    }
    if states_client_bits {
        let _ = write!(out, "; client_max_window_bits={}", client.window_bits);
    }
}

/// Client: appends the value of `Sec-WebSocket-Extensions` in the request: one offer.
pub fn write_offer(out: &mut Vec<u8>, preferences: &Preferences) {
    let Preferences { server, client } = *preferences;
    write_name(out, server, client);
    if server.window_bits < WINDOW_BITS_MAX {
        let _ = write!(out, "; server_max_window_bits={}", server.window_bits);
    }
    // Without a value, the parameter lets the server choose one (RFC 7692, 7.1.2.2).
    out.extend_from_slice(b"; client_max_window_bits");
    if client.window_bits < WINDOW_BITS_MAX {
        let _ = write!(out, "={}", client.window_bits);
    }
}

/// Appends the name of the extension, and the directions without context takeover.
fn write_name(out: &mut Vec<u8>, server: Direction, client: Direction) {
    out.extend_from_slice(NAME);
    if !server.context_takeover {
        out.extend_from_slice(b"; server_no_context_takeover");
    }
    if !client.context_takeover {
        out.extend_from_slice(b"; client_no_context_takeover");
    }
}

crate::error_enum! {
    /// The reason why the extensions in a response fail the connection (RFC 6455, 4.1 and 9.1; RFC 7692, 7.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum BadExtension {
        /// The header is malformed.
        Malformed = "the server's Sec-WebSocket-Extensions is malformed";
        /// An extension that was not offered.
        NotOffered = "the server chose an extension that was not offered";
        /// permessage-deflate occurs more than once.
        Repeated = "the server chose permessage-deflate twice";
        /// A parameter that is unknown or repeated, or has a missing, forbidden or invalid value.
        BadParameter = "the server's permessage-deflate has an invalid parameter";
        /// The response does not satisfy the parameters of the offer.
        OfferNotKept = "the server's permessage-deflate does not satisfy the offer";
    }
}

/// Client: the agreement for the values of all `Sec-WebSocket-Extensions` fields of the response. `preferences` are
/// those that [`write_offer`] wrote. `None` when the server declined.
///
/// # Errors
/// [`BadExtension`]; the client must then fail the connection.
pub fn accept_response<'a>(
    values: impl Iterator<Item = &'a [u8]>,
    preferences: &Preferences,
) -> Result<Option<Agreement>, BadExtension> {
    let mut agreement = None;
    for element in values.flat_map(extensions) {
        let extension = element.map_err(|_| BadExtension::Malformed)?;
        if extension.name != NAME {
            return Err(BadExtension::NotOffered);
        }
        if agreement.is_some() {
            return Err(BadExtension::Repeated);
        }
        let response = Parameters::parse(extension).ok_or(BadExtension::BadParameter)?;
        agreement = Some(response.check_against(preferences)?);
    }
    Ok(agreement)
}

/// The four parameters of an offer or a response.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<ClientBits>,
}

/// The value of `client_max_window_bits`, which may be missing in an offer.
#[derive(Clone, Copy)]
enum ClientBits {
    Any,
    AtMost(u8),
}

impl Parameters {
    /// `None` for unknown or repeated names and for invalid values.
    fn parse(extension: Extension<'_>) -> Option<Parameters> {
        let mut parsed = Parameters::default();
        for (name, value) in extension.parameters() {
            let repeated = match name {
                b"server_no_context_takeover" if value.is_none() => {
                    std::mem::replace(&mut parsed.server_no_context_takeover, true)
                }
                b"client_no_context_takeover" if value.is_none() => {
                    std::mem::replace(&mut parsed.client_no_context_takeover, true)
                }
                b"server_max_window_bits" => {
                    parsed.server_max_window_bits.replace(window_bits(value?)?).is_some()
                }
                b"client_max_window_bits" => {
                    let bits = match value {
                        Some(value) => ClientBits::AtMost(window_bits(value)?),
                        None => ClientBits::Any,
                    };
                    parsed.client_max_window_bits.replace(bits).is_some()
                }
                _ => return None,
            };
            if repeated {
                return None;
            }
        }
        Some(parsed)
    }

    /// Server: the most of this offer that `preferences` allow. Every valid offer is acceptable.
    fn accept_with(&self, preferences: &Preferences) -> Agreement {
        let offered_bits = self.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX);
        let server = Direction {
            context_takeover: preferences.server.context_takeover && !self.server_no_context_takeover,
            window_bits: server_bits(offered_bits, preferences.server.window_bits),
        };
        let wanted_bits = preferences.client.window_bits;
        let client_bits = match self.client_max_window_bits {
            Some(ClientBits::AtMost(bits)) => wanted_bits.min(bits),
            Some(ClientBits::Any) => wanted_bits,
            // The server cannot request a smaller window from such a client. A large window only costs memory
            // between messages, and the server can request to drop it there (RFC 7692, 7.1.1.2).
            None => WINDOW_BITS_MAX,
        };
        let client = Direction {
            context_takeover: preferences.client.context_takeover
                && !self.client_no_context_takeover
                && client_bits <= wanted_bits,
            window_bits: client_bits,
        };
        Agreement {
            server,
            client,
            states_server_bits: self.server_max_window_bits.is_some(),
            states_client_bits: client.window_bits < WINDOW_BITS_MAX,
        }
    }

    /// Client: the agreement of this response with the offer that `preferences` wrote.
    fn check_against(&self, preferences: &Preferences) -> Result<Agreement, BadExtension> {
        // The response must repeat these parameters of the offer (RFC 7692, 7.1.1.1 and 7.1.2.1).
        if !preferences.server.context_takeover && !self.server_no_context_takeover {
            return Err(BadExtension::OfferNotKept);
        }
        let server_bits = self.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX);
        if server_bits > preferences.server.window_bits {
            return Err(BadExtension::OfferNotKept);
        }
        let client_bits = match self.client_max_window_bits {
            None => WINDOW_BITS_MAX,
            Some(ClientBits::AtMost(bits)) => bits,
            Some(ClientBits::Any) => return Err(BadExtension::BadParameter),
        };
        Ok(Agreement {
            server: Direction {
                context_takeover: !self.server_no_context_takeover,
                window_bits: server_bits,
            },
            client: Direction {
                context_takeover: preferences.client.context_takeover && !self.client_no_context_takeover,
                window_bits: preferences.client.window_bits.min(client_bits),
            },
            states_server_bits: self.server_max_window_bits.is_some(),
            states_client_bits: self.client_max_window_bits.is_some(),
        })
    }
}

/// The window of the server for an offer: its own if the offer allows that, otherwise the next smaller one of [`SERVER_BITS`]. The server may
/// choose a smaller window than the offer (RFC 7692, 7.1.2.1).
fn server_bits(offered: u8, own: u8) -> u8 {
    let below = |bits: &u8| *bits <= offered && *bits < own;
    if own <= offered { own } else { SERVER_BITS.into_iter().find(below).unwrap_or(offered) }
}

/// A decimal number from 8 to 15 without leading zeros (RFC 7692, 7.1.2).
fn window_bits(value: Value<'_>) -> Option<u8> {
    let mut digits = value.bytes();
    match (digits.next()?, digits.next(), digits.next()) {
        (digit @ b'8'..=b'9', None, _) => Some(digit - b'0'),
        (b'1', Some(digit @ b'0'..=b'5'), None) => Some(10 + digit - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! Negotiation as tables: what is offered, what comes of it.

use super::*;
use crate::protocol::Role;

const fn direction(takeover: bool, window_bits: u8) -> Direction {
    Direction { takeover, window_bits }
}

const ALL: Preferences = Preferences { server: direction(true, 15), client: direction(true, 15) };
const NO_TAKEOVER: Preferences = Preferences { server: direction(false, 15), client: direction(false, 15) };
const SMALL: Preferences = Preferences { server: direction(true, 10), client: direction(true, 11) };

/// The response to the offers of these header fields, empty when all were declined.
fn answer(fields: &[&str], preferences: &Preferences) -> String {
    let mut out = Vec::new();
    if let Some(agreement) = agree(fields.iter().map(|field| field.as_bytes()), preferences) {
        write_response(&mut out, &agreement);
    }
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn a_server_answers_the_first_offer_that_it_can_meet() {
    let table: &[(&Preferences, &[&str], &str)] = &[
        (&ALL, &["permessage-deflate"], "permessage-deflate"),
        (&ALL, &["permessage-deflate; client_max_window_bits"], "permessage-deflate"),
    ];
    for (preferences, fields, expected) in table {
        assert_eq!(answer(fields, preferences), *expected, "{fields:?}");
    }
}

#[test]
fn roles_mirror_each_other() {
    let agreement = agree([&b"permessage-deflate; server_max_window_bits=9"[..]].into_iter(), &ALL);
    let agreement = agreement.expect("a good offer");
    assert_eq!(agreement.outbound(Role::Server), direction(true, 9));
    assert_eq!(agreement.inbound(Role::Client), direction(true, 9));
    let _ = (NO_TAKEOVER, SMALL);
}

//! Negotiation as tables: what is offered, what comes of it.

use proptest::prelude::*;

use super::*;
use crate::protocol::Role;

const fn direction(takeover: bool, window_bits: u8) -> Direction {
    Direction { takeover, window_bits }
}

const fn preferences(server: Direction, client: Direction) -> Preferences {
    Preferences { server, client }
}

/// All that the extension can.
const ALL: Preferences = preferences(direction(true, 15), direction(true, 15));
/// Nothing kept between messages.
const FRESH: Preferences = preferences(direction(false, 15), direction(false, 15));
/// Small windows, kept.
const SMALL: Preferences = preferences(direction(true, 10), direction(true, 11));

/// The agreement as the server writes it, and which directions it stands for, `server/client`; `-` when all
/// offers of these header fields were declined.
fn answer(fields: &[&str], preferences: &Preferences) -> String {
    let Some(agreement) = agree(fields.iter().map(|field| field.as_bytes()), preferences) else {
        return "-".into();
    };
    let mut out = Vec::new();
    write_response(&mut out, &agreement);
    let response = String::from_utf8(out).expect("ASCII");
    format!(
        "{}|{}",
        response.trim_start_matches("permessage-deflate").trim_start_matches("; "),
        show(&agreement)
    )
}

fn show(agreement: &Agreement) -> String {
    let [server, client] = [Role::Server, Role::Client].map(|role| {
        assert_eq!(agreement.outbound(role), agreement.inbound(peer_of(role)));
        let Direction { takeover, window_bits } = agreement.outbound(role);
        format!("{window_bits}{}", if takeover { "+" } else { "" })
    });
    format!("{server}/{client}")
}

fn peer_of(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

#[test]
fn a_server_grants_of_an_offer_what_its_preferences_allow() {
    let bits = "client_max_window_bits";
    let table: &[(&Preferences, &str, &str)] = &[
        (&ALL, "", "|15+/15+"),
        (&ALL, bits, "|15+/15+"),
        (&ALL, "client_max_window_bits=15", "|15+/15+"),
        (&ALL, "client_max_window_bits=9", "client_max_window_bits=9|15+/9+"),
        (&ALL, "client_max_window_bits=8", "client_max_window_bits=8|15+/8+"),
        (&ALL, "server_max_window_bits=15", "server_max_window_bits=15|15+/15+"),
        (&ALL, "server_max_window_bits=9", "server_max_window_bits=9|9+/15+"),
        (&ALL, "server_no_context_takeover", "server_no_context_takeover|15/15+"),
        (&ALL, "client_no_context_takeover", "client_no_context_takeover|15+/15"),
        (
            &ALL,
            "client_max_window_bits=10; server_max_window_bits=\"12\";client_no_context_takeover ; \
             server_no_context_takeover",
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12; \
             client_max_window_bits=10|12/10",
        ),
        (&FRESH, "", "server_no_context_takeover; client_no_context_takeover|15/15"),
        (&FRESH, bits, "server_no_context_takeover; client_no_context_takeover|15/15"),
        // A smaller window than the client would bear needs no word, except where it asked for one.
        (&SMALL, bits, "client_max_window_bits=11|10+/11+"),
        (
            &SMALL,
            "server_max_window_bits=15; client_max_window_bits=15",
            "server_max_window_bits=10; client_max_window_bits=11|10+/11+",
        ),
        (
            &SMALL,
            "server_max_window_bits=9; client_max_window_bits=10",
            "server_max_window_bits=9; client_max_window_bits=10|9+/10+",
        ),
        // A client that cannot be told its window must not keep it.
        (&SMALL, "", "client_no_context_takeover|10+/15"),
    ];
    for (preferences, parameters, expected) in table {
        let field = format!("permessage-deflate; {parameters}");
        let field = field.trim_end_matches("; ");
        assert_eq!(answer(&[field], preferences), *expected, "{field}");
    }
}

#[test]
fn offers_that_are_malformed_or_unknown_are_declined() {
    let parameters = [
        "server_no_context_takeover=1",
        "server_no_context_takeover; server_no_context_takeover",
        "client_no_context_takeover=\"\"",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=08",
        "server_max_window_bits=010",
        "server_max_window_bits=100",
        "server_max_window_bits=1",
        "server_max_window_bits=+9",
        "server_max_window_bits=-9",
        "server_max_window_bits=a",
        "server_max_window_bits=1a",
        "server_max_window_bits=\"1 0\"",
        "server_max_window_bits=\"10",
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=08",
        "client_max_window_bits=",
        "client_max_window_bits; client_max_window_bits",
        "client_max_window_bits; client_max_window_bits=10",
        "Server_No_Context_Takeover",
        "max_window_bits=10",
        "mux",
        ";",
    ];
    for parameters in parameters {
        let field = format!("permessage-deflate; {parameters}");
        assert_eq!(answer(&[&field], &ALL), "-", "{field}");
        // A good one behind is taken in its stead.
        assert_eq!(answer(&[&field, "permessage-deflate"], &ALL), "|15+/15+", "{field}");
    }
    for field in
        ["", "x-webkit-deflate-frame", "permessage-deflate2", "Permessage-Deflate", "permessage-bzip2"]
    {
        assert_eq!(answer(&[field], &ALL), "-", "{field}");
    }
}

#[test]
fn the_clients_order_of_preference_is_kept_over_lists_and_fields() {
    let table: &[(&[&str], &str)] = &[
        (
            &["permessage-deflate; server_max_window_bits=9, permessage-deflate"],
            "server_max_window_bits=9|9+/15+",
        ),
        (&["permessage-deflate", "permessage-deflate; server_max_window_bits=9"], "|15+/15+"),
        (
            &[
                "permessage-bzip2; x=\"permessage-deflate,\", permessage-deflate; server_max_window_bits=10",
                "permessage-deflate",
            ],
            "server_max_window_bits=10|10+/15+",
        ),
        (
            &["permessage-deflate; x, permessage-deflate; server_max_window_bits=\"1\\1\""],
            "server_max_window_bits=11|11+/15+",
        ),
        (
            &["permessage-deflate; server_max_window_bits=\"10, permessage-deflate", "permessage-deflate"],
            "|15+/15+",
        ),
        (&["permessage-deflate;, permessage-deflate"], "|15+/15+"),
    ];
    for (fields, expected) in table {
        assert_eq!(answer(fields, &ALL), *expected, "{fields:?}");
    }
}

#[test]
fn a_window_of_256_bytes_is_granted_only_when_no_other_offer_can_be() {
    let narrow = "permessage-deflate; server_max_window_bits=8";
    assert_eq!(answer(&[narrow], &ALL), "server_max_window_bits=8|8+/15+");
    assert_eq!(
        answer(&[narrow, "permessage-deflate; server_max_window_bits=9"], &ALL),
        "server_max_window_bits=9|9+/15+"
    );
    assert_eq!(
        answer(&[narrow, "permessage-deflate; server_max_window_bits=8; client_no_context_takeover"], &ALL),
        "server_max_window_bits=8|8+/15+"
    );
    assert!(!direction(true, 8).deflates() && direction(true, 9).deflates());
}

#[test]
fn takeover_can_be_given_up_before_the_response_is_written() {
    let agreement = agree([&b"permessage-deflate; server_max_window_bits=12"[..]].into_iter(), &ALL);
    let agreement = agreement.expect("a good offer").without_takeover();
    let mut out = Vec::new();
    write_response(&mut out, &agreement);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"
    );
    assert_eq!(show(&agreement), "12/15");
}

#[test]
fn a_client_offers_what_it_allows_at_most() {
    let table = [
        (ALL, "permessage-deflate; client_max_window_bits"),
        (
            FRESH,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        ),
        (SMALL, "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11"),
    ];
    for (preferences, expected) in table {
        let mut out = Vec::new();
        write_offer(&mut out, &preferences);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn a_client_accepts_only_what_it_offered() {
    use BadExtension::*;
    let table: &[(&Preferences, &[&str], Result<&str, BadExtension>)] = &[
        (&ALL, &[], Ok("-")),
        (&ALL, &["", " , "], Ok("-")),
        (&ALL, &["permessage-deflate"], Ok("15+/15+")),
        (&ALL, &["permessage-deflate; server_no_context_takeover"], Ok("15/15+")),
        (&ALL, &["permessage-deflate; client_no_context_takeover"], Ok("15+/15")),
        // A server may confine itself without being asked to (RFC 7692, 7.1.2.1).
        (&ALL, &["permessage-deflate; server_max_window_bits=8; client_max_window_bits=\"8\""], Ok("8+/8+")),
        (&ALL, &["permessage-deflate; client_max_window_bits=9"], Ok("15+/9+")),
        (&FRESH, &["permessage-deflate; server_no_context_takeover"], Ok("15/15")),
        (&FRESH, &["permessage-deflate"], Err(OfferNotKept)),
        (&SMALL, &["permessage-deflate; server_max_window_bits=10"], Ok("10+/11+")),
        (&SMALL, &["permessage-deflate; server_max_window_bits=9; client_max_window_bits=15"], Ok("9+/11+")),
        (&SMALL, &["permessage-deflate; server_max_window_bits=11"], Err(OfferNotKept)),
        (&SMALL, &["permessage-deflate"], Err(OfferNotKept)),
        (&ALL, &["permessage-deflate; client_max_window_bits"], Err(BadParameter)),
        (&ALL, &["permessage-deflate; server_max_window_bits"], Err(BadParameter)),
        (&ALL, &["permessage-deflate; server_max_window_bits=16"], Err(BadParameter)),
        (&ALL, &["permessage-deflate; client_max_window_bits=07"], Err(BadParameter)),
        (&ALL, &["permessage-deflate; server_no_context_takeover=true"], Err(BadParameter)),
        (
            &ALL,
            &["permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"],
            Err(BadParameter),
        ),
        (&ALL, &["permessage-deflate; x"], Err(BadParameter)),
        (&ALL, &["permessage-deflate, permessage-deflate"], Err(Repeated)),
        (&ALL, &["permessage-deflate", "permessage-deflate"], Err(Repeated)),
        (&ALL, &["permessage-bzip2"], Err(NotOffered)),
        (&ALL, &["permessage-deflate, x-webkit-deflate-frame"], Err(NotOffered)),
        (&ALL, &["permessage-deflate;"], Err(Malformed)),
        (&ALL, &["permessage-deflate; server_max_window_bits=\"9"], Err(Malformed)),
        (&ALL, &["permessage-deflate", "="], Err(Malformed)),
    ];
    for (preferences, values, expected) in table {
        let accepted = accept_response(values.iter().map(|value| value.as_bytes()), preferences);
        let shown =
            accepted.map(|agreement| agreement.map_or_else(|| "-".into(), |agreement| show(&agreement)));
        assert_eq!(shown.as_deref().map_err(|error| *error), *expected, "{values:?}");
    }
}

fn any_direction() -> impl Strategy<Value = Direction> {
    (any::<bool>(), 9..=15u8).prop_map(|(takeover, window_bits)| Direction { takeover, window_bits })
}

fn any_preferences() -> impl Strategy<Value = Preferences> {
    (any_direction(), any_direction()).prop_map(|(server, client)| Preferences { server, client })
}

proptest! {
    /// Whatever the two ends prefer, they come to the same, and to no more than either allows.
    #[test]
    fn our_client_and_our_server_agree(server in any_preferences(), client in any_preferences()) {
        let (mut offer, mut response) = (Vec::new(), Vec::new());
        write_offer(&mut offer, &client);
        let of_server = agree([&offer[..]].into_iter(), &server).expect("our own offers can be met");
        write_response(&mut response, &of_server);
        let of_client = accept_response([&response[..]].into_iter(), &client);
        let of_client = of_client.expect("our own responses are good").expect("and agree");
        for role in [Role::Server, Role::Client] {
            let (sends, takes) = (of_server.outbound(role), of_client.outbound(role));
            prop_assert_eq!(sends.takeover, takes.takeover);
            let [of_one, of_other] = [&server, &client].map(|preferences| match role {
                Role::Server => preferences.server,
                Role::Client => preferences.client,
            });
            prop_assert!(!sends.takeover || of_one.takeover && of_other.takeover);
            // Each sends within what the other expects, which is within what the receiver allows.
            let (sender, receiver) = match role {
                Role::Server => (sends, takes),
                Role::Client => (takes, sends),
            };
            prop_assert!(sender.window_bits <= receiver.window_bits);
            prop_assert!(sender.window_bits <= of_one.window_bits.min(of_other.window_bits));
        }
    }

    /// Nothing that a peer writes into the header does harm.
    #[test]
    fn any_header_is_answered(value in "[a-z_;=,\" \\\\0-9-]{0,80}", bytes in any::<Vec<u8>>()) {
        for value in [value.as_bytes(), &bytes, &[b"permessage-deflate;", value.as_bytes()].concat()] {
            let agreement = agree([value].into_iter(), &ALL);
            let accepted = accept_response([value].into_iter(), &ALL);
            if let Ok(Some(accepted)) = accepted {
                // What a client takes for an answer a server takes for an offer.
                prop_assert_eq!(agreement.map(|agreement| show(&agreement)), Some(show(&accepted)));
            }
        }
    }
}

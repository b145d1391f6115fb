//! Tables of offers with the expected responses and agreements.

use proptest::prelude::*;

use super::*;
use crate::Role;

const fn direction(context_takeover: bool, window_bits: u8) -> Direction {
    Direction { context_takeover, window_bits }
}

const fn preferences(server: Direction, client: Direction) -> Preferences {
    Preferences { server, client }
}

/// The most that the extension allows.
const ALL: Preferences = preferences(direction(true, 15), direction(true, 15));
/// No context takeover.
const NO_TAKEOVER: Preferences = preferences(direction(false, 15), direction(false, 15));
/// Small windows with context takeover.
const SMALL: Preferences = preferences(direction(true, 10), direction(true, 11));

/// The response of the server and the directions `server/client` of the agreement; `-` when the server declined all
/// offers of these header fields.
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
        let Direction { context_takeover, window_bits } = agreement.outbound(role);
        format!("{window_bits}{}", if context_takeover { "+" } else { "" })
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
fn a_server_accepts_as_much_of_an_offer_as_its_preferences_allow() {
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
        (&NO_TAKEOVER, "", "server_no_context_takeover; client_no_context_takeover|15/15"),
        (&NO_TAKEOVER, bits, "server_no_context_takeover; client_no_context_takeover|15/15"),
        // The response names a window below that of the offer only if the offer has the parameter.
        (&SMALL, bits, "client_max_window_bits=11|10+/11+"),
        (
            &SMALL,
            "server_max_window_bits=15; client_max_window_bits=15",
            "server_max_window_bits=10; client_max_window_bits=11|10+/11+",
        ),
        (&SMALL, "server_max_window_bits=10", "client_no_context_takeover; server_max_window_bits=10|10+/15"),
        (
            &SMALL,
            "server_max_window_bits=9; client_max_window_bits=10",
            "server_max_window_bits=9; client_max_window_bits=10|9+/10+",
        ),
        // A client whose window cannot be limited must not use context takeover.
        (&SMALL, "", "client_no_context_takeover|10+/15"),
    ];
    for (preferences, parameters, expected) in table {
        let field = format!("permessage-deflate; {parameters}");
        let field = field.trim_end_matches("; ");
        assert_eq!(answer(&[field], preferences), *expected, "{field}");
    }
}

/// A message to a topic is compressed once for each window.
#[test]
fn offers_of_all_windows_leave_a_server_with_few() {
    let table = [
        // The server's own window, and its windows for offers of 8 to 15.
        (15, [8, 9, 9, 9, 12, 12, 12, 15]),
        (14, [8, 9, 9, 9, 12, 12, 14, 14]),
        (13, [8, 9, 9, 9, 12, 13, 13, 13]),
        (12, [8, 9, 9, 9, 12, 12, 12, 12]),
        (11, [8, 9, 9, 11, 11, 11, 11, 11]),
        (10, [8, 9, 10, 10, 10, 10, 10, 10]),
        (9, [8, 9, 9, 9, 9, 9, 9, 9]),
    ];
    for ((own, expected), context_takeover) in table.into_iter().flat_map(|row| [(row, true), (row, false)]) {
        let preferences = preferences(direction(context_takeover, own), direction(true, 15));
        let answered = (8..=15).map(|offered: u8| {
            let offer =
                format!("permessage-deflate; server_max_window_bits={offered}; client_max_window_bits=11");
            let agreement = agree([offer.as_bytes()].into_iter(), &preferences).expect("acceptable");
            let Direction { context_takeover: kept, window_bits } = agreement.outbound(Role::Server);
            assert!(window_bits <= offered && kept == context_takeover);
            // A window of the client costs the server nothing more for others.
            assert_eq!(agreement.outbound(Role::Client).window_bits, 11);
            let mut response = Vec::new();
            write_response(&mut response, &agreement);
            let stated = format!("server_max_window_bits={window_bits};");
            assert!(String::from_utf8_lossy(&response).contains(&stated), "the response has the smaller one");
            window_bits
        });
        let answered: Vec<u8> = answered.collect();
        assert_eq!(answered, expected, "{own}");
        let mut deflating: Vec<u8> =
            answered.into_iter().filter(|bits| direction(true, *bits).deflates()).collect();
        deflating.dedup();
        assert!(deflating.len() <= 3, "{deflating:?}");
        // Without the parameter, it is its own.
        let agreement = agree([NAME].into_iter(), &preferences).expect("acceptable");
        assert_eq!(agreement.outbound(Role::Server).window_bits, own);
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
        // The server accepts a valid offer after it.
        assert_eq!(answer(&[&field, "permessage-deflate"], &ALL), "|15+/15+", "{field}");
    }
    for field in
        ["", "x-webkit-deflate-frame", "permessage-deflate2", "Permessage-Deflate", "permessage-bzip2"]
    {
        assert_eq!(answer(&[field], &ALL), "-", "{field}");
    }
}

#[test]
fn the_first_acceptable_offer_wins_across_lists_and_fields() {
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
            "server_max_window_bits=9|9+/15+",
        ),
        (
            &["permessage-deflate; x, permessage-deflate; server_max_window_bits=\"1\\1\""],
            "server_max_window_bits=9|9+/15+",
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
fn a_window_of_256_bytes_is_accepted_only_when_no_other_offer_is_acceptable() {
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
fn takeover_can_be_disabled_before_the_response_is_written() {
    let agreement = agree([&b"permessage-deflate; server_max_window_bits=12"[..]].into_iter(), &ALL);
    let agreement = agreement.expect("an acceptable offer").without_context_takeover();
    let mut out = Vec::new();
    write_response(&mut out, &agreement);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"
    );
    assert_eq!(show(&agreement), "12/15");
}

#[test]
fn a_client_offers_the_most_that_its_preferences_allow() {
    let table = [
        (ALL, "permessage-deflate; client_max_window_bits"),
        (
            NO_TAKEOVER,
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
        // A server may limit its window although the offer does not (RFC 7692, 7.1.2.1).
        (&ALL, &["permessage-deflate; server_max_window_bits=8; client_max_window_bits=\"8\""], Ok("8+/8+")),
        (&ALL, &["permessage-deflate; client_max_window_bits=9"], Ok("15+/9+")),
        (&NO_TAKEOVER, &["permessage-deflate; server_no_context_takeover"], Ok("15/15")),
        (&NO_TAKEOVER, &["permessage-deflate"], Err(OfferNotKept)),
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
    (any::<bool>(), 9..=15u8)
        .prop_map(|(context_takeover, window_bits)| Direction { context_takeover, window_bits })
}

fn any_preferences() -> impl Strategy<Value = Preferences> {
    (any_direction(), any_direction()).prop_map(|(server, client)| Preferences { server, client })
}

proptest! {
    /// For all preferences, both roles reach the same agreement, and it exceeds the preferences of neither.
    #[test]
    fn our_client_and_our_server_agree(server in any_preferences(), client in any_preferences()) {
        let (mut offer, mut response) = (Vec::new(), Vec::new());
        write_offer(&mut offer, &client);
        let server_agreement = agree([&offer[..]].into_iter(), &server).expect("the offer is acceptable");
        write_response(&mut response, &server_agreement);
        let client_agreement = accept_response([&response[..]].into_iter(), &client);
        let client_agreement = client_agreement.expect("the response is valid").expect("the server accepts");
        for role in [Role::Server, Role::Client] {
            let (at_server, at_client) = (server_agreement.outbound(role), client_agreement.outbound(role));
            prop_assert_eq!(at_server.context_takeover, at_client.context_takeover);
            let [server_limit, client_limit] = [&server, &client].map(|preferences| match role {
                Role::Server => preferences.server,
                Role::Client => preferences.client,
            });
            prop_assert!(!at_server.context_takeover || server_limit.context_takeover && client_limit.context_takeover);
            // The window of the sender fits into that of the receiver, which fits into the preferences of both.
            let (sender, receiver) = match role {
                Role::Server => (at_server, at_client),
                Role::Client => (at_client, at_server),
            };
            prop_assert!(sender.window_bits <= receiver.window_bits);
            prop_assert!(sender.window_bits <= server_limit.window_bits.min(client_limit.window_bits));
        }
    }

    /// No header value makes either role panic.
    #[test]
    fn any_header_is_handled(value in "[a-z_;=,\" \\\\0-9-]{0,80}", bytes in any::<Vec<u8>>()) {
        for value in [value.as_bytes(), &bytes, &[b"permessage-deflate;", value.as_bytes()].concat()] {
            let agreement = agree([value].into_iter(), &ALL);
            let accepted = accept_response([value].into_iter(), &ALL);
            if let Ok(Some(accepted)) = accepted {
                // A server accepts every response that a client accepts as an offer, perhaps with a smaller window of its own.
                let rounded = |agreement: Agreement| {
                    let server = agreement.outbound(Role::Server);
                    let window_bits = server_bits(server.window_bits, WINDOW_BITS_MAX);
                    format!("{:?} {:?}", Direction { window_bits, ..server }, agreement.outbound(Role::Client))
                };
                prop_assert_eq!(agreement.map(rounded), Some(rounded(accepted)));
            }
        }
    }
}

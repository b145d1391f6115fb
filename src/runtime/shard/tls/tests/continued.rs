//! Sessions that go on elsewhere, against clients of rustls, and against peers that send what those never do.

use rustls::CipherSuite;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::*;
use crate::limits::{TLS_KEY_RECORDS_MAX, TLS_UPDATES_IN_A_ROW_MAX, TLS_UPDATES_MAX};
use crate::shard::tls::continued::PlainContinued;
use crate::shard::tls::keys::{ALERT, APPLICATION_DATA, Direction, HANDSHAKE};
use echoring_proto::Plain as _;

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_REQUEST: [u8; 5] = [24, 0, 0, 1, 1];

/// An open connection whose server may move.
fn opened(suite: CipherSuite, pool: &mut Pool) -> Pair {
    let mut provider = (*seeded::provider(2)).clone();
    provider.cipher_suites.retain(|supported| supported.suite() == suite);
    let mut setup = Setup::with_provider(V13, None, Arc::new(provider));
    setup.server = with_secrets(Arc::unwrap_or_clone(setup.server));
    let mut pair = setup.pair(pool);
    pair.shake(pool, 1 << 20);
    pair
}

impl Pair {
    /// The server goes on in another place, as the bytes of its session say. Returns those.
    fn moves(&mut self, pool: &mut Pool) -> Vec<u8> {
        self.moves_with(&[], pool)
    }

    /// The same, with bytes that the driver has given back.
    fn moves_with(&mut self, unsent: &[u8], pool: &mut Pool) -> Vec<u8> {
        assert!(self.server.may_move());
        let idle = Session::server(Arc::clone(&Setup::new(V13, None).server), pool).expect("a session");
        let session = std::mem::replace(&mut self.server, idle).into_continued(pool).expect("its keys");
        let plain = session.plain(unsent).expect("continued");
        let bytes = plain.encode();
        assert!(bytes.len() <= plain.bytes_max(), "{} bytes", bytes.len());
        let taken = Session::taken(PlainSession::decode(&bytes).expect("well formed"), pool).expect("memory");
        session.release(pool);
        std::mem::replace(&mut self.server, taken).release(pool);
        bytes
    }

    /// A message in each direction, of these lengths.
    fn talks(&mut self, bytes: usize, pool: &mut Pool) {
        self.client.seal(&pattern(bytes), pool).expect("memory");
        let up = sealed(&mut self.client, pool);
        let (plain, opened) = open(&mut self.server, &up, pool, || 1_000);
        assert_eq!((plain, opened.broken), (pattern(bytes), None));
        self.server.seal(&pattern(bytes), pool).expect("memory");
        let down = sealed(&mut self.server, pool);
        let (plain, opened) = open(&mut self.client, &down, pool, || 1_000);
        assert_eq!((plain, opened.broken), (pattern(bytes), None));
    }

    /// The client changes its keys, and requests that of the server, with what it sends next.
    fn client_updates(&mut self) {
        let Side::Client(side) = &mut self.client.side else { panic!("a client") };
        let UnbufferedStatus { state, .. } = side.process_tls_records(&mut []);
        let Ok(ConnectionState::WriteTraffic(traffic)) = state else { panic!("an open session") };
        traffic.refresh_traffic_keys().expect("TLS 1.3");
    }

    fn ends(self, pool: &mut Pool) {
        self.server.release(pool);
        self.client.release(pool);
    }
}

/// Nothing is charged any more.
fn all_is_back(mut pool: Pool) {
    pool.trim();
    pool.trim();
    assert_eq!(pool.used_bytes(), 0, "everything goes back");
}

#[test]
fn a_session_goes_on_from_any_record_however_often_it_moves() {
    let mut pool = Pool::standalone();
    for suite in SUITES {
        for (before, moves) in [(0, 1), (1, 2), (5, 20), (300, 2)] {
            let mut pair = opened(suite, &mut pool);
            (0..before).for_each(|bytes| pair.talks(bytes, &mut pool));
            for _ in 0..moves {
                pair.moves(&mut pool);
                // Some move again before they have sent anything.
                pair.moves(&mut pool);
                for bytes in [1, 2_000, 0, 40_000] {
                    pair.talks(bytes, &mut pool);
                }
            }
            pair.ends(&mut pool);
        }
    }
    all_is_back(pool);
}

#[test]
fn only_open_servers_of_tls_13_that_keep_secrets_may_move() {
    let mut pool = Pool::standalone();
    for (versions, keeps_secrets, moves) in [(V13, true, true), (V13, false, false), (V12, true, false)] {
        let mut setup = Setup::new(versions, None);
        if keeps_secrets {
            setup.server = with_secrets(Arc::unwrap_or_clone(setup.server));
        }
        let mut pair = setup.pair(&mut pool);
        assert!(!pair.server.may_move(), "a handshake stays");
        pair.shake(&mut pool, 1 << 20);
        assert_eq!((pair.server.may_move(), pair.client.may_move()), (moves, false));
        pair.server.say_goodbye(&mut pool).expect("memory");
        assert!(!pair.server.may_move(), "one that has ended stays");
    }
}

#[test]
fn the_first_record_elsewhere_changes_the_keys_of_both_sides() {
    let mut pool = Pool::standalone();
    for suite in SUITES {
        let mut pair = opened(suite, &mut pool);
        pair.talks(5, &mut pool);
        let before = pair.moves(&mut pool);
        let continued = PlainSession::decode(&before).expect("a session").continued;
        pair.talks(5, &mut pool);
        pair.talks(5, &mut pool);
        let after = pair.moves(&mut pool);
        let again = PlainSession::decode(&after).expect("a session").continued;
        assert_ne!(again.sending, continued.sending);
        // Two messages down; the client's answer came in front of its second one.
        assert_eq!((again.sending.sequence, again.receiving.sequence), (2, 1));
        pair.ends(&mut pool);
    }
}

#[test]
fn keys_change_before_during_and_after_a_move() {
    let mut pool = Pool::standalone();
    for suite in SUITES {
        for updates in 0..4 {
            let mut pair = opened(suite, &mut pool);
            for _ in 0..updates {
                pair.client_updates();
                pair.talks(30, &mut pool);
            }
            // The request has come, its answer has not left.
            pair.client_updates();
            pair.client.seal(b"asked", &mut pool).expect("memory");
            let up = sealed(&mut pair.client, &mut pool);
            assert_eq!(open(&mut pair.server, &up, &mut pool, || 1 << 20).0, b"asked");
            pair.moves(&mut pool);
            pair.talks(30, &mut pool);
            for _ in 0..updates {
                pair.client_updates();
                pair.talks(30, &mut pool);
                pair.moves(&mut pool);
                pair.client_updates();
                pair.talks(30, &mut pool);
            }
            // Both change their keys at once.
            pair.client_updates();
            pair.moves(&mut pool);
            pair.server.seal(b"down", &mut pool).expect("memory");
            pair.client.seal(b"up", &mut pool).expect("memory");
            let (up, down) = (sealed(&mut pair.client, &mut pool), sealed(&mut pair.server, &mut pool));
            assert_eq!(open(&mut pair.server, &up, &mut pool, || 1 << 20).0, b"up");
            assert_eq!(open(&mut pair.client, &down, &mut pool, || 1 << 20).0, b"down");
            pair.talks(30, &mut pool);
            pair.ends(&mut pool);
        }
    }
    all_is_back(pool);
}

#[test]
fn the_secret_of_a_session_is_found_behind_many_updates_and_not_looked_for_without_end() {
    let mut pool = Pool::standalone();
    let mut pair = opened(SUITES[0], &mut pool);
    for _ in 0..TLS_UPDATES_MAX {
        pair.client_updates();
        pair.talks(1, &mut pool);
    }
    pair.moves(&mut pool);
    pair.talks(1, &mut pool);
    pair.ends(&mut pool);
    let mut pair = opened(SUITES[0], &mut pool);
    for _ in 0..=TLS_UPDATES_MAX {
        pair.client_updates();
        pair.talks(1, &mut pool);
    }
    assert!(pair.server.into_continued(&mut pool).is_none());
    pair.client.release(&mut pool);
    all_is_back(pool);
}

#[test]
fn bytes_of_both_directions_that_are_under_way_move_along() {
    let mut pool = Pool::standalone();
    let mut pair = opened(SUITES[1], &mut pool);
    let messages = [pattern(1), pattern(30), pattern(20_000)];
    let mut wire = Vec::new();
    for message in &messages {
        pair.client.seal(message, &mut pool).expect("memory");
        wire.extend(sealed(&mut pair.client, &mut pool));
    }
    for cut in (1..200).chain([1_000, 16_000, wire.len() - 1]) {
        let mut pair = opened(SUITES[1], &mut pool);
        let mut up = Vec::new();
        for message in &messages {
            pair.client.seal(message, &mut pool).expect("memory");
            up.extend(sealed(&mut pair.client, &mut pool));
        }
        let (mut plain, _) = open(&mut pair.server, &up[..cut], &mut pool, || 1 << 20);
        // Of what was sealed before, the driver has a part, which it could not send.
        pair.server.seal(&pattern(100_000), &mut pool).expect("memory");
        let first = pair.server.pop().expect("sealed");
        let (sent, unsent) = first.as_slice().split_at(cut);
        let mut down = sent.to_vec();
        pair.moves_with(unsent, &mut pool);
        pool.put(first);
        pair.server.seal(b"more", &mut pool).expect("memory");
        plain.extend(open(&mut pair.server, &up[cut..], &mut pool, || 1 << 20).0);
        assert_eq!(plain, messages.concat(), "cut at {cut}");
        down.extend(sealed(&mut pair.server, &mut pool));
        let (plain, opened) = open(&mut pair.client, &down, &mut pool, || 1 << 20);
        assert_eq!((plain, opened.broken), ([&pattern(100_000)[..], b"more"].concat(), None));
        pair.ends(&mut pool);
    }
    pair.ends(&mut pool);
    all_is_back(pool);
}

#[test]
fn a_goodbye_is_said_and_heard_after_a_move() {
    let mut pool = Pool::standalone();
    for is_client_first in [false, true] {
        let mut pair = opened(SUITES[2], &mut pool);
        pair.moves(&mut pool);
        let (speaker, listener) = if is_client_first {
            (&mut pair.client, &mut pair.server)
        } else {
            (&mut pair.server, &mut pair.client)
        };
        speaker.seal(b"last", &mut pool).expect("memory");
        speaker.say_goodbye(&mut pool).expect("memory");
        let bytes = sealed(speaker, &mut pool);
        let (plain, opened) = open(listener, &bytes, &mut pool, || 7);
        assert_eq!((plain.as_slice(), opened.ended, opened.broken), (&b"last"[..], true, None));
        listener.say_goodbye(&mut pool).expect("memory");
        assert!(!sealed(listener, &mut pool).is_empty());
        pair.ends(&mut pool);
    }
    all_is_back(pool);
}

/// A connection of a server that has moved, and a client that sends records as it likes.
struct Odd {
    server: Session,
    sending: Direction,
    receiving: Direction,
}

impl Odd {
    fn new(pool: &mut Pool) -> Odd {
        let mut pair = opened(SUITES[0], pool);
        let bytes = pair.moves(pool);
        let PlainContinued { sending, receiving, .. } =
            PlainSession::decode(&bytes).expect("a session").continued;
        let directions = (Direction::taken(receiving), Direction::taken(sending));
        let (Some(sending), Some(receiving)) = directions else { panic!("keys") };
        pair.client.release(pool);
        Odd { server: pair.server, sending, receiving }
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut room = vec![0; content.len() + TLS_RECORD_OVERHEAD_BYTES_MAX];
        let Ok(bytes) = self.sending.seal(kind, content, &mut room) else { panic!("sealed") };
        room.truncate(bytes);
        room
    }

    fn update(&mut self, message: &[u8]) -> Vec<u8> {
        let record = self.record(HANDSHAKE, message);
        self.sending.update().expect("keys");
        record
    }

    fn sends(&mut self, bytes: &[u8], pool: &mut Pool) -> (Vec<u8>, Opened) {
        open(&mut self.server, bytes, pool, || 1 << 20)
    }

    /// Decrypts the records that the server has sent.
    fn hears(&mut self, pool: &mut Pool) -> Vec<(u8, Vec<u8>)> {
        let bytes = sealed(&mut self.server, pool);
        let (mut records, mut rest) = (Vec::new(), &bytes[..]);
        while let Some(&[_, _, _, high, low]) = rest.first_chunk::<5>() {
            let (record, behind) = rest.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
            rest = behind;
            let mut record = record.to_vec();
            let (kind, at) =
                self.receiving.open(&mut record).expect("authentic, and no nonce out of its turn");
            if kind == HANDSHAKE {
                self.receiving.update().expect("keys");
            }
            records.push((kind, record[at].to_vec()));
        }
        records
    }
}

#[test]
fn what_a_standard_allows_is_read_and_what_it_forbids_ends_the_session_with_an_alert() {
    let mut pool = Pool::standalone();
    let mut all = Vec::new();
    type Send = fn(&mut Odd) -> Vec<u8>;
    let padded: Send = |odd| {
        let mut room = vec![0; 100];
        // Content of zeros behind a content type is padding.
        let Ok(bytes) = odd.sending.seal(0, b"data\x17\0\0\0", &mut room) else { panic!("sealed") };
        room.truncate(bytes);
        room
    };
    let allowed: [(&str, Send, &[u8]); 6] = [
        ("no data", |odd| odd.record(APPLICATION_DATA, b""), b""),
        ("padding", padded, b"data"),
        (
            "two in one read",
            |odd| [odd.record(APPLICATION_DATA, b"a"), odd.record(APPLICATION_DATA, b"b")].concat(),
            b"ab",
        ),
        ("the longest", |odd| odd.record(APPLICATION_DATA, &[7; 1 << 14]), &[7; 1 << 14]),
        ("user_canceled", |odd| odd.record(ALERT, &[1, 90]), b""),
        (
            "a message in two records",
            |odd| [odd.record(HANDSHAKE, &KEY_UPDATE[..2]), odd.update(&KEY_UPDATE[2..])].concat(),
            b"",
        ),
    ];
    for (name, send, data) in allowed {
        let mut odd = Odd::new(&mut pool);
        let bytes = send(&mut odd);
        let (plain, opened) = odd.sends(&bytes, &mut pool);
        assert_eq!((plain.as_slice(), opened.broken, opened.ended), (data, None, false), "{name}");
        let bytes = odd.record(APPLICATION_DATA, b"next");
        assert_eq!(odd.sends(&bytes, &mut pool).0, b"next", "{name}");
        all.push(odd.server);
    }
    let tampered: Send = |odd| {
        let mut record = odd.record(APPLICATION_DATA, b"evil");
        record[7] ^= 1;
        record
    };
    let forbidden: [(&str, Send, u8); 13] = [
        ("not authentic", tampered, 20),
        ("of no length", |_| vec![23, 3, 3, 0, 0], 20),
        ("too long", |odd| odd.record(APPLICATION_DATA, &[7; (1 << 14) + 1]), 22),
        ("longer than a record", |_| vec![23, 3, 3, 0x41, 0x01], 22),
        ("change_cipher_spec", |_| vec![20, 3, 3, 0, 1, 1], 10),
        ("padding only", |odd| odd.record(0, &[0; 5]), 10),
        ("an unknown type", |odd| odd.record(99, b"?"), 10),
        ("half an alert", |odd| odd.record(ALERT, &[1]), 50),
        ("an empty handshake message", |odd| odd.record(HANDSHAKE, b""), 10),
        ("a session ticket", |odd| odd.record(HANDSHAKE, &[4, 0, 0, 1, 0]), 10),
        ("a key update of another kind", |odd| odd.record(HANDSHAKE, &[24, 0, 0, 1, 2]), 47),
        ("two messages across a change", |odd| odd.record(HANDSHAKE, &[KEY_UPDATE, KEY_UPDATE].concat()), 10),
        (
            "data within a message",
            |odd| [odd.record(HANDSHAKE, &KEY_UPDATE[..2]), odd.record(APPLICATION_DATA, b"data")].concat(),
            10,
        ),
    ];
    for (name, send, alert) in forbidden {
        let mut odd = Odd::new(&mut pool);
        let bytes = send(&mut odd);
        let (plain, opened) = odd.sends(&bytes, &mut pool);
        assert_eq!(plain, b"", "{name}");
        assert!(
            matches!(opened.broken, Some(SessionError::Fault(TlsFault::Record, _))),
            "{name}: {opened:?}"
        );
        // A change of the keys is the first record in any case.
        let heard = [(HANDSHAKE, KEY_UPDATE_REQUEST.to_vec()), (ALERT, vec![2, alert])];
        assert_eq!(odd.hears(&mut pool), heard, "{name}");
        all.push(odd.server);
    }
    let mut odd = Odd::new(&mut pool);
    let bytes = odd.record(ALERT, &[2, 40]);
    let (_, opened) = odd.sends(&bytes, &mut pool);
    assert!(matches!(opened.broken, Some(SessionError::Fault(TlsFault::Alert, _))), "{opened:?}");
    assert_eq!(odd.hears(&mut pool), [], "an alert is not answered");
    all.push(odd.server);
    all.into_iter().for_each(|session| session.release(&mut pool));
    all_is_back(pool);
}

#[test]
fn a_flood_of_key_updates_costs_one_answer_and_ends() {
    let mut pool = Pool::standalone();
    let mut odd = Odd::new(&mut pool);
    // While the peer does not read.
    odd.server.seal(b"unread", &mut pool).expect("memory");
    for _ in 0..3 {
        for _ in 0..TLS_UPDATES_IN_A_ROW_MAX {
            let bytes = odd.update(&KEY_UPDATE_REQUEST);
            assert_eq!(odd.sends(&bytes, &mut pool).1.broken, None);
        }
        let bytes = odd.record(APPLICATION_DATA, b"data");
        assert_eq!(odd.sends(&bytes, &mut pool).0, b"data");
    }
    assert_eq!(odd.server.sealed.len(), 1, "one buffer");
    odd.server.seal(b"next", &mut pool).expect("memory");
    let update = |message: [u8; 5]| (HANDSHAKE, message.to_vec());
    let data = |content: &[u8]| (APPLICATION_DATA, content.to_vec());
    let heard = [update(KEY_UPDATE_REQUEST), data(b"unread"), update(KEY_UPDATE), data(b"next")];
    assert_eq!(odd.hears(&mut pool), heard);
    // To one that reads, each request is answered at once.
    let bytes = odd.update(&KEY_UPDATE_REQUEST);
    odd.sends(&bytes, &mut pool);
    assert_eq!(odd.hears(&mut pool), [update(KEY_UPDATE)]);
    let bytes: Vec<u8> = (0..TLS_UPDATES_IN_A_ROW_MAX).flat_map(|_| odd.update(&KEY_UPDATE)).collect();
    let (_, opened) = odd.sends(&bytes, &mut pool);
    assert!(matches!(opened.broken, Some(SessionError::Fault(TlsFault::Record, _))), "{opened:?}");
    assert_eq!(odd.hears(&mut pool), [(ALERT, vec![2, 10])]);
    odd.server.release(&mut pool);
    all_is_back(pool);
}

#[test]
fn keys_change_before_they_have_sealed_too_many_records() {
    let mut pool = Pool::standalone();
    let mut odd = Odd::new(&mut pool);
    odd.server.seal(b"data", &mut pool).expect("memory");
    odd.hears(&mut pool);
    let Side::Continued(continued) = &mut odd.server.side else { panic!("a continued session") };
    let mut late = continued.sending.plain();
    late.sequence = TLS_KEY_RECORDS_MAX - 2;
    let (Some(sending), Some(receiving)) = (Direction::taken(late), Direction::taken(late)) else {
        panic!("keys")
    };
    (continued.sending, odd.receiving) = (sending, receiving);
    let mut kinds = Vec::new();
    for _ in 0..3 {
        odd.server.seal(b"data", &mut pool).expect("memory");
        kinds.extend(odd.hears(&mut pool).into_iter().map(|(kind, _)| kind));
    }
    assert_eq!(kinds, [APPLICATION_DATA, APPLICATION_DATA, HANDSHAKE, APPLICATION_DATA]);
    odd.server.release(&mut pool);
    all_is_back(pool);
}

#[test]
fn bytes_that_are_no_session_are_refused_and_cost_nothing() {
    let mut pool = Pool::standalone();
    let mut pair = opened(SUITES[1], &mut pool);
    pair.client.seal(&pattern(300), &mut pool).expect("memory");
    let up = sealed(&mut pair.client, &mut pool);
    open(&mut pair.server, &up[..100], &mut pool, || 1 << 20);
    let bytes = pair.moves_with(b"unsent", &mut pool);
    for end in 0..bytes.len() {
        assert_eq!(PlainSession::decode(&bytes[..end]), None, "{end}");
    }
    let mut chance = Random::new(7);
    for _ in 0..2_000 {
        let mut bytes = bytes.clone();
        mutate(&mut bytes, &mut chance);
        if let Some(session) = PlainSession::decode(&bytes).and_then(|plain| Session::taken(plain, &mut pool))
        {
            session.release(&mut pool);
        }
    }
    pair.ends(&mut pool);
    all_is_back(pool);
}

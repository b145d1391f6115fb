//! Sessions of both roles against each other, byte by byte and with what no honest peer would send.

mod continued;
mod seeded;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{SupportedProtocolVersion, version};

use super::*;
use crate::driver::sim::Random;
use echoring_proto::limits::TLS_TICKETS;

const V12: &[&SupportedProtocolVersion] = &[&version::TLS12];
const V13: &[&SupportedProtocolVersion] = &[&version::TLS13];

struct Setup {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Setup {
    /// Both configurations; the client speaks these versions, in records of this size at most. What one setup sends,
    /// every other that is made and used in the same way sends too.
    fn new(versions: &[&'static SupportedProtocolVersion], record_bytes: Option<usize>) -> Setup {
        Setup::with_provider(versions, record_bytes, seeded::provider(2))
    }

    fn with_provider(
        versions: &[&'static SupportedProtocolVersion],
        record_bytes: Option<usize>,
        provider: Arc<CryptoProvider>,
    ) -> Setup {
        let (certificate, key) = seeded::identity();
        let time = Arc::new(seeded::Standing);
        let mut server = ServerConfig::builder_with_details(seeded::provider(1), time.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a pair");
        server.ticketer = Arc::new(seeded::Tickets);
        server.send_tls13_tickets = TLS_TICKETS;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let mut client = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.max_fragment_size = record_bytes;
        Setup { server: Arc::new(server), client: Arc::new(client) }
    }

    fn pair(&self, pool: &mut Pool) -> Pair {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = Session::client(self.client.clone(), name, pool).expect("a session");
        assert_eq!(client.start(pool), None);
        Pair { server: Session::server(self.server.clone(), pool).expect("a session"), client, resumed: None }
    }
}

struct Pair {
    server: Session,
    client: Session,
    resumed: Option<HandshakeKind>,
}

/// All that a session has sealed.
fn sealed(session: &mut Session, pool: &mut Pool) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(buffer) = session.pop() {
        assert!(buffer.len() <= SEALED_BUFFER_BYTES);
        bytes.extend_from_slice(buffer.as_slice());
        pool.put(buffer);
    }
    bytes
}

/// Opens `bytes` in pieces of the sizes that `piece` says, and returns what was inside and how it went.
fn open(
    session: &mut Session,
    bytes: &[u8],
    pool: &mut Pool,
    mut piece: impl FnMut() -> usize,
) -> (Vec<u8>, Opened) {
    let (mut plain, mut all) = (Vec::new(), Opened::default());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        rest = later;
        let opened = session.open(&mut now.to_vec(), pool);
        if let Some(buffer) = opened.plain {
            plain.extend_from_slice(buffer.as_slice());
            pool.put(buffer);
        }
        all.shaken = all.shaken.or(opened.shaken);
        all.ended |= opened.ended;
        all.broken = all.broken.or(opened.broken);
    }
    (plain, all)
}

impl Pair {
    /// Carries bytes to and fro until both are quiet, in pieces of this size.
    fn shake(&mut self, pool: &mut Pool, piece_bytes: usize) {
        loop {
            let up = sealed(&mut self.client, pool);
            let (plain, opened) = open(&mut self.server, &up, pool, || piece_bytes);
            assert!(plain.is_empty() && opened.broken.is_none(), "{opened:?}");
            self.resumed = self.resumed.or(opened.shaken);
            let down = sealed(&mut self.server, pool);
            let (plain, opened) = open(&mut self.client, &down, pool, || piece_bytes);
            assert!(plain.is_empty() && opened.broken.is_none(), "{opened:?}");
            if up.is_empty() && down.is_empty() {
                break;
            }
        }
        assert!(self.server.is_open() && self.client.is_open());
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn handshakes_of_both_versions_come_through_in_pieces_of_any_size() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let setup = Setup::new(versions, None);
        for piece_bytes in [1, 2, 4, 5, 6, 17, 100, 517, 1 << 20] {
            let mut pair = setup.pair(&mut pool);
            pair.shake(&mut pool, piece_bytes);
            pair.server.seal(b"from the server", &mut pool).expect("memory");
            let down = sealed(&mut pair.server, &mut pool);
            let (plain, _) = open(&mut pair.client, &down, &mut pool, || piece_bytes);
            assert_eq!(plain, b"from the server");
        }
    }
}

#[test]
fn handshake_messages_that_are_spread_over_many_records_are_put_together() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let setup = Setup::new(versions, Some(32));
        for piece_bytes in [1, 3, 33, 40, 64, 1 << 20] {
            let mut pair = setup.pair(&mut pool);
            pair.shake(&mut pool, piece_bytes);
            pair.client.seal(&pattern(1_000), &mut pool).expect("memory");
            let up = sealed(&mut pair.client, &mut pool);
            assert_eq!(open(&mut pair.server, &up, &mut pool, || piece_bytes).0, pattern(1_000));
        }
    }
}

#[test]
fn records_may_be_cut_anywhere() {
    let mut pool = Pool::standalone();
    let setup = Setup::new(V13, None);
    let mut pair = setup.pair(&mut pool);
    pair.shake(&mut pool, 1 << 20);
    let messages = [pattern(1), pattern(30), pattern(200)];
    let mut cut = 1;
    loop {
        let mut wire = Vec::new();
        for message in &messages {
            pair.client.seal(message, &mut pool).expect("memory");
            wire.extend(sealed(&mut pair.client, &mut pool));
        }
        if cut >= wire.len() {
            break;
        }
        let mut first = true;
        let pieces = || if std::mem::take(&mut first) { cut } else { usize::MAX };
        let (plain, opened) = open(&mut pair.server, &wire, &mut pool, pieces);
        assert_eq!((plain, opened.broken), (messages.concat(), None), "cut at {cut}");
        assert!(pair.server.is_between_records(), "nothing is kept behind whole records");
        cut += 1;
    }
}

#[test]
fn a_session_knows_whether_the_latest_bytes_ended_a_record() {
    let mut pool = Pool::standalone();
    let mut pair = Setup::new(V13, None).pair(&mut pool);
    pair.shake(&mut pool, 1 << 20);
    pair.client.seal(&pattern(30), &mut pool).expect("memory");
    let whole = sealed(&mut pair.client, &mut pool);
    pair.client.seal(&pattern(30), &mut pool).expect("memory");
    let next = sealed(&mut pair.client, &mut pool);
    let (plain, _) = open(&mut pair.server, &[&whole[..], &next[..1]].concat(), &mut pool, || usize::MAX);
    assert_eq!((plain, pair.server.is_between_records()), (pattern(30), false));
    open(&mut pair.server, &next[1..], &mut pool, || usize::MAX);
    assert!(pair.server.is_between_records());
}

#[test]
fn large_messages_are_sealed_into_buffers_of_four_records() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let mut pair = Setup::new(versions, None).pair(&mut pool);
        pair.shake(&mut pool, 1 << 20);
        for bytes in [0, 1, TLS_RECORD_BYTES, TLS_RECORD_BYTES + 1, 4 * TLS_RECORD_BYTES, 1_000_000] {
            pair.server.seal(&pattern(bytes), &mut pool).expect("memory");
            assert_eq!(pair.server.sealed.len(), bytes.div_ceil(4 * TLS_RECORD_BYTES));
            let down = sealed(&mut pair.server, &mut pool);
            assert!((bytes..=bytes + Session::added_bytes_max(bytes)).contains(&down.len()));
            assert_eq!(open(&mut pair.client, &down, &mut pool, || 10_000).0, pattern(bytes));
        }
    }
}

#[test]
fn small_messages_share_a_buffer_until_it_is_full() {
    let mut pool = Pool::standalone();
    let mut pair = Setup::new(V13, None).pair(&mut pool);
    pair.shake(&mut pool, 1 << 20);
    let mut expected = Vec::new();
    for bytes in 0..100 {
        pair.client.seal(&pattern(bytes), &mut pool).expect("memory");
        expected.extend(pattern(bytes));
    }
    let up = sealed(&mut pair.client, &mut pool);
    assert_eq!(open(&mut pair.server, &up, &mut pool, || 977).0, expected);
}

#[test]
fn a_client_that_comes_back_resumes_its_session() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let setup = Setup::new(versions, None);
        let mut first = setup.pair(&mut pool);
        first.shake(&mut pool, 1 << 20);
        assert_eq!(first.resumed, Some(HandshakeKind::Full));
        let mut second = setup.pair(&mut pool);
        second.shake(&mut pool, 100);
        assert_eq!(second.resumed, Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_goodbye_is_heard_and_nothing_is_sealed_behind_it() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let mut pair = Setup::new(versions, None).pair(&mut pool);
        pair.shake(&mut pool, 1 << 20);
        pair.server.seal(b"last", &mut pool).expect("memory");
        pair.server.say_goodbye(&mut pool).expect("memory");
        pair.server.say_goodbye(&mut pool).expect("once is enough");
        pair.server.seal(b"never", &mut pool).expect("nothing happens");
        let down = sealed(&mut pair.server, &mut pool);
        let (plain, opened) = open(&mut pair.client, &down, &mut pool, || 7);
        assert_eq!((plain.as_slice(), opened.ended, opened.broken), (&b"last"[..], true, None));
        // The other direction goes on until it is closed, too (RFC 8446, 6.1).
        pair.client.seal(b"more", &mut pool).expect("memory");
        assert!(!sealed(&mut pair.client, &mut pool).is_empty());
    }
}

#[test]
fn a_damaged_record_breaks_the_session_with_an_alert_and_keeps_what_came_before() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let setup = Setup::new(versions, None);
        let mut pair = setup.pair(&mut pool);
        pair.shake(&mut pool, 1 << 20);
        pair.client.seal(b"good", &mut pool).expect("memory");
        let mut up = sealed(&mut pair.client, &mut pool);
        pair.client.seal(b"evil", &mut pool).expect("memory");
        up.extend(sealed(&mut pair.client, &mut pool));
        *up.last_mut().expect("bytes") ^= 1;
        let (plain, opened) = open(&mut pair.server, &up, &mut pool, || 1 << 20);
        assert_eq!(plain, b"good");
        assert!(matches!(opened.broken, Some(SessionError::Fault(TlsFault::Record, _))), "{opened:?}");
        let down = sealed(&mut pair.server, &mut pool);
        let (_, opened) = open(&mut pair.client, &down, &mut pool, || 1 << 20);
        assert!(matches!(opened.broken, Some(SessionError::Fault(TlsFault::Alert, _))), "{opened:?}");
    }
}

#[test]
fn a_server_of_another_name_is_refused_and_told() {
    let mut pool = Pool::standalone();
    let setup = Setup::new(V13, None);
    let mut pair = setup.pair(&mut pool);
    let name = ServerName::try_from("elsewhere.example").expect("a name");
    pair.client = Session::client(setup.client.clone(), name, &mut pool).expect("a session");
    assert_eq!(pair.client.start(&mut pool), None);
    let up = sealed(&mut pair.client, &mut pool);
    open(&mut pair.server, &up, &mut pool, || 1 << 20);
    let down = sealed(&mut pair.server, &mut pool);
    let (_, opened) = open(&mut pair.client, &down, &mut pool, || 1 << 20);
    let Some(SessionError::Fault(TlsFault::Handshake, why)) = opened.broken else { panic!("{opened:?}") };
    assert!(why.contains("certificate"), "{why}");
    let up = sealed(&mut pair.client, &mut pool);
    let (_, opened) = open(&mut pair.server, &up, &mut pool, || 1 << 20);
    assert!(matches!(opened.broken, Some(SessionError::Fault(TlsFault::Alert, _))), "{opened:?}");
}

#[test]
fn what_cannot_be_opened_is_not_collected_without_end() {
    let mut pool = Pool::standalone();
    let setup = Setup::new(V13, None);
    // A first message that announces 16 MiB, record by record.
    let mut record = vec![22, 3, 1, 0x20, 0x00, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x2000, 0);
    for piece_bytes in [1_000, 1 << 20] {
        let mut server = Session::server(setup.server.clone(), &mut pool).expect("a session");
        let mut rounds = 0;
        let broken = loop {
            let (_, opened) = open(&mut server, &record, &mut pool, || piece_bytes);
            rounds += 1;
            record[5..9].fill(0);
            if let Some(broken) = opened.broken {
                break broken;
            }
            assert!(server.held.as_ref().is_none_or(|held| held.len() <= TLS_UNREAD_BYTES_MAX));
            assert!(rounds < 10, "it is collected");
        };
        assert!(matches!(broken, SessionError::Fault(TlsFault::Handshake, _)));
        record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
    }
}

/// Changes, drops, doubles or inserts bytes.
fn mutate(bytes: &mut Vec<u8>, chance: &mut Random) {
    for _ in 0..=chance.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = chance.below(bytes.len());
        match chance.below(6) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = [0, 1, 20, 21, 22, 23, 24, 0xff][chance.below(8)],
            2 => bytes.truncate(at),
            3 => {
                let end = (at + chance.below(600)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + chance.below(600)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let noise: Vec<u8> = (0..chance.below(40)).map(|_| chance.below(256) as u8).collect();
                bytes.splice(at..at, noise);
            }
        }
    }
}

/// All that both sides send: two handshakes, the second of which resumes the first's session, and a message each.
fn transcript(versions: &[&'static SupportedProtocolVersion], pool: &mut Pool) -> Vec<Vec<u8>> {
    let setup = Setup::new(versions, None);
    let mut flights = Vec::new();
    for _ in 0..2 {
        let mut pair = setup.pair(pool);
        for _ in 0..4 {
            if pair.client.is_open() {
                pair.client.seal(b"a message", pool).expect("memory");
            }
            let up = sealed(&mut pair.client, pool);
            open(&mut pair.server, &up, pool, || usize::MAX);
            let down = sealed(&mut pair.server, pool);
            open(&mut pair.client, &down, pool, || usize::MAX);
            flights.extend([up, down]);
        }
        assert!(pair.server.is_open() && pair.client.is_open());
        pair.server.release(pool);
        pair.client.release(pool);
    }
    flights
}

#[test]
fn what_these_tests_send_is_the_same_in_every_run() {
    let mut pool = Pool::standalone();
    for versions in [V12, V13] {
        let first = transcript(versions, &mut pool);
        assert!(first.iter().flatten().count() > 1_000, "handshakes were made");
        assert!(first == transcript(versions, &mut pool), "something is drawn from elsewhere");
    }
}

#[test]
fn nothing_that_a_peer_sends_panics_or_is_taken_for_another_message() {
    let mut pool = Pool::standalone();
    let setups = [Setup::new(V12, None), Setup::new(V13, None), Setup::new(V13, Some(64))];
    let mut chance = Random::new(42);
    let sent = [pattern(5), pattern(300), pattern(40_000)];
    let mut broken = 0;
    for round in 0..1_500 {
        let mut pair = setups[round % setups.len()].pair(&mut pool);
        // The flight that is tampered with: of the handshake, or the first with messages in it.
        let flight = chance.below(4);
        let mut whole = Vec::new();
        for number in 0..=flight {
            if pair.client.is_open() {
                for message in &sent {
                    pair.client.seal(message, &mut pool).expect("memory");
                }
            }
            let mut up = sealed(&mut pair.client, &mut pool);
            if number == flight {
                mutate(&mut up, &mut chance);
            }
            let piece_bytes = [1 + chance.below(20), 1_000, 1 << 20][chance.below(3)];
            let (plain, opened) = open(&mut pair.server, &up, &mut pool, || piece_bytes);
            whole.extend(plain);
            broken += usize::from(opened.broken.is_some());
            // Whatever came of it, the session can be asked to go on and to say goodbye.
            pair.server.seal(b"an answer", &mut pool).expect("memory");
            let mut down = sealed(&mut pair.server, &mut pool);
            if chance.below(8) == 0 {
                mutate(&mut down, &mut chance);
            }
            open(&mut pair.client, &down, &mut pool, || piece_bytes);
        }
        assert!(
            sent.concat().repeat(4).starts_with(&whole),
            "round {round}: only a beginning of what was sent"
        );
        pair.server.say_goodbye(&mut pool).expect("memory");
        pair.server.release(&mut pool);
        pair.client.release(&mut pool);
    }
    assert!(broken > 300, "{broken} of the mutations were noticed");
    pool.trim();
    pool.trim();
    assert_eq!(pool.used_bytes(), 0, "everything goes back");
}

#[test]
fn a_request_without_tls_is_told_apart_from_a_handshake() {
    let mut pool = Pool::standalone();
    let setup = Setup::new(V13, None);
    let mut pair = setup.pair(&mut pool);
    assert!(pair.server.is_asked_plainly(b"GET / HTTP/1.1\r\n"));
    assert!(!pair.client.is_asked_plainly(b"HTTP/1.1 400 Bad Request\r\n"));
    let up = sealed(&mut pair.client, &mut pool);
    assert!(!pair.server.is_asked_plainly(&up));
    open(&mut pair.server, &up[..3], &mut pool, || 3);
    assert!(!pair.server.is_asked_plainly(b"GET"), "only what comes first counts");
}

//! Request and response heads: the parsers, and the connection that collects heads for them, give the same result however
//! the head is split; and our server accepts the requests of our client.
//!
//! Input: options, a script of chunk borders, then a request, a response, or the strings of a request to write.

use std::fmt::Debug;

use echoring_proto::Url;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{
    Cause, Codecs, Connection, ConnectionConfig, Entropy, Env, SpanCursor, Step,
};
use echoring_proto::handshake::{
    BadHandshake, Dial, OriginPolicy, Refusal, parse_response, percent_decode_path, with_request,
    write_accept, write_request,
};
use echoring_proto::limits::HEAD_BYTES_DEFAULT;

use super::cursor::{Choices, Cursor};

/// The nonce that the corpus answers: `the sample nonce` (RFC 6455, 1.3).
pub const NONCE: [u8; 16] = *b"the sample nonce";

const HEAD_END: &[u8] = b"\r\n\r\n";

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let options = cursor.byte();
    let choices = cursor.choices();
    let bytes = cursor.rest();
    match options % 4 {
        0 | 3 => check_request(bytes, choices),
        1 => check_response(bytes, choices),
        _ => check_strings(bytes),
    }
}

/// The result for a request, for comparison.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    head_bytes: usize,
    line: [String; 5],
    upgrade: Result<Option<Upgrading>, Refusal>,
}

/// The key, the origin and the subprotocols of an upgrade.
type Upgrading = ([u8; 24], Option<String>, Vec<String>);

fn ask(bytes: &[u8]) -> Result<Option<Asked>, Refusal> {
    with_request(bytes, |request, head_bytes| Asked {
        head_bytes,
        line: [request.method, request.target, request.path, request.query, request.host].map(str::to_owned),
        upgrade: request.upgrade().map(|upgrade| {
            upgrade.map(|upgrade| {
                let subprotocols = upgrade.subprotocols().map(str::to_owned).collect();
                (upgrade.key, upgrade.origin.map(str::to_owned), subprotocols)
            })
        }),
    })
}

fn check_request(bytes: &[u8], mut choices: Choices<'_>) {
    let asked = ask(bytes);
    let head_bytes = match &asked {
        Ok(Some(asked)) => Some(asked.head_bytes),
        _ => None,
    };
    check_prefixes(bytes, head_bytes, choices.clone(), ask);
    if let Ok(Some(Asked { head_bytes, line: [_, target, path, query, host], upgrade, .. })) = &asked {
        assert!(*head_bytes <= bytes.len().min(HEAD_BYTES_DEFAULT));
        assert!(bytes[..*head_bytes].ends_with(HEAD_END), "a head ends in an empty line of its own");
        assert!(!path.is_empty() && !target.is_empty() && !host.is_empty());
        assert!(!path.contains(['?', '#']) && !query.contains('#'));
        if let Ok(Some((key, origin, _))) = upgrade {
            assert!(key.ends_with(b"=="));
            assert!(OriginPolicy::Any.allows(host, origin.as_deref()));
            let _ = OriginPolicy::SameHost.allows(host, origin.as_deref());
        }
        if let Some(decoded) = percent_decode_path(path) {
            assert!(decoded.len() <= path.len());
        }
    }
    for chunks in [vec![bytes], choices.chunks(bytes), bytes.chunks(7).collect()] {
        check_server(&chunks, bytes, &asked);
    }
}

/// A server's connection returns the head and leaves the following bytes, or refuses.
fn check_server(chunks: &[&[u8]], bytes: &[u8], asked: &Result<Option<Asked>, Refusal>) {
    let (mut pool, mut entropy, config) = (Pool::standalone(), Entropy::new(7), ConnectionConfig::default());
    let mut codecs = Codecs::new(None, Lease::new(Budget::new(0), 1));
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let mut connection = Connection::server(&env);
    let mut fed = 0;
    let mut verdict = None;
    for chunk in chunks {
        let (mut chunk, mut cursor) = (chunk.to_vec(), SpanCursor::new());
        connection.begin_span(1);
        match connection.poll(&mut cursor, &mut chunk, &mut env) {
            Step::Idle => assert_eq!(cursor.position(), chunk.len()),
            Step::Refused(refusal) => verdict = Some(Err(refusal)),
            Step::Head(head) => {
                fed += cursor.position();
                assert_eq!(head.as_slice(), &bytes[..fed], "the head is what came, up to its end");
                verdict = Some(ask(head.as_slice()).map(|asked| asked.map(|asked| asked.head_bytes)));
                env.pool.put(head);
                break;
            }
            step => panic!("{step:?} before a handshake"),
        }
        if verdict.is_some() {
            break;
        }
        fed += chunk.len();
    }
    match (verdict, asked) {
        (Some(Ok(Some(head_bytes))), Ok(Some(asked))) => {
            assert_eq!((head_bytes, fed), (asked.head_bytes, fed))
        }
        // Only empty lines came before the empty line that ends a head: this is no request.
        (Some(Ok(None)), _) => assert!(bytes[..fed].iter().all(|byte| b"\r\n".contains(byte))),
        (Some(Err(refusal)), Err(expected)) => {
            assert!(Offensive::from(refusal).may_become((*expected).into()), "{refusal:?} {expected:?}");
        }
        // An error may be reported when the head is complete, but not later.
        (None, Err(_)) => assert!(bytes.len() <= HEAD_BYTES_DEFAULT && head_end(bytes).is_none()),
        (None, Ok(None)) => {}
        (verdict, asked) => panic!("{verdict:?} of what is {asked:?}"),
    }
    connection.release(&mut pool, &mut codecs);
    pool.trim();
    pool.trim();
    assert_eq!(pool.used_bytes(), 0);
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == HEAD_END).map(|at| at + 4)
}

/// A client's connection chooses its nonce, so it cannot use [`NONCE`]. The parser is tested with [`NONCE`], and the
/// connection with its own nonce, whose answer replaces the one in the sample.
fn check_response(bytes: &[u8], mut choices: Choices<'_>) {
    let parsed = parse_response(bytes, NONCE, None);
    let head_bytes = match &parsed {
        Ok(Some((_, head_bytes))) => Some(*head_bytes),
        _ => None,
    };
    check_prefixes(bytes, head_bytes, choices.clone(), |bytes| parse_response(bytes, NONCE, None));
    if let Ok(Some((response, head_bytes))) = &parsed {
        assert_eq!(response.status, 101);
        assert!(*head_bytes <= bytes.len().min(HEAD_BYTES_DEFAULT));
        assert!(bytes[..*head_bytes].ends_with(HEAD_END), "a head ends in an empty line of its own");
        let _ = response.check_subprotocol(&["chat".to_owned()]);
    }
    let script = choices.clone();
    for by in [usize::MAX, 0, 7] {
        choices = script.clone();
        check_client(bytes, |bytes| match by {
            0 => choices.chunks(bytes).into_iter().map(<[u8]>::to_vec).collect(),
            by => bytes.chunks(by).map(<[u8]>::to_vec).collect(),
        });
    }
}

fn check_client(sample: &[u8], mut cut: impl FnMut(&[u8]) -> Vec<Vec<u8>>) {
    let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(7));
    let dial = Dial { host: "a".into(), path: "/".into(), ..Dial::default() };
    let config = ConnectionConfig { dial: Some(dial), ..ConnectionConfig::default() };
    let nonce = Entropy::new(7).nonce();
    let bytes = answered(sample, nonce);
    let expected = match parse_response(&bytes, nonce, None) {
        Ok(Some((response, head_bytes))) => {
            response.check_subprotocol(&[]).map(|()| Some((response, head_bytes)))
        }
        other => other,
    };

    let mut codecs = Codecs::new(None, Lease::new(Budget::new(0), 1));
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let mut connection = Connection::client(&mut env, false).expect("memory for one");
    let request = connection.pop().expect("a request");
    assert!(request.as_slice().ends_with(HEAD_END));
    env.pool.put(request);
    let mut fed = 0;
    let mut opened = None;
    for mut chunk in cut(&bytes) {
        let mut cursor = SpanCursor::new();
        connection.begin_span(1);
        match connection.poll(&mut cursor, &mut chunk, &mut env) {
            Step::Idle => assert!(cursor.position() == chunk.len() || connection.is_closing()),
            Step::Opened(response) => {
                opened = Some((response, fed + cursor.position()));
                break;
            }
            step => panic!("{step:?} before a handshake"),
        }
        fed += chunk.len();
    }
    let closed = connection.closed().map(|closed| closed.cause.clone());
    match &expected {
        Ok(expected) => assert_eq!((&opened, &closed), (expected, &None)),
        Err(bad) => {
            assert_eq!(opened, None);
            assert_eq!(closed, Some(Cause::BadHandshake(*bad)));
        }
    }
    connection.release(&mut pool, &mut codecs);
    pool.trim();
    pool.trim();
    assert_eq!(pool.used_bytes(), 0);
}

/// Replaces the sample's answer in `bytes`, if present, by the answer to `nonce`.
fn answered(bytes: &[u8], nonce: [u8; 16]) -> Vec<u8> {
    const SAMPLE: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let accept = |nonce| {
        let mut request = Vec::new();
        write_request(&mut request, &Dial::default(), nonce, None);
        let at = request.windows(5).position(|window| window == b"-Key:").expect("a key") + 6;
        let mut response = Vec::new();
        write_accept(&mut response, request[at..at + 24].try_into().expect("24 bytes"), None, None, []);
        let at = response.windows(8).position(|window| window == b"-Accept:").expect("an answer") + 9;
        response[at..at + 28].to_vec()
    };
    debug_assert_eq!(accept(NONCE), SAMPLE);
    match bytes.windows(SAMPLE.len()).position(|window| window == SAMPLE) {
        Some(at) => [&bytes[..at], &accept(nonce), &bytes[at + SAMPLE.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// Results for the prefixes of `bytes`: incomplete, then always the same result.
fn check_prefixes<T, E>(
    bytes: &[u8],
    head_bytes: Option<usize>,
    mut choices: Choices<'_>,
    judge: impl Fn(&[u8]) -> Result<Option<T>, E>,
) where
    T: PartialEq + Debug,
    E: PartialEq + Debug + Copy + Into<Offensive>,
{
    let mut lengths: Vec<usize> = if bytes.len() <= 300 {
        (0..=bytes.len()).collect()
    } else {
        let mut at = 0;
        std::iter::from_fn(|| {
            at += choices.chunk_bytes().min(997);
            (at < bytes.len()).then_some(at)
        })
        .take(64)
        .collect()
    };
    let end = head_bytes.unwrap_or(HEAD_BYTES_DEFAULT);
    lengths.extend((end.saturating_sub(4)..end + 4).filter(|length| *length <= bytes.len()));
    lengths.push(bytes.len());
    lengths.sort_unstable();
    let mut settled = None;
    for length in lengths {
        let verdict = judge(&bytes[..length]);
        match (&settled, verdict) {
            (None, Ok(None)) => {}
            (None, verdict) => settled = Some(verdict),
            (Some(Err(first)), Err(later)) => {
                let (first, later): (Offensive, Offensive) = ((*first).into(), later.into());
                assert!(first.may_become(later), "{first:?} became {later:?} at {length} bytes");
            }
            (Some(settled), verdict) => assert_eq!(verdict, *settled, "at {length} bytes"),
        }
    }
}

/// The reason of a refusal, as far as the following bytes cannot change it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offensive(u16);

impl From<Refusal> for Offensive {
    fn from(refusal: Refusal) -> Offensive {
        Offensive(refusal.status)
    }
}

impl From<BadHandshake> for Offensive {
    fn from(bad: BadHandshake) -> Offensive {
        Offensive(match bad {
            BadHandshake::Malformed => 400,
            BadHandshake::HeadTooBig => 431,
            BadHandshake::Status(status) => status,
            _ => 101,
        })
    }
}

impl Offensive {
    /// An invalid head stays invalid, but the following bytes may change which error is reported: the version is known at
    /// the end of its line, too many fields are counted later.
    fn may_become(self, later: Offensive) -> bool {
        const NO_HEAD: [u16; 3] = [400, 431, 505];
        self == later || (NO_HEAD.contains(&self.0) && NO_HEAD.contains(&later.0))
    }
}

/// Our client's request contains no injected line, and our server accepts it if its strings are valid.
fn check_strings(bytes: &[u8]) {
    let mut cursor = Cursor::new(bytes);
    let mut text = || {
        let length = usize::from(cursor.byte());
        String::from_utf8_lossy(cursor.take(length)).into_owned()
    };
    let path = text();
    let dial = Dial {
        host: text(),
        origin: Some(text()).filter(|origin| !origin.is_empty()),
        subprotocols: vec![text(), text()],
        headers: vec![(text(), text().into_bytes())],
        path,
    };
    let mut request = Vec::new();
    write_request(&mut request, &dial, NONCE, None);
    let lines = 7 + usize::from(dial.origin.is_some()) + 1;
    let ends = request.windows(2).filter(|window| window == b"\r\n").count();
    assert_eq!(ends, lines + 1, "a string began a line of its own");
    assert_eq!(head_end(&request), Some(request.len()));
    let asked = ask(&request);
    assert_ne!(asked, Ok(None), "a request is complete");
    if is_sound(&dial) {
        let Ok(Some(Asked { upgrade: Ok(Some((key, origin, subprotocols))), line, .. })) = asked else {
            panic!("{asked:?} of {dial:?}")
        };
        assert_eq!((&line[1], &line[4]), (&dial.path, &dial.host));
        assert_eq!((&origin, &subprotocols), (&dial.origin, &dial.subprotocols));
        let mut response = Vec::new();
        write_accept(&mut response, &key, Some(&subprotocols[1]), None, []);
        let (answer, _) =
            parse_response(&response, NONCE, None).expect("our own answer").expect("a whole one");
        assert_eq!(answer.check_subprotocol(&dial.subprotocols), Ok(()));
        assert_eq!(answer.subprotocol.as_ref(), Some(&dial.subprotocols[1]));
    }
    if let Ok(url) = Url::parse(&dial.path) {
        assert_eq!(Url::parse(&url.to_string()), Ok(url), "a URL reads back");
    }
}

fn is_sound(dial: &Dial) -> bool {
    let is_bytes = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_alphanumeric);
    let is_word = |text: &str| is_bytes(text.as_bytes());
    dial.path.starts_with('/')
        && is_word(&dial.path[1..])
        && is_word(&dial.host)
        && dial.origin.as_deref().is_none_or(is_word)
        && dial.subprotocols.iter().all(|name| is_word(name))
        && dial.headers.iter().all(|(name, value)| {
            is_word(name)
                && is_bytes(value)
                && !["host", "upgrade", "connection", "origin"]
                    .iter()
                    .any(|own| own.eq_ignore_ascii_case(name))
        })
}

//! Tables of requests and the values that extractors make of them, and properties with any request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::str::FromStr;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::routes::pattern::Pattern;
use crate::routes::states::{ShardStates, States};
use echoring_proto::handshake::with_request;

/// Looks at a request with this target and these fields, for a route with this pattern.
fn asked<R>(
    pattern: &str,
    target: &str,
    fields: &str,
    states: &ShardStates,
    look: impl FnOnce(&mut RequestContext<'_>) -> R,
) -> R {
    let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
    let pattern = Pattern::new(pattern);
    with_request(head.as_bytes(), |request, _| {
        assert!(pattern.matches(request.path), "{target}");
        look(&mut RequestContext { pattern: Some(&pattern), ..RequestContext::new(request, states) })
    })
    .expect("a good request")
    .expect("a whole head")
}

/// The value that an extractor makes, or status and body of the refusal.
fn extracted<T: FromRequest>(pattern: &str, target: &str, fields: &str) -> Result<T, (u16, String)> {
    let shown =
        |response: Response| (response.status(), String::from_utf8_lossy(response.body()).into_owned());
    asked(pattern, target, fields, &ShardStates::default(), |request| request.extract::<T>().map_err(shown))
}

fn path<T: DeserializeOwned>(pattern: &str, path: &str) -> Result<T, (u16, String)> {
    extracted::<Path<T>>(pattern, path, "").map(|Path(value)| value)
}

fn query<T: DeserializeOwned>(query: &str) -> Result<T, (u16, String)> {
    extracted::<Query<T>>("/", &format!("/?{query}"), "").map(|Query(value)| value)
}

fn bad<T>(said: &str) -> Result<T, (u16, String)> {
    Err((400, format!("{said}\n")))
}

fn mistake<T>() -> Result<T, (u16, String)> {
    Err((500, "internal error\n".to_owned()))
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Colour {
    Red,
    Green,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Number(u32);

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Seat {
    room: String,
    number: u8,
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_single_parameter_of_a_path_is_any_scalar() {
    assert_eq!(path("/{x}", "/a%20b"), Ok(text("a b")));
    assert_eq!(path("/{*x}", "/a/b"), Ok(text("a/b")));
    assert_eq!(path("/{x}", "/-7"), Ok(-7_i64));
    assert_eq!(path("/{x}", "/1.5"), Ok(1.5_f32));
    assert_eq!(path("/{x}", "/true"), Ok(true));
    assert_eq!(path("/{x}", "/%C3%A4"), Ok('ä'));
    assert_eq!(path("/{x}", "/7"), Ok(Number(7)));
    assert_eq!(path("/{x}", "/green"), Ok(Colour::Green));
    assert_eq!(path("/{x}", "/7"), Ok(Some(7_u8)));
    assert_eq!(path("/{x}", "/7"), Ok((7_u8,)));
    assert_eq!(path("/a", "/a"), Ok(()));
}

#[test]
fn several_parameters_of_a_path_have_an_order_and_names() {
    let pattern = "/{room}/{number}";
    assert_eq!(path(pattern, "/a/7"), Ok((text("a"), 7_u8)));
    assert_eq!(path(pattern, "/a/7"), Ok(vec![text("a"), text("7")]));
    assert_eq!(path(pattern, "/a/7"), Ok(Seat { room: text("a"), number: 7 }));
    let map = BTreeMap::from([(text("number"), text("7")), (text("room"), text("a"))]);
    assert_eq!(path(pattern, "/a/7"), Ok(map));
}

#[test]
fn a_malformed_path_is_named() {
    assert_eq!(path::<u8>("/{x}", "/256"), bad(r#"path: "x": number too large to fit in target type"#));
    assert_eq!(path::<u8>("/{x}", "/%20"), bad(r#"path: "x": invalid digit found in string"#));
    assert_eq!(path::<bool>("/{x}", "/1"), bad(r#"path: "x": provided string was not `true` or `false`"#));
    assert_eq!(path::<Colour>("/{x}", "/blue"), bad(r#"path: "x": not one of red, green"#));
    assert_eq!(path::<String>("/{x}", "/%ff"), bad(r#"path: "x": not percent-encoded UTF-8"#));
    assert_eq!(
        path::<Seat>("/{room}/{number}", "/a/b"),
        bad(r#"path: "number": invalid digit found in string"#)
    );
    assert_eq!(path::<(u8, u8)>("/{a}/{b}", "/1/x"), bad(r#"path: "b": invalid digit found in string"#));
    assert_eq!(
        path::<[(u8, u8); 1]>("/{x}", "/7").map_err(|(status, _)| status),
        Err(400),
        "no list in a segment"
    );
}

#[test]
fn a_type_that_does_not_fit_the_pattern_is_a_mistake_of_the_program() {
    assert_eq!(path::<String>("/{a}/{b}", "/1/2"), mistake());
    assert_eq!(path::<String>("/a", "/a"), mistake());
    assert_eq!(path::<(u8, u8)>("/{a}", "/1"), mistake());
    assert_eq!(path::<Seat>("/{room}", "/a"), mistake(), "no parameter of that name");
    assert_eq!(query::<Vec<String>>("a=1"), mistake());
}

#[derive(Debug, Deserialize, PartialEq)]
struct Search {
    text: String,
    page: Option<u32>,
    #[serde(default)]
    tag: Vec<Number>,
    #[serde(default)]
    exact: bool,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Strict {
    a: Option<u8>,
}

#[test]
fn a_query_is_a_form() {
    let whole = Search { text: text("ä b?"), page: Some(2), tag: vec![Number(2), Number(1)], exact: true };
    assert_eq!(query("tag=2&text=%C3%A4+b?&page=2&exact=true&tag=1&other=x"), Ok(whole));
    let least = Search { text: text(""), page: None, tag: Vec::new(), exact: false };
    assert_eq!(query("&&text"), Ok(least));
    let map = BTreeMap::from([(text("a"), text("1")), (text("b"), text(""))]);
    assert_eq!(query("b=&a=1"), Ok(map));
    assert_eq!(query("%61=7"), Ok(Strict { a: Some(7) }), "names are decoded too");
    assert_eq!(query(""), Ok(Strict { a: None }));
    assert_eq!(query::<Option<Strict>>("a=1"), Ok(Some(Strict { a: Some(1) })));
    assert_eq!(query("a=b"), Ok(()));
}

#[test]
fn a_malformed_query_is_named() {
    for (sent, said) in [
        ("page=1", r#"query: "text": missing"#),
        ("text=a&page=x", r#"query: "page": invalid digit found in string"#),
        ("text=a&page=", r#"query: "page": cannot parse integer from empty string"#),
        ("text=a&text=b", r#"query: "text": given more than once"#),
        ("text=a&tag=1&tag=x", r#"query: "tag": invalid digit found in string"#),
        ("text=%ff", r#"query: "text": not percent-encoded UTF-8"#),
        ("text=%", r#"query: "text": not percent-encoded UTF-8"#),
        ("text=%4", r#"query: "text": not percent-encoded UTF-8"#),
        ("%zz=1", r#"query: "%zz": not percent-encoded UTF-8"#),
    ] {
        assert_eq!(query::<Search>(sent), bad(said), "{sent}");
    }
    assert_eq!(query::<Strict>("b=1"), bad(r#"query: "b": unknown; known here: a"#));
    let long = format!("{}=1", "b".repeat(1_000));
    let said = bad(&format!(r#"query: "{}": unknown; known here: a"#, "b".repeat(64)));
    assert_eq!(query::<Strict>(&long), said, "a bounded part of what the peer sent");
    let broken = query::<Strict>("a%0Ab%1b=1");
    assert_eq!(broken, bad(r#"query: "a\nb\u{1b}": unknown; known here: a"#), "no line breaks of the peer");
}

#[derive(Debug, PartialEq, Eq)]
struct Version(u32);

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Version, Self::Err> {
        text.parse().map(Version)
    }
}

impl HeaderField for Version {
    const NAME: &'static str = "X-Version";
}

#[test]
fn header_fields_are_typed() {
    let header = |fields: &str| extracted::<Header<Version>>("/", "/", fields).map(|Header(value)| value);
    assert_eq!(header("x-version:  7 \r\n"), Ok(Version(7)));
    assert_eq!(header(""), bad("header field X-Version: missing"));
    assert_eq!(header("X-Version: x\r\n"), bad("header field X-Version: invalid digit found in string"));
    assert_eq!(header("X-Version: \u{fe}\r\n").map_err(|(status, _)| status), Err(400));
    assert_eq!(
        header("X-Version: 1\r\nX-Version: 1\r\n"),
        bad("header field X-Version: given more than once")
    );
    let optional = |fields: &str| extracted::<Option<Header<Version>>>("/", "/", fields);
    assert_eq!(optional(""), Ok(None));
    assert_eq!(optional("X-Version: 7\r\n"), Ok(Some(Header(Version(7)))));
    assert_eq!(optional("X-Version: x\r\n"), bad("header field X-Version: invalid digit found in string"));
    let all: HeaderMap = extracted("/", "/", "A: 1\r\na: 2\r\n").expect("all");
    assert_eq!(all.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn cookies_are_found_by_name() {
    let cookies: Cookies =
        extracted("/", "/", "Cookie: a=1; b=\"2=\"; c\r\nCookie: a=1;d=; e=1; e=2\r\n").expect("all");
    for (name, value) in
        [("a", Some("1")), ("b", Some("2=")), ("c", None), ("d", Some("")), ("e", None), ("A", None)]
    {
        assert_eq!(cookies.get(name), value, "{name}");
    }
    assert_eq!(cookies.values("e").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(extracted("/", "/", ""), Ok(Cookies::default()));
}

#[test]
fn what_the_program_provides_is_found_and_what_it_forgot_is_a_500() {
    let mut states = States::default();
    states.insert(7_u8);
    states.insert_for_shards(|| Rc::new(RefCell::new(8_u16)));
    asked("/", "/", "", &states.for_shard(), |request| {
        request.insert("first");
        request.insert("second");
        let status = |response: Response| response.status();
        assert_eq!(request.extract::<State<u8>>().map_err(status), Ok(State(7)));
        assert_eq!(request.extract::<State<u16>>().map_err(status), Err(500));
        let ShardState(shared) = request.extract::<ShardState<Rc<RefCell<u16>>>>().expect("made");
        *shared.borrow_mut() += 1;
        assert_eq!(request.shard_state::<Rc<RefCell<u16>>>(), Some(&Rc::new(RefCell::new(9))));
        assert_eq!(request.extract::<ShardState<u8>>().map_err(status), Err(500));
        assert_eq!(request.extract::<Extension<&str>>().map_err(status), Ok(Extension("second")));
        assert_eq!(request.extract::<Extension<u8>>().map_err(status), Err(500));
        assert_eq!(request.extract::<Option<Extension<u8>>>().map_err(status), Ok(None));
    });
}

#[test]
fn a_client_without_credentials_is_challenged() {
    asked("/", "/", "", &ShardStates::default(), |request| {
        let refusal = request.extract::<Identity>().expect_err("nobody");
        let refusal = http::Response::from(refusal);
        assert_eq!(
            (refusal.status().as_u16(), refusal.headers().contains_key("www-authenticate")),
            (401, true)
        );
        assert_eq!(request.extract::<Option<Identity>>().map_err(|refusal| refusal.status()), Ok(None));
        let told: Result<Identity, Response> = request.extract().expect("a result is never refused");
        assert_eq!(told.map_err(|refusal| refusal.status()), Err(401));
    });
}

/// A pattern with one parameter.
const SEGMENT: &str = "/{x}";

proptest! {
    /// No request makes an extractor panic, and each refusal is one line.
    #[test]
    fn extractors_cope_with_anything(
        segment in "[!-~&&[^/?#]]{1,20}", sent in "[!-~&&[^#]]{0,60}", cookies in "[ -~]{0,60}", version in "[ -~]{0,20}",
    ) {
        let fields = format!("Cookie: {cookies}\r\nX-Version: {version}\r\n");
        let target = format!("/{segment}?{sent}");
        let of_one_line = |refused: Option<(u16, String)>| refused.is_none_or(|(status, said)| {
            status == 400 && said.lines().count() == 1 && said.len() < 200
        });
        prop_assert!(of_one_line(extracted::<Path<Number>>(SEGMENT, &target, &fields).err()));
        prop_assert!(of_one_line(extracted::<Path<Colour>>(SEGMENT, &target, &fields).err()));
        prop_assert!(of_one_line(extracted::<Query<Search>>(SEGMENT, &target, &fields).err()));
        prop_assert!(of_one_line(extracted::<Query<Strict>>(SEGMENT, &target, &fields).err()));
        prop_assert!(of_one_line(extracted::<Query<BTreeMap<String, String>>>(SEGMENT, &target, &fields).err()));
        prop_assert!(of_one_line(extracted::<Header<Version>>(SEGMENT, &target, &fields).err()));
        prop_assert!(extracted::<Cookies>(SEGMENT, &target, &fields).is_ok());
    }

    /// What a form encodes is what the program gets.
    #[test]
    fn a_query_round_trips(pairs in proptest::collection::btree_map(".{0,10}", ".{0,10}", 0..8)) {
        let encode = |text: &str| text.bytes().map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        }).collect::<String>();
        let sent: Vec<String> = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        prop_assert_eq!(query::<BTreeMap<String, String>>(&sent.join("&")), Ok(pairs));
    }
}

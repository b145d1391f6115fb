//! Declarations: presets, parameters, rules, and what is wrong.

use super::*;
use crate::plan::protocol::rules::Meaning;
use crate::plan::template::Scope;

fn no_variable(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Protocol, String> {
    Protocol::parse("file.toml", text, &[], &no_variable)
}

fn compile(text: &str) -> Result<CompiledProtocol, String> {
    parse(text)?.compile(&[])
}

#[test]
fn every_preset_is_valid() {
    for name in preset_names() {
        let text = Protocol::preset(name).expect("a preset");
        let protocol = Protocol::parse(name, text, &[], &no_variable).unwrap_or_else(|why| panic!("{why}"));
        let compiled = protocol.compile(&[]).unwrap_or_else(|why| panic!("{why}"));
        assert!(!protocol.definition.description.is_empty() && !compiled.requests.is_empty(), "{name}");
        assert!(protocol.path().is_some_and(|path| path.starts_with('/')), "{name}");
        let text = serde_json::to_string(&protocol).expect("it can be written");
        assert_eq!(serde_json::from_str::<Protocol>(&text).expect("it can be read"), protocol, "{name}");
    }
    assert!(preset_names().is_sorted());
    assert_eq!(Protocol::preset("none"), None);
}

#[test]
fn parameters_and_variables_replace_text() {
    let text = r#"
        path = "/${ROOM}"
        [parameters]
        method = "echo"
        [[request]]
        name = "{{param.method}}"
        send = '{"method":"{{param.method}}","token":"${TOKEN}","id":{{id}}}'
        [[answer]]
        match = { json = "/id" }
    "#;
    let variable = |name: &str| Some(format!("{name}{{{{")).filter(|_| name != "NONE");
    let given = [("method".to_owned(), "add".to_owned())];
    let protocol = Protocol::parse("f", text, &given, &variable).expect("valid");
    assert_eq!(protocol.request_names().collect::<Vec<_>>(), ["add"]);
    let compiled = protocol.compile(&[]).expect("valid");
    let mut message = Vec::new();
    compiled.requests[0].send.expand(&Scope { id: 7, ..Scope::default() }, &mut message);
    assert_eq!(String::from_utf8_lossy(&message), r#"{"method":"add","token":"TOKEN{{","id":7}"#);
    for (parameters, variable, told) in
        [(&[("metod".to_owned(), String::new())][..], "X", "known: method"), (&[], "NONE", "NONE is not set")]
    {
        let text = text.replace("TOKEN", variable);
        let why = Protocol::parse("f", &text, parameters, &|name| (name != "NONE").then(String::new));
        let why = why.expect_err("wrong");
        assert!(why.starts_with("f: ") && why.contains(told), "{why}");
    }
}

#[test]
fn rules_tell_messages_apart() {
    let text = r#"
        kind = "text"
        [[request]]
        name = "r"
        send = "{{id}}"
        [[reply]]
        when = { json = "/type", equals = "ping" }
        send = "pong"
        [[answer]]
        when = [{ json = "/id" }, { json = "/type", one_of = ["a", 5, true] }]
        match = { json = "/id" }
        [[answer]]
        when = { regex = '^4(\d+)x' }
        match = { regex = '^4(\d+)x' }
        [[ignore]]
        when = { at = 1, bytes = 2, equals = "no" }
        [[ignore]]
        when = { at = 0, number = "u16", equals = 16962 }
        [[ignore]]
        when = [{ json = "/id", exists = false }, { json = "/n", matches = '^\d+$' }]
    "#;
    let protocol = compile(text).expect("valid");
    let told = |message: &str| {
        let message = protocol.read(message.as_bytes());
        let rule = protocol.rule(&message, &Scope::default())?;
        let id = match &rule.meaning {
            Meaning::Answer(answer) => answer.id.as_ref().and_then(|id| id.number(&message)),
            _ => None,
        };
        Some((rule.name.clone(), id))
    };
    let is = |name: &str, id| Some((name.to_owned(), id));
    assert_eq!(told(r#"{"type":"ping","id":1}"#), is("reply[1]", None));
    assert_eq!(told(r#"{"id":"12","type":"a"}"#), is("answer[1]", Some(12)));
    assert_eq!(told(r#"{"id":12,"type":5}"#), is("answer[1]", Some(12)));
    assert_eq!(told(r#"{"id":12,"type":true}"#), is("answer[1]", Some(12)));
    assert_eq!(told("477x"), is("answer[2]", Some(77)));
    assert_eq!(told("xno"), is("ignore[1]", None));
    assert_eq!(told("BBB"), is("ignore[2]", None), "a number of bytes");
    assert_eq!(told(r#"{"n":12}"#), is("ignore[3]", None));
    assert_eq!(told(r#"{"n":12,"id":null}"#), is("ignore[3]", None), "null is absent");
    assert_eq!(told(r#"{"n":"x"}"#), None);
    assert_eq!(told(""), None);
}

#[test]
fn requests_are_drawn_by_their_weights() {
    let request =
        |name: &str, weight| format!("[[request]]\nname = '{name}'\nweight = {weight}\nsend = '{name}'\n");
    let protocol = compile(&[request("a", 1), request("b", 3), request("c", 6)].concat()).expect("valid");
    let mut drawn = [0; 3];
    for connection in 0..20 {
        for sequence in 0..1_000 {
            let request = protocol.request(5, connection, sequence);
            assert_eq!(request, protocol.request(5, connection, sequence), "it follows from the message");
            drawn[request] += 1;
        }
    }
    for (count, expected) in drawn.into_iter().zip([2_000, 6_000, 12_000]) {
        assert!((expected - 300..expected + 300).contains(&count), "{drawn:?}");
    }
    let turns = CompiledProtocol { takes_turns: true, ..protocol };
    assert_eq!((0..5).map(|sequence| turns.request(5, 0, sequence)).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
}

#[test]
fn captures_are_known_to_later_messages_only() {
    let text = r#"
        [[open]]
        await = { json = "/sid" }
        capture = { sid = { json = "/sid" } }
        [[open]]
        send = "{{capture.sid}}"
        [[request]]
        name = "r"
        send = "{{capture.sid}} {{id}}"
    "#;
    assert!(compile(text).is_ok());
    let swapped = "[[open]]\nsend = '{{capture.sid}}'\n";
    let why = compile(&format!("{swapped}{text}")).expect_err("too early");
    assert!(why.contains("open[1]") && why.contains("nothing captures it"), "{why}");
}

#[test]
fn answers_may_be_computed_from_their_requests() {
    let preset = Protocol::preset("json-rpc").expect("a preset");
    let given = [
        ("params", "[{{seq}},{{random.int(1, 9)}}]"),
        ("result", "/result"),
        ("equals", "{{request(/params/0) + request(/params/1)}}"),
    ];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let protocol = Protocol::parse("json-rpc", preset, &given, &no_variable).expect("valid");
    let protocol = protocol.compile(&[]).expect("valid");
    assert!(protocol.compares_requests);
    let holds = |answer: &str| {
        let scope = Scope { request: br#"{"params":[12,7]}"#, ..Scope::default() };
        let message = protocol.read(answer.as_bytes());
        let Meaning::Answer(rule) = &protocol.rule(&message, &scope).expect("an answer").meaning else {
            panic!("no answer");
        };
        rule.expect.hold(&message, &scope)
    };
    assert!(holds(r#"{"id":1,"result":19}"#) && !holds(r#"{"id":1,"result":20}"#));
    assert!(!holds(r#"{"id":1,"result":[19]}"#));
    let of_request =
        "[[request]]\nname = 'r'\nsend = '{{seq}}'\nexpect = { json = '', equals = '{{seq * 2}}' }";
    let protocol = compile(of_request).expect("valid");
    let scope = Scope { sequence: 3, ..Scope::default() };
    let expect = &protocol.requests[0].expect;
    assert!(expect.hold(&protocol.read(b"6"), &scope) && !expect.hold(&protocol.read(b"3"), &scope));
    assert!(!protocol.compares_requests);
}

#[test]
fn a_session_is_listed_or_drawn() {
    let request = |name: &str| format!("[[request]]\nname = '{name}'\nsend = '{name}'\n");
    let session = |text: &str| compile(&format!("{}{}{text}", request("a"), request("b")));
    let steps = |text: &str| {
        let protocol = session(text).expect("valid");
        let length = protocol.session_length(7);
        (0..length).map(|step| protocol.session_request(step)).collect::<Vec<_>>()
    };
    assert_eq!(steps(""), [Some(0), Some(1)], "each once");
    assert_eq!(steps("[session]\nrequests = ['b', 'a', 'b']"), [Some(1), Some(0), Some(1)]);
    assert_eq!(steps("[session]\ncount = '3'"), [None; 3]);
    let drawn = session("[session]\ncount = '2..4'").expect("valid");
    assert_eq!([0, 1, 2, 3].map(|number| drawn.session_length(number)), [2, 3, 4, 2]);
    for (text, told) in [
        ("[session]", "expected requests or count"),
        ("[session]\ncount = '0'", "expected requests or count"),
        ("[session]\ncount = '4..2'", "expected requests or count"),
        ("[session]\ncount = '2'\nrequests = ['a']", "expected requests or count"),
        ("[session]\nrequests = ['a', 'c']", "there is no request c"),
    ] {
        let why = session(text).map(|_| ()).expect_err(text);
        assert!(why.contains(told), "{text}: {why}");
    }
}

#[test]
fn think_times_are_random_times() {
    let think = |text: &str| {
        let request = format!("[[request]]\nname = 'r'\nsend = 'x'\nthink = '{text}'");
        compile(&request).map(|protocol| protocol.requests[0].think)
    };
    assert_eq!(think("10ms..20ms"), Ok("10ms..20ms".parse().ok()));
    let why = think("20ms..10ms").expect_err("not ascending");
    assert!(why.contains("request r: think"), "{why}");
}

#[test]
fn what_is_wrong_names_its_entry() {
    for (text, told) in [
        ("path = 5", "expected a string"),
        ("paths = '/'", "unknown field `paths`"),
        ("open = 5", "expected a sequence"),
        ("a = [", "line 1"),
        ("\n\n'x", "line 3"),
        ("[parameters]\na = 5", "parameters.a: expected a string"),
        ("[[open]]\ntimeout = '5s'", "open[1]: expected send or await"),
        ("[[open]]\nsend = '{{id}}'", "open[1]: {{id}}: only in requests"),
        ("[[open]]\nawait = { json = 'id' }", "open[1]: a JSON pointer begins with /"),
        ("[[open]]\nawait = { json = '/id', regex = 'x' }", "open[1]: expected one of json"),
        (
            "[[open]]\nawait = { json = '/id', equals = 'x', exists = true }",
            "open[1]: /id: expected one of equals",
        ),
        ("[[open]]\nawait = { regex = '(' }", "open[1]: regular expression (: unclosed group"),
        ("[[open]]\nawait = { at = 0, number = 'i8' }", "expected u8, u16"),
        ("[[open]]\nawait = { jsn = '/id' }", "unknown field `jsn`"),
        ("[[open]]\nsend = 'x'\ntimeout = 'soon'", "open[1]: expected a time"),
        ("[[open]]\nsend = 'x'\ncapture = { a = { json = '/a' } }", "open[1]: capture needs await"),
        ("[[request]]\nname = 'a'\nsend = '{{ids}}'", "request a: {{ids}}: expected"),
        ("[[request]]\nname = 'a'\nsend = ''\n[[request]]\nname = 'a'\nsend = ''", "two of this name"),
        ("[[request]]\nname = 'a'\nsend = ''\nweight = 0", "a weight of at least 1"),
        ("[[request]]\nname = 'a'\nsend = '{{request(/a)}}'", "request a: {{request(/a)}}: only in expect"),
        ("[topics]\nsubscribe = []\npublish = 'x'\ndelivery = []", "topics.publish: expected {{payload}}"),
        ("[topics]\nsubscribe = []\npublish = '{{payload}}'\ndelivery = []", "topics.delivery: expected"),
        ("[heartbeat]\nevery = '0s'\nsend = ''", "heartbeat.every"),
        ("[push]\ntime = { json = '/t' }\nunit = 'h'", "push.unit"),
        ("id = { count = 0 }", "id.count"),
        ("split = ''", "split: "),
        ("subprotocols = ['a b']", "a b is not a token"),
        ("kind = 'binary'\n[[open]]\nsend = '\\q'", "open[1]: expected \\xNN"),
    ] {
        let why = compile(text).map(|_| ()).expect_err(text);
        assert!(why.starts_with("file.toml: ") && why.contains(told) && !why.contains('\n'), "{text}\n{why}");
    }
}

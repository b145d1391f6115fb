//! Templates: their values, formats and errors.

use std::path::Path;

use super::*;
use crate::plan::rows::{RowOrder, Rows};

fn variable(name: &str) -> Option<String> {
    (name == "TOKEN").then(|| "se{{cret".to_owned())
}

fn parse(text: &str) -> Result<Template, String> {
    Template::parse(&expand_variables(text, &variable)?)
}

fn rows() -> Rows {
    let file = std::env::temp_dir().join(format!("template-{}.csv", std::process::id()));
    std::fs::write(&file, "token,number\n\"a \"\"b\"\"\",7\nc&d,8\n").expect("written");
    Rows::read(Path::new(&file), RowOrder::InOrder).expect("rows")
}

fn names(columns: &[String]) -> Names<'_> {
    Names { columns, captures: &[], requests: true, answers: true, topics: true }
}

/// The expansion, which must also match itself and have the length that was told.
fn expand(template: &Template, scope: &Scope<'_>, names: &Names<'_>) -> Vec<u8> {
    let bound = template.bind(names).expect("known names");
    let mut out = Vec::new();
    bound.expand(scope, &mut out);
    assert!(bound.matches(scope, &out), "{out:?}");
    out.push(b'!');
    assert!(!bound.matches(scope, &out), "a longer message");
    out.pop();
    if !out.is_empty() {
        assert!(!bound.matches(scope, &out[1..]), "a shorter message");
    }
    out
}

#[test]
fn values_and_formats() {
    let rows = rows();
    let row = Some(rows.row(0));
    let scope = Scope {
        seed: 5,
        connection: 12,
        sequence: 345,
        id: 346,
        now_ns: 1_700_000_000_123_456_789,
        row,
        captures: &[],
        payload: b"p\"\x01",
        topic: b"news",
        request: br#"{"params":[20,"x\"y"],"n":-3}"#,
    };
    for (text, expanded) in [
        ("", ""),
        ("no expression { } $ {x}", "no expression { } $ {x}"),
        ("{{connection}}-{{ seq }}/{{id}}", "12-345/346"),
        (
            "{{now_s}} {{now_ms}} {{now_us}} {{now_ns}}",
            "1700000000 1700000000123 1700000000123456 1700000000123456789",
        ),
        ("{{row}} {{data.number}} {{data.token}}", "0 7 a \"b\""),
        ("{{data.token | json}}", "a \\\"b\\\""),
        ("{{data.token|url}}", "a%20%22b%22"),
        ("{{data.token|base64}}", "YSAiYiI="),
        ("{{payload|json}}", "p\\\"\\u0001"),
        ("{{request(/params/1)}} {{request(/params/1)|json}} {{request(/none)}}", "x\"y x\\\"y "),
        ("{{request(/params/0) + request(/n) * data.number - 1}}", "-2"),
        ("{{seq + connection * 2 * 2 | base64}} {{seq - 1}}", "Mzkz 344"),
        ("[{{request(/params/1) + 1}}]", "[]"),
        ("/{{topic}}?t=${TOKEN}", "/news?t=se{{cret"),
        ("$${TOKEN} {{'{{'}} {{'a}}b'}}", "${TOKEN} {{ a}}b"),
        ("{{length}}:{{id}}", "4:346"),
        ("{{length}}:{{id}}{{end}}{{id}}", "4:346346"),
        ("{{length}}[{{length}}{{topic}}{{end}}]", "7[4news]"),
    ] {
        let template = parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        let out = expand(&template, &scope, &names(rows.columns()));
        assert_eq!(String::from_utf8_lossy(&out), expanded, "{text}");
    }
}

#[test]
fn binary_messages_have_bytes_and_lengths() {
    let scope = Scope { id: 0x1234, topic: b"t", payload: &[b'x'; 300], ..Scope::default() };
    let text = r"\x32{{length|varint}}{{length|u16}}{{topic}}{{end}}{{id|u16}}{{payload}}\\";
    let template = Template::parse_binary(text).expect("a template");
    let out = expand(&template, &scope, &names(&[]));
    let mut expected = b"\x32\xb2\x02\x00\x01t\x12\x34".to_vec();
    expected.extend_from_slice(&[b'x'; 300]);
    expected.push(b'\\');
    assert_eq!(out, expected);
    let out = expand(
        &Template::parse_binary("{{id|u8}}{{id|u32}}{{id|u64}}{{length|u8}}ab").expect("a template"),
        &scope,
        &names(&[]),
    );
    assert_eq!(out, b"\x34\0\0\x12\x34\0\0\0\0\0\0\x12\x34\x02ab");
}

#[test]
fn random_values_follow_from_the_seed_and_the_message() {
    let template = parse("{{random.hex(20)}} {{random.hex(20)}} {{random.int(3, 5)}} {{random.uuid}}")
        .expect("a template");
    let text = |seed, connection, sequence| {
        let scope = Scope { seed, connection, sequence, ..Scope::default() };
        String::from_utf8(expand(&template, &scope, &Names::default())).expect("text")
    };
    let one = text(1, 2, 3);
    assert_eq!(one, text(1, 2, 3));
    for other in [text(2, 2, 3), text(1, 3, 3), text(1, 2, 4)] {
        assert_ne!(one, other);
    }
    let words: Vec<&str> = one.split(' ').collect();
    assert_eq!(words[0].len(), 20);
    assert_ne!(words[0], words[1], "each expression has its own");
    assert!(["3", "4", "5"].contains(&words[2]), "{one}");
    let uuid = words[3];
    assert!(uuid.len() == 36 && &uuid[14..15] == "4" && "89ab".contains(&uuid[19..20]), "{uuid}");
}

#[test]
fn another_time_is_the_same_message() {
    let bound =
        parse("{\"at\":{{now_ms}},\"id\":{{id}}}").and_then(|it| it.bind(&names(&[]))).expect("bound");
    let scope = Scope { now_ns: 1_700_000_000_000_000_000, id: 5, ..Scope::default() };
    assert!(bound.matches(&scope, b"{\"at\":1799999999999,\"id\":5}"));
    assert!(!bound.matches(&scope, b"{\"at\":1799999999999,\"id\":6}"));
    assert!(!bound.matches(&scope, b"{\"at\":179999999999,\"id\":5}"));
}

#[test]
fn what_is_wrong_is_told_in_one_line() {
    for (text, told) in [
        ("{{id", "has no }}"),
        ("{{idx}}", "{{idx}}: expected connection"),
        ("{{id|octal}}", "{{id|octal}}: expected text, json"),
        ("{{length|json}}", "expected text, varint"),
        ("{{end}}", "belongs to no {{length}}"),
        ("{{random.hex(0)}}", "1 to"),
        ("{{random.hex(x)}}", "a number instead of `x`"),
        ("{{random.int(5, 3)}}", "ascending"),
        ("{{data.}}", "expected connection"),
        ("{{seq + payload}}", "payload is no number to calculate with"),
        ("{{random.int(1, 2) * 2}}", "random.int is no number"),
        ("{{seq + }}", "expected connection"),
        ("${TOKEN", "has no }"),
        ("${MISSING}", "MISSING is not set"),
    ] {
        let why = parse(text).expect_err(text);
        assert!(why.contains(told) && !why.contains('\n'), "{text}: {why}");
    }
    for (text, told) in [
        ("{{data.token}}", "--data FILE"),
        ("{{row}}", "--data FILE"),
        ("{{payload}}", "only in requests"),
        ("{{request(/a)}}", "only in expect"),
        ("{{topic}}", "only where there are topics"),
        ("{{capture.sid}}", "nothing captures it"),
    ] {
        let why = parse(text).expect("valid syntax").bind(&Names::default()).expect_err(text);
        assert!(why.contains(told) && why.contains(text), "{text}: {why}");
    }
    let columns = ["a".to_owned(), "b".to_owned()];
    let why = parse("{{data.c}}").expect("valid syntax").bind(&names(&columns)).expect_err("unknown");
    assert!(why.contains("a, b"), "{why}");
    for text in [r"\x4", r"\q", r"\x+1"] {
        assert!(Template::parse_binary(text).is_err(), "{text}");
    }
}

#[test]
fn a_template_that_was_written_and_read_is_the_same() {
    let template =
        parse("{{length|varint}}${TOKEN}{{data.token|json}}{{random.int(1,2)}}").expect("a template");
    let text = serde_json::to_string(&template).expect("it can be written");
    assert_eq!(serde_json::from_str::<Template>(&text).expect("it can be read"), template);
}

//! The JSON Schema of records and their reference, generated from the types of records and the rows of metrics. With `UPDATE=1`, as in
//! `scripts/docs --update`, the tests write the files instead.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::golden::records;
use crate::analyse::objective::metric_table;
use crate::plan::declared::schema::{Described as _, Type, Types};
use crate::record::{File, SCHEMA};

/// The types with tables, by the part of the page. Types that they refer to follow, unless an earlier part has them.
const PARTS: &[(&str, &[&str])] = &[
    ("config", &["Config"]),
    ("slices", &["TimeSeries"]),
    ("searches", &["SearchResult", "Comparison"]),
    ("record", &["Record"]),
];

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name)
}

/// Compares a file with what the types say, or writes it.
fn check(name: &str, made: &str) {
    let path = reference(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, made).expect("written");
        return;
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "docs/reference/{name} differs: run scripts/docs --update");
}

/// The types of a file of records.
fn types() -> Types {
    let mut types = Types::default();
    File::schema(&mut types);
    types
}

/// The schema of a file of records.
fn schema() -> Value {
    let mut of = types().definitions();
    let mut schema = of.remove("File").expect("the file");
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = SCHEMA.into();
    schema["properties"]["schema"]["const"] = SCHEMA.into();
    schema["$defs"] = of.into();
    schema
}

/// The name of a definition that a schema refers to.
fn named(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

/// The definition that a field refers to, perhaps in a list or as one of several.
fn referred(schema: &Value) -> Option<&str> {
    named(schema).or_else(|| {
        let inner = [&schema["items"], &schema["additionalProperties"], &schema["anyOf"][0]];
        inner.into_iter().filter(|inner| inner.is_object()).find_map(referred)
    })
}

/// The type of a field.
fn type_of(schema: &Value) -> String {
    if let Some(name) = named(schema) {
        let heading = match name {
            "Record" => "a-record".to_owned(),
            "Config" => "the-configuration-of-a-run".to_owned(),
            "TimeSeries" => "slices".to_owned(),
            name => name.to_lowercase(),
        };
        return format!("[{name}](#{heading})");
    }
    if let Value::Array(each) = &schema["anyOf"] {
        return each.iter().map(type_of).collect::<Vec<_>>().join(", ");
    }
    if let Value::Array(words) = &schema["enum"] {
        return words
            .iter()
            .map(|word| format!("`{}`", word.as_str().expect("a word")))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match schema["type"].as_str().expect("a type") {
        "null" => "`null`".to_owned(),
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" => format!("object of {}", type_of(&schema["additionalProperties"])),
        name => name.to_owned(),
    }
}

/// A type and its fields as a table of Markdown.
fn table(Type { about, fields, .. }: &Type) -> String {
    let mut table = format!("{about}\n\n| field | type | meaning |\n|---|---|---|\n");
    for (name, field) in fields {
        let meaning = field["description"].as_str().filter(|meaning| !meaning.is_empty());
        let meaning = meaning.unwrap_or_else(|| panic!("{name} has no meaning")).replace('|', "\\|");
        let _ = writeln!(table, "| `{name}` | {} | {meaning} |", type_of(field));
    }
    table
}

/// The tables of each part of the page.
fn parts() -> Vec<(&'static str, String)> {
    let Types(types) = types();
    let mut done = PARTS.iter().flat_map(|(_, roots)| roots.iter().copied()).collect::<BTreeSet<_>>();
    let part = |&(part, roots): &(&'static str, &'static [&'static str])| {
        let mut text = String::new();
        let mut next: Vec<&str> = roots.iter().rev().copied().collect();
        while let Some(name) = next.pop() {
            let found = types.iter().find(|known| known.name == name).expect(name);
            let _ = match roots {
                [root] if *root == name => writeln!(text, "{}", table(found)),
                _ => writeln!(text, "### {name}\n\n{}", table(found)),
            };
            let below: Vec<&str> = found.fields.iter().filter_map(|(_, field)| referred(field)).collect();
            next.extend(below.into_iter().rev().filter(|name| done.insert(*name)));
        }
        (part, text)
    };
    PARTS.iter().map(part).collect()
}

/// The page with another part between the marks of its name.
fn replaced(text: &str, part: &str, made: &str) -> String {
    let begin = format!("<!-- {part}: made by scripts/docs --update from src/load, do not edit. -->\n");
    let end = format!("<!-- {part}: end of the part that scripts/docs made. -->\n");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no line {begin:?}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no line {end:?}"));
    format!("{before}{begin}\n{}\n\n{end}{after}", made.trim_end())
}

#[test]
fn the_schema_of_records_is_that_of_their_types() {
    check("run-record.schema.json", &format!("{:#}\n", schema()));
}

#[test]
fn the_reference_of_records_is_what_their_types_say() {
    let page = fs::read_to_string(reference("run-record.md")).expect("the page");
    let made = parts().iter().fold(page, |page, (part, made)| replaced(&page, part, made));
    check("run-record.md", &replaced(&made, "metrics", &metric_table()));
}

/// Problems of a value: fields that its schema does not have, and fields that it lacks.
fn problems(value: &Value, schema: &Value, of: &Map<String, Value>, path: &str, into: &mut Vec<String>) {
    if let Some(name) = named(schema) {
        return problems(value, &of[name], of, path, into);
    }
    if let Some(each) = schema["anyOf"].as_array().filter(|_| !value.is_null()) {
        return problems(value, &each[0], of, path, into);
    }
    match (value, &schema["properties"]) {
        (Value::Array(each), _) => {
            each.iter().for_each(|one| problems(one, &schema["items"], of, &format!("{path}[]"), into));
        }
        (Value::Object(members), Value::Object(fields)) => {
            let required = schema["required"].as_array().expect("fields that are always there");
            let lacking =
                required.iter().filter_map(Value::as_str).filter(|name| !members.contains_key(*name));
            into.extend(lacking.map(|name| format!("{path}.{name} is missing")));
            for (name, member) in members {
                match fields.get(name) {
                    Some(field) => problems(member, field, of, &format!("{path}.{name}"), into),
                    None => into.push(format!("{path}.{name} is not in the schema")),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn records_have_exactly_the_fields_of_the_schema() {
    let schema = schema();
    let of = schema["$defs"].as_object().expect("definitions");
    for path in records() {
        let json = fs::read_to_string(&path).expect("a record");
        let mut found = Vec::new();
        problems(&serde_json::from_str(&json).expect("JSON"), &schema, of, "", &mut found);
        assert_eq!(found, [""; 0], "{}", path.display());
    }
}

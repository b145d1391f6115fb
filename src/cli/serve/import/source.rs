//! The file: JSON, YAML or TOML, as one JSON value.

use std::path::Path;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};
use yaml_rust2::{Yaml, YamlLoader};

use crate::Failure;
use crate::common::file::beginning;
use crate::limits::IMPORT_BYTES_MAX;

/// Reads the file at `path`.
///
/// # Errors
/// [`Failure::Environment`] when it cannot be read, [`Failure::Usage`] when it is too long or not of its kind.
pub(super) fn read(path: &Path) -> Result<Value, Failure> {
    let name = path.display();
    let bytes = beginning(path, IMPORT_BYTES_MAX)
        .map_err(|error| Failure::Environment(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > IMPORT_BYTES_MAX {
        return Err(Failure::Usage(format!("{name} is longer than 1MiB: is it the right file?")));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{name}: not UTF-8")))?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let read = match ending {
        "json" => serde_json::from_str(&text).map_err(|error| error.to_string()),
        "yaml" | "yml" => yaml(&text),
        "toml" => toml(&text),
        _ => Err("expected a file that ends in .json, .yaml, .yml or .toml".to_owned()),
    };
    // Messages of parsers may span lines.
    read.map_err(|wrong| Failure::Usage(format!("{name}: {wrong}").replace(char::is_control, " ")))
}

fn yaml(text: &str) -> Result<Value, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    match <[Yaml; 1]>::try_from(documents) {
        Ok([document]) => of_yaml(document),
        Err(documents) if documents.is_empty() => Ok(Value::Object(Map::new())),
        Err(_) => Err("expected one document".to_owned()),
    }
}

fn of_yaml(yaml: Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(is_so) => Value::Bool(is_so),
        Yaml::Integer(number) => Value::from(number),
        Yaml::Real(word) => Value::from(word.parse::<f64>().map_err(|_| format!("{word} is no number"))?),
        Yaml::String(text) => Value::String(text),
        Yaml::Array(items) => items.into_iter().map(of_yaml).collect::<Result<_, _>>()?,
        Yaml::Hash(entries) => {
            let entry = |(key, value): (Yaml, Yaml)| match key {
                Yaml::String(key) => Ok((key, of_yaml(value)?)),
                Yaml::Integer(key) => Ok((key.to_string(), of_yaml(value)?)),
                _ => Err("a key that is no text".to_owned()),
            };
            Value::Object(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
        Yaml::Alias(_) | Yaml::BadValue => return Err("an alias of nothing".to_owned()),
    })
}

fn toml(text: &str) -> Result<Value, String> {
    let table = DeTable::parse(text).map_err(|error| error.message().to_owned())?;
    of_table(table.get_ref())
}

fn of_table(table: &DeTable<'_>) -> Result<Value, String> {
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &toml::de::DeString<'_> = key.get_ref();
        Ok((key.to_string(), of_toml(value.get_ref())?))
    };
    table.iter().map(entry).collect::<Result<_, String>>().map(Value::Object)
}

fn of_toml(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(is_so) => Value::Bool(*is_so),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Value::from(parsed.map_err(|_| format!("{number} is too large"))?)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            Value::Number(parsed.ok_or_else(|| format!("{number} is no number"))?)
        }
        DeValue::Datetime(_) => return Err("a date where Centrifugo has none".to_owned()),
        DeValue::Array(items) => {
            items.iter().map(|item| of_toml(item.get_ref())).collect::<Result<_, _>>()?
        }
        DeValue::Table(table) => of_table(table)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{toml, yaml};

    #[test]
    fn both_notations_say_the_same() {
        let expected = json!({
            "client": {"ping_interval": "25s", "channel_limit": 12},
            "channel": {"namespaces": [{"name": "a", "presence": true}, {"name": "b", "x": 1.5}]},
        });
        let lines = "client:\n  ping_interval: 25s\n  channel_limit: 12\nchannel:\n  namespaces:\n    - name: a\n      \
                     presence: true\n    - {name: b, x: 1.5}\n";
        assert_eq!(yaml(lines), Ok(expected.clone()));
        let tables = "[client]\nping_interval = '25s'\nchannel_limit = 12\n[[channel.namespaces]]\nname = 'a'\n\
                      presence = true\n[[channel.namespaces]]\nname = 'b'\nx = 1.5\n";
        assert_eq!(toml(tables), Ok(expected));
        assert_eq!(yaml(""), Ok(json!({})));
        assert_eq!(yaml("a: &b [1]\nc: *b\n"), Ok(json!({"a": [1], "c": [1]})));
    }

    #[test]
    fn malformed_files_are_errors() {
        for text in ["a: [", "a: 1\n---\nb: 2", "? [a]\n: 1"] {
            assert!(yaml(text).is_err(), "{text}");
        }
        for text in ["a = ", "a = 2026-01-01", "a = 99999999999999999999"] {
            assert!(toml(text).is_err(), "{text}");
        }
    }
}

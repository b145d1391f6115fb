//! The keys that are there, by their paths such as `client.token.audience`. Each is taken once; the others are left.

use std::collections::BTreeMap;

use serde_json::Value;

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// The beginning of the names of variables with settings.
const VARIABLE: &str = "CENTRIFUGO_";
/// That of variables which values refer to.
const PLACEHOLDER: &str = "CENTRIFUGO_VAR_";

/// The keys of a file, or of one element of a list.
#[derive(Debug)]
pub(super) struct Given {
    /// The path of the element, with a dot; empty for the file.
    prefix: String,
    keys: BTreeMap<String, Value>,
    /// Variables of Centrifugo by their names, which override the keys of a file.
    variables: BTreeMap<String, String>,
}

impl Given {
    /// The keys of a file.
    ///
    /// # Errors
    /// If it is no table.
    pub(super) fn new(root: Value) -> Result<Given, String> {
        if !root.is_object() {
            return Err("expected an object at the top".to_owned());
        }
        Ok(Given::within(String::new(), root))
    }

    fn within(prefix: String, table: Value) -> Given {
        let mut keys = BTreeMap::new();
        flatten(String::new(), table, &mut keys);
        Given { prefix, keys, variables: BTreeMap::new() }
    }

    /// The same, with the settings among `variables` over its own.
    pub(super) fn over_by(mut self, variables: BTreeMap<String, String>) -> Given {
        let is_setting = |name: &str| name.starts_with(VARIABLE) && !name.starts_with(PLACEHOLDER);
        self.variables =
            variables.into_iter().filter(|(name, value)| is_setting(name) && !value.is_empty()).collect();
        for (key, value) in &mut self.keys {
            if let Some(text) = self.variables.remove(&variable(key)) {
                *value = of_variable(text);
            }
        }
        self
    }

    /// The value of `key`, which is taken.
    fn take(&mut self, key: &str) -> Option<Value> {
        let own = self.keys.remove(key);
        let set = self.variables.remove(&variable(&self.path(key)));
        set.map(of_variable).or(own)
    }

    /// The elements of the list `key` of tables. Each is called by its `name`, or by its place in the list.
    pub(super) fn tables(&mut self, key: &str) -> Result<Vec<(String, Given)>, String> {
        let items = match self.take(key) {
            None if !self.keys.keys().any(|other| other.starts_with(&format!("{key}."))) => {
                return Ok(Vec::new());
            }
            Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            // A table is known by the keys in it.
            None | Some(_) => return Err(format!("{}{key}: expected a list", self.prefix)),
        };
        let table = |(place, mut item): (usize, Value)| {
            let entries =
                item.as_object_mut().ok_or_else(|| format!("{}{key}: expected tables", self.prefix))?;
            let name = entries.remove("name").and_then(|name| name.as_str().map(str::to_owned));
            let called = name.clone().unwrap_or_else(|| place.to_string());
            let prefix = format!("{}{key}[{called}].", self.prefix);
            Ok((name.unwrap_or_default(), Given::within(prefix, item)))
        };
        items.into_iter().enumerate().map(table).collect()
    }

    /// The path of a key, for lists and errors.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The text of `key`; `None` if it is absent or empty.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.expected(key, "text")),
        }
    }

    /// The text of `key`, which is not taken.
    pub(super) fn peek(&self, key: &str) -> Option<&str> {
        let set = self.variables.get(&variable(&self.path(key))).map(String::as_str);
        set.or_else(|| self.keys.get(key).and_then(Value::as_str))
    }

    /// Whether `key` is there and says an empty text.
    pub(super) fn is_empty_text(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|value| value == "")
    }

    /// Whether `key` is on.
    pub(super) fn switch(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(is_on)) => Ok(is_on),
            // As Centrifugo reads them.
            Some(Value::String(word)) if ["true", "1"].contains(&&*word) => Ok(true),
            Some(Value::String(word)) if ["false", "0", ""].contains(&&*word) => Ok(false),
            Some(_) => Err(self.expected(key, "true or false")),
        }
    }

    /// The number of `key`.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<i64>, String> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64()),
            Some(Value::String(word)) if word.parse::<i64>().is_ok() => Ok(word.parse().ok()),
            Some(_) => Err(self.expected(key, "a whole number")),
        }
    }

    /// The time of `key`, negative for one that is switched off.
    pub(super) fn time(&mut self, key: &str) -> Result<Option<i128>, String> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64().map(i128::from)),
            Some(Value::String(word)) => match duration(&word) {
                Some(time) => Ok(Some(time)),
                None => Err(self.expected(key, "a duration such as \"25s\"")),
            },
            Some(_) => Err(self.expected(key, "a duration such as \"25s\"")),
        }
    }

    /// The texts of `key`: a list, or words in one text.
    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>, String> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(words)) => Ok(words.split_whitespace().map(str::to_owned).collect()),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                texts.ok_or_else(|| self.expected(key, "a list of texts"))
            }
            Some(_) => Err(self.expected(key, "a list of texts")),
        }
    }

    /// The texts below `key`, by their names.
    pub(super) fn texts_below(&mut self, key: &str) -> Result<Vec<(String, String)>, String> {
        let prefix = format!("{key}.");
        let below = self.keys.keys().filter(|path| path.starts_with(&prefix)).cloned().collect::<Vec<_>>();
        let text =
            |path: String| Ok((path[prefix.len()..].to_owned(), self.text(&path)?.unwrap_or_default()));
        let texts = below.into_iter().map(text).collect::<Result<Vec<_>, String>>()?;
        Ok(texts.into_iter().filter(|(_, text)| !text.is_empty()).collect())
    }

    /// Takes a key whose effect is always there, or that has none here.
    pub(super) fn forget(&mut self, keys: &[&str]) {
        for key in keys {
            self.take(key);
        }
    }

    /// Takes `key` and everything below it.
    pub(super) fn forget_below(&mut self, key: &str) {
        self.keys.retain(|path, _| !is_below(path, key));
    }

    /// Leaves `key`, if only as a switch.
    pub(super) fn put(&mut self, key: &str, is_on: bool) {
        self.keys.insert(key.to_owned(), Value::Bool(is_on));
    }

    /// Whether a key is left that is `key` or below it, and switches something on.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(path, value)| is_below(path, key) && says_something(value))
    }

    /// The paths of the keys that are left and switch something on.
    pub(super) fn left(self) -> impl Iterator<Item = String> {
        let said = self.keys.into_iter().filter(|(_, value)| says_something(value));
        said.map(move |(key, _)| format!("{}{key}", self.prefix)).chain(self.variables.into_keys())
    }

    /// An error of the type of `key`, without its value, which may be a secret.
    fn expected(&self, key: &str, what: &str) -> String {
        format!("{}{key}: expected {what}", self.prefix).replace(char::is_control, " ")
    }
}

/// The value of a variable: a list in JSON, or a text.
fn of_variable(text: String) -> Value {
    serde_json::from_str(&text).ok().filter(Value::is_array).unwrap_or(Value::String(text))
}

/// The variable that sets the key at `path`.
fn variable(path: &str) -> String {
    format!("{VARIABLE}{}", path.replace('.', "_").to_uppercase())
}

/// Whether `path` is `key` or of a table of that name.
pub(super) fn is_below(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether a value switches something on.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

fn flatten(path: String, value: Value, keys: &mut BTreeMap<String, Value>) {
    let Value::Object(entries) = value else {
        keys.insert(path, value);
        return;
    };
    for (key, value) in entries {
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        flatten(path, value, keys);
    }
}

/// A duration as Go writes it, such as `1h30m` or `-1s`.
fn duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        sum += number.parse::<f64>().ok()? * unit_ns(unit)? as f64;
        rest = behind;
    }
    (!text.is_empty()).then_some(sign * sum as i128)
}

fn unit_ns(unit: &str) -> Option<Nanos> {
    match unit {
        "ns" => Some(1),
        "us" | "µs" => Some(1_000),
        "ms" => Some(MILLISECOND),
        "s" => Some(SECOND),
        "m" => Some(60 * SECOND),
        "h" => Some(3_600 * SECOND),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Given, duration};

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("25s", Some(25_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("250ms", Some(250_000_000)),
            ("-1s", Some(-1_000_000_000)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("5 s", None),
            ("s", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_overrides_the_file_and_may_be_all_there_is() {
        let set = [
            ("CENTRIFUGO_A_B", "x"),
            ("CENTRIFUGO_C", "true"),
            ("CENTRIFUGO_D_LIST", "p q"),
            ("CENTRIFUGO_NAMES", "[{\"name\": \"n\"}]"),
            ("CENTRIFUGO_VAR_A", "y"),
            ("CENTRIFUGO_OTHER", "z"),
            ("PATH", "/bin"),
        ];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut given =
            Given::new(json!({"a": {"b": "file", "e": "file"}})).expect("a table").over_by(set.into());
        assert_eq!(given.peek("a.b"), Some("x"));
        assert_eq!(given.text("a.b"), Ok(Some("x".to_owned())));
        assert_eq!(given.text("a.e"), Ok(Some("file".to_owned())));
        assert_eq!(given.switch("c"), Ok(true));
        assert_eq!(given.texts("d.list"), Ok(vec!["p".to_owned(), "q".to_owned()]));
        assert_eq!(given.tables("names").expect("tables").remove(0).0, "n");
        assert_eq!(given.left().collect::<Vec<_>>(), ["CENTRIFUGO_OTHER"]);
    }

    #[test]
    fn a_key_is_taken_once_and_of_the_others_those_are_left_that_say_something() {
        let mut given = Given::new(json!({
            "a": {"b": "x", "c": 0, "d": false, "e": {"f": [1]}},
            "list": [{"name": "one", "on": "true", "off": true}, {"on": false}],
        }))
        .expect("a table");
        assert_eq!(given.text("a.b"), Ok(Some("x".to_owned())));
        assert_eq!(given.text("a.b"), Ok(None));
        let mut tables = given.tables("list").expect("tables");
        assert_eq!(tables.len(), 2);
        let (name, first) = &mut tables[0];
        assert_eq!((name.as_str(), first.switch("on")), ("one", Ok(true)));
        assert!(given.has("a.e") && !given.has("a.d") && !given.has("a.b"));
        assert_eq!(tables.remove(0).1.left().collect::<Vec<_>>(), ["list[one].off"]);
        assert_eq!(tables.remove(0).0, "");
        assert_eq!(given.left().collect::<Vec<_>>(), ["a.e.f"]);
    }

    #[test]
    fn a_value_of_another_type_is_an_error_that_does_not_show_it() {
        let mut given =
            Given::new(json!({"key": {"a": ["hunter2"]}, "n": "hunter2", "l": [7]})).expect("a table");
        for wrong in
            [given.text("key.a").map(|_| ()), given.number("n").map(|_| ()), given.texts("l").map(|_| ())]
        {
            let wrong = wrong.expect_err("of another type");
            assert!(wrong.contains(": expected ") && !wrong.contains("hunter2"), "{wrong}");
        }
        assert!(Given::new(json!([])).is_err());
    }
}

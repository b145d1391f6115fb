//! JSON Schema of what is declared.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Number, Value, json};

/// A type with a schema.
pub(crate) trait Described {
    /// The schema of its values, which refers to `types`.
    fn schema(types: &mut Types) -> Value;
}

/// The attributes of an item, as written.
type Attributes<'a> = &'a [&'a str];
/// Name, attributes and schema of a field.
type Field<'a> = (&'a str, Attributes<'a>, fn(&mut Types) -> Value);

/// The types that schemas refer to, in the order in which they were met.
#[derive(Default)]
pub(crate) struct Types(pub(crate) Vec<Type>);

/// A structure.
pub(crate) struct Type {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Fields in their order, each with its schema.
    pub(crate) fields: Vec<(String, Value)>,
}

impl Types {
    /// The reference to a structure, which is noted if it is new.
    pub(crate) fn object(&mut self, name: &str, about: Attributes<'_>, fields: &[Field<'_>]) -> Value {
        let reference = json!({ "$ref": format!("#/$defs/{name}") });
        if self.0.iter().all(|known| known.name != name) {
            self.0.push(Type { name: name.to_owned(), about: doc(about), fields: Vec::new() });
            let found: Vec<_> = fields.iter().flat_map(|field| self.field(field)).collect();
            self.named(name).fields = found;
        }
        reference
    }

    /// A field as it is written; several if it is flattened.
    fn field(&mut self, (name, attributes, schema): &Field<'_>) -> Vec<(String, Value)> {
        let has = |word: &str| attributes.iter().any(|attribute| attribute.contains(word));
        let known = self.0.len();
        let mut schema = schema(self);
        if has("flatten") {
            let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()).expect("a structure");
            let fields = self.named(name).fields.clone();
            self.0.truncate(known);
            return fields;
        }
        if has("null_for_none") {
            schema = nullable(schema);
        }
        schema["description"] = doc(attributes).into();
        let renamed =
            attributes.iter().find_map(|attribute| attribute.split_once("rename = \"")?.1.split('"').next());
        vec![(renamed.unwrap_or(name).to_owned(), schema)]
    }

    fn named(&mut self, name: &str) -> &mut Type {
        self.0.iter_mut().find(|known| known.name == name).expect("it was noted")
    }

    /// The definitions.
    pub(crate) fn definitions(&self) -> Map<String, Value> {
        let definition = |found: &Type| {
            let names: Vec<&str> = found.fields.iter().map(|(name, _)| name.as_str()).collect();
            let fields: Map<String, Value> = found.fields.iter().cloned().collect();
            let schema = json!({ "type": "object", "description": found.about, "properties": fields, "required": names });
            (found.name.clone(), schema)
        };
        self.0.iter().map(definition).collect()
    }
}

/// The documentation among attributes, in one line and without links.
fn doc(attributes: Attributes<'_>) -> String {
    let line = |attribute: &&str| {
        let text =
            attribute.strip_prefix("doc =")?.trim().trim_start_matches(['r', '#']).trim_end_matches('#');
        Some(text.trim_matches('"').replace("\\\"", "\""))
    };
    let text = attributes.iter().filter_map(line).collect::<String>();
    let mut plain = String::new();
    for part in text.split('[') {
        match part.split_once("](") {
            // A link of the documentation of the source.
            Some((label, rest)) => {
                plain += &(label.to_owned() + rest.split_once(')').map_or("", |(_, rest)| rest))
            }
            None => plain += part,
        }
    }
    plain.replace("`]", "`").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn nullable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

/// Types of JSON.
macro_rules! simple {
    ($($word:literal: $($Type:ty),+;)+) => {
        $($(impl Described for $Type {
            fn schema(_: &mut Types) -> Value {
                json!({ "type": $word })
            }
        })+)+
    };
}

simple! {
    "boolean": bool;
    "integer": u32, u64, usize, i64;
    "number": f64, Number, Duration;
    "string": String;
}

impl<T: Described> Described for Option<T> {
    fn schema(types: &mut Types) -> Value {
        nullable(T::schema(types))
    }
}

impl<T: Described> Described for Vec<T> {
    fn schema(types: &mut Types) -> Value {
        json!({ "type": "array", "items": T::schema(types) })
    }
}

impl<T: Described, const N: usize> Described for [T; N] {
    fn schema(types: &mut Types) -> Value {
        json!({ "type": "array", "items": T::schema(types), "minItems": N, "maxItems": N })
    }
}

impl<T: Described> Described for BTreeMap<String, T> {
    fn schema(types: &mut Types) -> Value {
        json!({ "type": "object", "additionalProperties": T::schema(types) })
    }
}

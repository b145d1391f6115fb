//! Deserializes the parameters of a path and of a query: values are texts, which are parsed as the types that they are for.
//!
//! Errors name the parameter and never repeat its value, which is the peer's.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use echoring_proto::url::percent_decode;

/// Why parameters are refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ValueError {
    /// The name of the parameter, once known.
    name: Option<String>,
    problem: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The type does not accept the value.
    Malformed,
    /// There is no parameter for a field.
    Missing,
    /// The type and the route do not fit, for any request.
    Mistake,
}

impl ValueError {
    fn new(problem: impl Into<String>) -> ValueError {
        ValueError { name: None, problem: problem.into(), kind: Kind::Malformed }
    }

    fn mistake(problem: impl Into<String>) -> ValueError {
        ValueError { kind: Kind::Mistake, ..ValueError::new(problem) }
    }

    fn of(self, name: &str) -> ValueError {
        ValueError { name: Some(self.name.unwrap_or_else(|| name.to_owned())), ..self }
    }

    pub(super) fn is_mistake_of_program(&self) -> bool {
        self.kind == Kind::Mistake
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            // A map has the names of the peer.
            write!(f, "{:?}: ", name.chars().take(64).collect::<String>())?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ValueError {}

impl de::Error for ValueError {
    fn custom<T: fmt::Display>(message: T) -> ValueError {
        ValueError::new(message.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> ValueError {
        ValueError::new(format!("not {expected}"))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> ValueError {
        ValueError::new(format!("not {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> ValueError {
        ValueError::new(format!("not one of {}", expected.join(", ")))
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> ValueError {
        ValueError::new(format!("unknown; known here: {}", expected.join(", "))).of(name)
    }

    fn missing_field(name: &'static str) -> ValueError {
        ValueError { kind: Kind::Missing, ..ValueError::new("missing").of(name) }
    }

    fn duplicate_field(name: &'static str) -> ValueError {
        ValueError::new("given more than once").of(name)
    }
}

/// A value, or why a parameter does not have it.
type Result<T> = std::result::Result<T, ValueError>;

/// Parameters by name, each with its values.
type Parameters<'a> = Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>;

/// Deserializes the parameters of a path.
pub(super) fn from_path<T: DeserializeOwned>(params: Vec<(&str, Option<String>)>) -> Result<T> {
    let mut parameters: Parameters<'_> = Vec::with_capacity(params.len());
    for (name, value) in params {
        let value = value.ok_or_else(|| ValueError::new("not percent-encoded UTF-8").of(name))?;
        parameters.push((name.into(), vec![value.into()]));
    }
    T::deserialize(PathDeserializer(&parameters)).map_err(|error| match (error.kind, &parameters[..]) {
        // A field that is no parameter of the pattern is missing in each request.
        (Kind::Missing, _) => ValueError { kind: Kind::Mistake, ..error },
        (Kind::Malformed, [(name, _)]) => error.of(name),
        (Kind::Malformed | Kind::Mistake, _) => error,
    })
}

/// Deserializes the parameters of a query.
pub(super) fn from_query<T: DeserializeOwned>(query: &str) -> Result<T> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = || ValueError::new("not percent-encoded UTF-8").of(name);
        pairs.push((form_decode(name).ok_or_else(wrong)?, form_decode(value).ok_or_else(wrong)?));
    }
    // Stable, so the values of a name keep their order. A search for each name would take quadratic time in what a peer sends.
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut parameters: Parameters<'_> = Vec::new();
    for (name, value) in pairs {
        match parameters.last_mut().filter(|(last, _)| *last == name) {
            Some((_, values)) => values.push(value),
            None => parameters.push((name, vec![value])),
        }
    }
    T::deserialize(QueryDeserializer(&parameters))
}

/// Decodes a name or a value (WHATWG URL, 5.1); `None` if it is not UTF-8 or a `%` is not followed by two digits.
fn form_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    percent_decode(&text.replace('+', " ")).map(Cow::Owned)
}

/// All parameters of a path.
#[derive(Clone, Copy)]
struct PathDeserializer<'de>(&'de Parameters<'de>);

impl<'de> PathDeserializer<'de> {
    /// The only parameter.
    fn single(self) -> Result<ValueDeserializer<'de>> {
        match &self.0[..] {
            [(name, values)] => Ok(ValueDeserializer { name, values }),
            all => Err(ValueError::mistake(format!(
                "the type has 1 parameter, but the pattern has {}",
                all.len()
            ))),
        }
    }

    fn in_order<V: Visitor<'de>>(self, wanted: Option<usize>, visitor: V) -> Result<V::Value> {
        if wanted.is_some_and(|wanted| wanted != self.0.len()) {
            let count = self.0.len();
            return Err(ValueError::mistake(format!(
                "the type has {} parameters, but the pattern has {count}",
                wanted.unwrap_or(count)
            )));
        }
        visitor.visit_seq(InOrder(self.0.iter().map(|(name, values)| ValueDeserializer { name, values })))
    }
}

/// Passes a single value to the deserializer of that value.
macro_rules! forward_to_single {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.single()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for PathDeserializer<'de> {
    type Error = ValueError;

    forward_to_single! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.len() {
            1 => self.single()?.deserialize_any(visitor),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.in_order(None, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.in_order(Some(len), visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.in_order(Some(len), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_map(ByName::new(self.0))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.single()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }
}

/// All parameters of a query, by name.
struct QueryDeserializer<'de>(&'de Parameters<'de>);

impl<'de> Deserializer<'de> for QueryDeserializer<'de> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_map(ByName::new(self.0))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(ValueError::mistake("the type for query parameters must be a struct or a map"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit_struct tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Parameters as the entries of a map.
struct ByName<'de> {
    rest: std::slice::Iter<'de, (Cow<'de, str>, Vec<Cow<'de, str>>)>,
    value: Option<ValueDeserializer<'de>>,
}

impl<'de> ByName<'de> {
    fn new(parameters: &'de Parameters<'de>) -> ByName<'de> {
        ByName { rest: parameters.iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for ByName<'de> {
    type Error = ValueError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((name, values)) = self.rest.next() else { return Ok(None) };
        self.value = Some(ValueDeserializer { name, values });
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let value = self.value.take().ok_or_else(|| ValueError::mistake("a value without its name"))?;
        seed.deserialize(value).map_err(|error| error.of(value.name))
    }
}

/// Values in order.
struct InOrder<I>(I);

impl<'de, I: Iterator<Item = ValueDeserializer<'de>>> SeqAccess<'de> for InOrder<I> {
    type Error = ValueError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(value) = self.0.next() else { return Ok(None) };
        seed.deserialize(value).map(Some).map_err(|error| error.of(value.name))
    }
}

/// The values of one parameter; usually one.
#[derive(Clone, Copy)]
struct ValueDeserializer<'de> {
    name: &'de str,
    values: &'de [Cow<'de, str>],
}

impl<'de> ValueDeserializer<'de> {
    fn text(self) -> Result<&'de str> {
        match self.values {
            [value] => Ok(value),
            _ => Err(ValueError::new("given more than once").of(self.name)),
        }
    }
}

/// Parses the value as the type that is asked for.
macro_rules! parse_value {
    ($($method:ident $visit:ident $type:ty,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            let wrong = |error: <$type as std::str::FromStr>::Err| ValueError::new(error.to_string()).of(self.name);
            visitor.$visit(self.text()?.parse::<$type>().map_err(wrong)?)
        })*
    };
}

impl<'de> Deserializer<'de> for ValueDeserializer<'de> {
    type Error = ValueError;

    parse_value! {
        deserialize_bool visit_bool bool,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
        deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64,
        deserialize_char visit_char char,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.text()?.as_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let ValueDeserializer { name, values } = self;
        visitor.visit_seq(InOrder(values.chunks(1).map(|values| ValueDeserializer { name, values })))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let name: StrDeserializer<'de, ValueError> = self.text()?.into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        str string unit unit_struct tuple tuple_struct map struct identifier
    }
}

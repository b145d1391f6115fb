//! Parser for `Sec-WebSocket-Extensions` (RFC 6455, 9.1).
//!
//! Never: the meaning of an extension, or allocation.

#![forbid(unsafe_code)]

/// One element of the list: an extension and its parameters, all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    /// The registered name.
    pub name: &'a [u8],
    /// The text from the first `;` to the end of the element. Its syntax is valid.
    parameters: &'a [u8],
}

/// An element with invalid syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The elements of one header value, in order. Empty elements are skipped (RFC 9110, 5.6.1). After a malformed
/// element, parsing continues at the next comma outside quotes.
pub(super) fn extensions<'a>(value: &'a [u8]) -> impl Iterator<Item = Result<Extension<'a>, Malformed>> {
    let mut scanner = Scanner { rest: value };
    std::iter::from_fn(move || {
        scanner.skip(b" \t,");
        (!scanner.rest.is_empty()).then(|| {
            let start = scanner.rest;
            let element = scanner.extension();
            if element.is_err() {
                scanner.rest = start;
                scanner.skip_element();
            }
            element
        })
    })
}

/// The name of a parameter, and its value if there is an `=`.
pub type Parameter<'a> = (&'a [u8], Option<Value<'a>>);

impl<'a> Extension<'a> {
    /// The parameters, in order.
    pub fn parameters(self) -> impl Iterator<Item = Parameter<'a>> {
        let mut scanner = Scanner { rest: self.parameters };
        std::iter::from_fn(move || scanner.parameter().ok().flatten())
    }
}

/// The value of a parameter: a token, or the content of a quoted string that is a token after unescaping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The bytes of the token. A token has no backslash, so every backslash escapes the next byte (RFC 9110, 5.6.4).
    pub fn bytes(self) -> impl Iterator<Item = u8> + Clone + 'a {
        let mut rest = self.0.iter();
        std::iter::from_fn(move || match rest.next() {
            Some(b'\\') => rest.next().copied(),
            other => other.copied(),
        })
    }
}

/// Consumes a header value from the front.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// `token *( ";" parameter )`, up to the comma or the end.
    fn extension(&mut self) -> Result<Extension<'a>, Malformed> {
        let name = self.token()?;
        self.skip(b" \t");
        let parameters = self.rest;
        while self.parameter()?.is_some() {}
        match self.rest.first() {
            None | Some(b',') => {
                let parameters = &parameters[..parameters.len() - self.rest.len()];
                Ok(Extension { name, parameters })
            }
            Some(_) => Err(Malformed),
        }
    }

    /// `";" token [ "=" ( token / quoted-string ) ]`, or `None` when no semicolon follows.
    fn parameter(&mut self) -> Result<Option<Parameter<'a>>, Malformed> {
        if !self.take(b';') {
            return Ok(None);
        }
        self.skip(b" \t");
        let name = self.token()?;
        self.skip(b" \t");
        let mut value = None;
        if self.take(b'=') {
            self.skip(b" \t");
            value = Some(if self.take(b'"') { self.quoted()? } else { Value(self.token()?) });
            self.skip(b" \t");
        }
        Ok(Some((name, value)))
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A quoted string after its opening quote. The unescaped value must be a token (RFC 6455, 9.1).
    fn quoted(&mut self) -> Result<Value<'a>, Malformed> {
        let end = self.closing_quote().ok_or(Malformed)?;
        let value = Value(&self.rest[..end]);
        self.rest = &self.rest[end + 1..];
        let is_token = end > 0 && value.bytes().all(is_token_byte);
        if is_token { Ok(value) } else { Err(Malformed) }
    }

    /// The position of the closing quote.
    fn closing_quote(&self) -> Option<usize> {
        let mut quoted_pair = false;
        self.rest.iter().position(|&byte| {
            let closes = byte == b'"' && !quoted_pair;
            quoted_pair = byte == b'\\' && !quoted_pair;
            closes
        })
    }

    /// Skips to the next comma outside quotes, or to the end.
    fn skip_element(&mut self) {
        while let Some((&first, rest)) = self.rest.split_first() {
            match first {
                b',' => return,
                b'"' => {
                    self.rest = rest;
                    let after = self.closing_quote().map_or(self.rest.len(), |end| end + 1);
                    self.rest = &self.rest[after..];
                }
                _ => self.rest = rest,
            }
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.rest.first() == Some(&byte);
        if taken {
            self.rest = &self.rest[1..];
        }
        taken
    }

    fn skip(&mut self, bytes: &[u8]) {
        let end = self.rest.iter().position(|byte| !bytes.contains(byte)).unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }
}

/// A character of a token (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parsed list as text: `name;parameter=value`, and `?` for malformed elements.
    fn parse(value: &str) -> Vec<String> {
        let show = |extension: Extension<'_>| {
            let mut text = String::from_utf8_lossy(extension.name).into_owned();
            for (name, value) in extension.parameters() {
                text += ";";
                text += &String::from_utf8_lossy(name);
                if let Some(value) = value {
                    text += "=";
                    text.extend(value.bytes().map(char::from));
                }
            }
            text
        };
        extensions(value.as_bytes()).map(|element| element.map_or_else(|_| "?".into(), show)).collect()
    }

    #[test]
    fn lists_of_extensions_are_parsed_as_the_grammar_says() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            (" , ,\t, ", &[]),
            ("a", &["a"]),
            ("a,b , c", &["a", "b", "c"]),
            ("a;b", &["a;b"]),
            ("a ; b\t;c = 1 , d", &["a;b;c=1", "d"]),
            ("a;b=\"c\"", &["a;b=c"]),
            ("a;b=\"\\1\\0\"", &["a;b=10"]),
            ("a;b=10;b=11", &["a;b=10;b=11"]),
        ];
        for (value, expected) in table {
            assert_eq!(parse(value), *expected, "{value}");
        }
    }

    #[test]
    fn a_malformed_element_does_not_affect_the_others() {
        let table: &[(&str, &[&str])] = &[
            (";a", &["?"]),
            ("a;", &["?"]),
            ("a;;b", &["?"]),
            ("a;=1", &["?"]),
            ("a;b=", &["?"]),
            ("a;b= ,c", &["?", "c"]),
            ("a b", &["?"]),
            ("a;b c", &["?"]),
            ("a/b, c", &["?", "c"]),
            ("\"a\", c", &["?", "c"]),
            ("a;b=\"\", c", &["?", "c"]),
            ("a;b=\"1 0\", c", &["?", "c"]),
            ("a;b=\"1,0\", c", &["?", "c"]),
            ("a;b=\"1\\\",0\", c", &["?", "c"]),
            ("a;b=\"1, c", &["?"]),
            ("a;b=\"1\\\", c", &["?"]),
            ("a;b=\"1\"2, c", &["?", "c"]),
            ("a;b x=\"1,0\", c", &["?", "c"]),
            ("a=1, c;d=\"e\"", &["?", "c;d=e"]),
            ("\u{e4}, c", &["?", "c"]),
        ];
        for (value, expected) in table {
            assert_eq!(parse(value), *expected, "{value}");
        }
    }
}

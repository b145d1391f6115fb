//! The grammar of `Sec-WebSocket-Extensions` (RFC 6455, 9.1).
//!
//! Never: knowing an extension by name, or allocating.

#![forbid(unsafe_code)]

/// One element of the list: an extension and its parameters, all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    /// Its registered name.
    pub name: &'a [u8],
    /// From the first `;` to the element's end; known to keep the grammar.
    parameters: &'a [u8],
}

/// An element that does not keep the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The elements of one header value, in order; empty ones are skipped (RFC 9110, 5.6.1). Behind a malformed
/// one the list goes on at the next comma that no quotes enclose.
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

/// A parameter's name, and its value where there is an `=`.
pub type Parameter<'a> = (&'a [u8], Option<Value<'a>>);

impl<'a> Extension<'a> {
    /// The parameters, in order: names, and values where there is an `=`.
    pub fn parameters(self) -> impl Iterator<Item = Parameter<'a>> {
        let mut scanner = Scanner { rest: self.parameters };
        std::iter::from_fn(move || scanner.parameter().ok().flatten())
    }
}

/// A parameter's value: a token, or what stands between the quotes and is a token once unescaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The token's bytes. A backslash is none of its characters, so each that is met quotes the next byte
    /// (RFC 9110, 5.6.4).
    pub fn bytes(self) -> impl Iterator<Item = u8> + Clone + 'a {
        let mut rest = self.0.iter();
        std::iter::from_fn(move || match rest.next() {
            Some(b'\\') => rest.next().copied(),
            other => other.copied(),
        })
    }
}

/// Reads from the front.
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

    /// `";" token [ "=" ( token / quoted-string ) ]`, or nothing where no semicolon follows.
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

    /// The rest of a quoted string. What it stands for must be a token (RFC 6455, 9.1).
    fn quoted(&mut self) -> Result<Value<'a>, Malformed> {
        let end = self.closing_quote().ok_or(Malformed)?;
        let value = Value(&self.rest[..end]);
        self.rest = &self.rest[end + 1..];
        let is_token = end > 0 && value.bytes().all(is_token_byte);
        if is_token { Ok(value) } else { Err(Malformed) }
    }

    /// Where the quotes that are open here are closed.
    fn closing_quote(&self) -> Option<usize> {
        let mut quoted_pair = false;
        self.rest.iter().position(|&byte| {
            let closes = byte == b'"' && !quoted_pair;
            quoted_pair = byte == b'\\' && !quoted_pair;
            closes
        })
    }

    /// Goes on to the next comma outside quotes, or to the end.
    fn skip_element(&mut self) {
        while let Some((&first, rest)) = self.rest.split_first() {
            match first {
                b',' => return,
                b'"' => {
                    self.rest = rest;
                    let behind = self.closing_quote().map_or(self.rest.len(), |end| end + 1);
                    self.rest = &self.rest[behind..];
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

    /// The list written out plainly: `name;parameter=value`, `?` for malformed elements.
    fn read(value: &str) -> Vec<String> {
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
    fn lists_of_extensions_are_read_as_the_grammar_says() {
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
            assert_eq!(read(value), *expected, "{value}");
        }
    }

    #[test]
    fn a_malformed_element_takes_no_other_with_it() {
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
            assert_eq!(read(value), *expected, "{value}");
        }
    }
}

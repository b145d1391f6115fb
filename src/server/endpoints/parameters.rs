//! The query parameters of test endpoints. Each has bounds, and an invalid one is answered with the reason.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::limits::SHOWN_PARAMETER_BYTES_MAX;
use crate::routes::response::Response;
use echoring_proto::connection::MessageKind;
use echoring_proto::handshake::{Request, percent_decode_path};

/// The parameters of a request. All names are known and unique.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    request: &'a Request<'a>,
}

impl<'a> Parameters<'a> {
    /// # Errors
    /// 400 for a parameter that is not in `known` or appears twice.
    pub(super) fn of(request: &'a Request<'a>, known: &[&str]) -> Result<Parameters<'a>, Response> {
        let mut seen: Vec<&str> = Vec::new();
        for pair in request.query.split('&').filter(|pair| !pair.is_empty()) {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            if !known.contains(&name) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(wrong(name, &format!("unknown parameter; known here: {known}")));
            }
            if seen.contains(&name) {
                return Err(wrong(name, "given twice"));
            }
            seen.push(name);
        }
        Ok(Parameters { request })
    }

    /// A whole number within `bounds`; `default` if it is missing.
    ///
    /// # Errors
    /// 400.
    pub(super) fn number(
        &self,
        name: &str,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> Result<u64, Response> {
        Ok(self.optional_number(name, bounds)?.unwrap_or(default))
    }

    /// A whole number within `bounds`; `None` if it is missing.
    ///
    /// # Errors
    /// 400.
    pub(super) fn optional_number(
        &self,
        name: &str,
        bounds: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Response> {
        let Some(text) = self.request.query_value(name) else { return Ok(None) };
        let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
        match u64::from_str(text) {
            Ok(number) if digits_only && bounds.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                Err(not(name, &format!("must be a whole number from {least} to {most}"), text))
            }
        }
    }

    /// One of `choices` by its name; the first one by default.
    ///
    /// # Errors
    /// 400.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, Response> {
        let Some(text) = self.request.query_value(name) else { return Ok(choices[0].1) };
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            not(name, &format!("must be one of {}", words.join(", ")), text)
        })
    }

    /// A message kind.
    ///
    /// # Errors
    /// 400.
    pub(super) fn kind(&self, name: &str) -> Result<MessageKind, Response> {
        self.choice(name, &[("text", MessageKind::Text), ("binary", MessageKind::Binary)])
    }

    /// Percent-encoded UTF-8 of at most `bytes_max` decoded bytes; empty if it is missing.
    ///
    /// # Errors
    /// 400.
    pub(super) fn text(&self, name: &str, bytes_max: usize) -> Result<String, Response> {
        let Some(text) = self.request.query_value(name) else { return Ok(String::new()) };
        percent_decode_path(text).filter(|decoded| decoded.len() <= bytes_max).ok_or_else(|| {
            not(name, &format!("must be percent-encoded UTF-8 of at most {bytes_max} bytes"), text)
        })
    }
}

/// 400: a parameter has an invalid value.
pub(super) fn not(name: &str, rule: &str, value: &str) -> Response {
    wrong(name, &format!("{rule}, and not \"{}\"", shown(value)))
}

/// 400: a parameter is invalid.
pub(super) fn wrong(name: &str, what: &str) -> Response {
    Response::text(400, format!("{}: {what}\n", shown(name)))
}

/// A peer's text in one short line, for a response.
fn shown(text: &str) -> String {
    let mut end = text.len().min(SHOWN_PARAMETER_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::handshake::with_request;

    fn with<R>(query: &str, look: impl FnOnce(&Request<'_>) -> R) -> R {
        let head = format!("GET /x?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        with_request(head.as_bytes(), |request, _| look(request)).unwrap().unwrap()
    }

    fn number(query: &str) -> Result<u64, String> {
        with(query, |request| {
            let parameters = Parameters::of(request, &["n", "m"])?;
            parameters.number("n", 7, 1..=10)
        })
        .map_err(|response| {
            assert_eq!(response.status(), 400);
            String::from_utf8(response.body().to_vec()).unwrap()
        })
    }

    #[test]
    fn numbers_have_bounds_and_a_default() {
        assert_eq!((number(""), number("n=1"), number("m=x&n=10")), (Ok(7), Ok(1), Ok(10)));
        for query in ["n=0", "n=11", "n=", "n", "n=-1", "n=%2b1", "n=+1", "n=1.5", "n=99999999999999999999"] {
            let said = number(query).unwrap_err();
            assert!(said.starts_with("n: must be a whole number from 1 to 10, and not \""), "{said}");
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_told() {
        assert_eq!(number("o=1").unwrap_err(), "o: unknown parameter; known here: n, m\n");
        assert_eq!(number("n=1&n=1").unwrap_err(), "n: given twice\n");
        let long = number(&format!("{}=1", "o".repeat(1000))).unwrap_err();
        assert!(long.len() < 2 * SHOWN_PARAMETER_BYTES_MAX);
    }

    #[test]
    fn texts_are_decoded_and_bounded() {
        let text =
            |query: &str| with(query, |request| Parameters::of(request, &["t"]).unwrap().text("t", 4).ok());
        assert_eq!(text("t=a%20b").as_deref(), Some("a b"));
        assert_eq!((text("t=%ff"), text("t=abcde"), text("t=%2")), (None, None, None));
    }
}

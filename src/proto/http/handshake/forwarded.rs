//! The client of a proxied request, by `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy appends the address that it was reached from, so only the end of the list is written by proxies that are
//! trusted. The client is the rightmost address that belongs to no trusted proxy; those to the left of it may be
//! forged.

use std::net::{IpAddr, SocketAddr};

use super::request::Request;
use super::{Refusal, is_token, list};

/// The client of a request that arrived from `proxy`, which is trusted. A port is 0 unless the field has it.
///
/// # Errors
/// [`Refusal::FORWARDED`] if `Forwarded` violates RFC 7239, so that its end is unknown, or if the two fields name
/// different clients: a proxy writes one of them, and anybody may have written the other.
pub fn forwarded_client(
    request: &Request<'_>,
    proxy: SocketAddr,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<SocketAddr, Refusal> {
    let mut standard = Walk::new(&is_trusted);
    let mut seen = (false, false);
    for value in request.values("forwarded") {
        seen.0 = true;
        let value = std::str::from_utf8(value).map_err(|_| Refusal::FORWARDED)?;
        Elements { rest: value }.read_into(&mut standard).ok_or(Refusal::FORWARDED)?;
    }
    let mut usual = Walk::new(&is_trusted);
    for value in request.values("x-forwarded-for") {
        seen.1 = true;
        // Empty elements are ignored (RFC 9110, 5.6.1.2).
        for word in list(value) {
            usual.pass(std::str::from_utf8(word).ok().and_then(node));
        }
    }
    let (standard, usual) = (standard.client.unwrap_or(proxy), usual.client.unwrap_or(proxy));
    match seen {
        (true, true) if standard.ip() != usual.ip() => Err(Refusal::FORWARDED),
        (true, _) => Ok(standard),
        (false, true) => Ok(usual),
        (false, false) => Ok(proxy),
    }
}

/// A walk over the addresses of a list, from the left. The result equals that of a walk from the right, if all
/// following addresses were trusted proxies.
struct Walk<'a, F> {
    is_trusted: &'a F,
    client: Option<SocketAddr>,
}

impl<'a, F: Fn(IpAddr) -> bool> Walk<'a, F> {
    fn new(is_trusted: &'a F) -> Walk<'a, F> {
        Walk { is_trusted, client: None }
    }

    /// The next address; `None` for a hidden or unreadable one, behind which nothing is known.
    fn pass(&mut self, address: Option<SocketAddr>) {
        let is_proxy = address.is_some_and(|address| (self.is_trusted)(address.ip()));
        self.client = if is_proxy { self.client.or(address) } else { address };
    }
}

/// An address with or without a port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::9`, `[2001:db8::9]`, `[2001:db8::9]:80`.
fn node(word: &str) -> Option<SocketAddr> {
    let inner = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = inner.unwrap_or(word).parse::<IpAddr>();
    let canonical = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    match address {
        Ok(IpAddr::V4(_)) if inner.is_some() => None,
        Ok(address) => Some(canonical(address, 0)),
        Err(_) => word.parse::<SocketAddr>().ok().map(|address| canonical(address.ip(), address.port())),
    }
}

/// The elements of a `Forwarded` value (RFC 7239, 4): `for=a;proto=b, for=c`.
struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Elements<'a> {
    /// Passes the `for` of each element to `walk`. `None` for a violation of the syntax.
    fn read_into<F: Fn(IpAddr) -> bool>(mut self, walk: &mut Walk<'_, F>) -> Option<()> {
        loop {
            self.skip_space();
            // Empty elements are ignored (RFC 9110, 5.6.1.2).
            if !self.rest.starts_with(',') && !self.rest.is_empty() {
                let address = self.element()?;
                walk.pass(address);
            }
            if self.rest.is_empty() {
                return Some(());
            }
            self.rest = self.rest.strip_prefix(',')?;
        }
    }

    /// One element. `Some(None)` without an address that can be read.
    fn element(&mut self) -> Option<Option<SocketAddr>> {
        let mut address = None;
        loop {
            self.skip_space();
            if !self.rest.starts_with([';', ',']) && !self.rest.is_empty() {
                let (name, value) = self.pair()?;
                if name.eq_ignore_ascii_case("for") {
                    address = node(&value);
                }
                self.skip_space();
            }
            match self.rest.strip_prefix(';') {
                Some(rest) => self.rest = rest,
                None => return Some(address),
            }
        }
    }

    fn pair(&mut self) -> Option<(String, String)> {
        let (name, rest) = self.rest.split_once('=')?;
        if !is_token(name.as_bytes()) {
            return None;
        }
        self.rest = rest;
        let value = match self.rest.strip_prefix('"') {
            Some(rest) => self.quoted(rest)?,
            None => self.unquoted()?,
        };
        Some((name.to_owned(), value))
    }

    fn unquoted(&mut self) -> Option<String> {
        let end = self.rest.find([';', ',', ' ', '\t']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        // Addresses of IPv4 with a port are common without the quotation marks that they need.
        let is_word = !word.is_empty() && !word.contains(['"', '\\', '=']);
        is_word.then(|| word.to_owned())
    }

    /// The rest of a quoted string (RFC 9110, 5.6.4).
    fn quoted(&mut self, rest: &'a str) -> Option<String> {
        let (mut value, mut characters) = (String::new(), rest.char_indices());
        loop {
            match characters.next()? {
                (at, '"') => {
                    self.rest = rest.get(at + 1..)?;
                    return Some(value);
                }
                (_, '\\') => value.push(characters.next()?.1),
                (_, character) => value.push(character),
            }
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::with_request;
    use crate::random::SplitMix64;

    const PROXY: &str = "10.0.0.1:7";

    /// The client of a request with these fields, where 10.0.0.0/8 is trusted.
    fn client(fields: &[&str]) -> Result<String, u16> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fields.join("\r\n"));
        let head = head.replace("\r\n\r\n\r\n", "\r\n\r\n");
        let trusted = |address: IpAddr| matches!(address, IpAddr::V4(ip) if ip.octets()[0] == 10);
        let proxy = PROXY.parse().expect("an address");
        let found = with_request(head.as_bytes(), |request, _| forwarded_client(request, proxy, trusted));
        let found = found.expect("a request").expect("complete");
        found.map(|address| address.to_string()).map_err(|refusal| refusal.status)
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_no_trusted_proxy_has() {
        for (fields, expected) in [
            (&[][..], Ok(PROXY)),
            (&["X-Forwarded-For: 192.0.2.7"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: 198.51.100.1, 192.0.2.7"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: 198.51.100.1, 192.0.2.7, 10.1.1.1"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: 10.9.9.9 ,10.1.1.1"], Ok("10.9.9.9:0")),
            (&["X-Forwarded-For: 198.51.100.1", "x-forwarded-for: 192.0.2.7"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: 192.0.2.7:81"], Ok("192.0.2.7:81")),
            (&["X-Forwarded-For: 2001:db8::9"], Ok("[2001:db8::9]:0")),
            (&["X-Forwarded-For: [2001:db8::9]:81"], Ok("[2001:db8::9]:81")),
            (&["X-Forwarded-For: ::ffff:192.0.2.7"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: ::ffff:10.0.0.2"], Ok("10.0.0.2:0")),
            (&["X-Forwarded-For: 198.51.100.1, unknown"], Ok(PROXY)),
            (&["X-Forwarded-For: 198.51.100.1, unknown, 10.1.1.1"], Ok("10.1.1.1:0")),
            (&["X-Forwarded-For: <script>, 192.0.2.7"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For:"], Ok(PROXY)),
            (&["X-Forwarded-For: 192.0.2.7,"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: 192.0.2.7 , ,, 10.1.1.1 ,"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: 192.0.2.7", "X-Forwarded-For:"], Ok("192.0.2.7:0")),
            (&["X-Forwarded-For: , ,"], Ok(PROXY)),
            (&["Forwarded: for=192.0.2.7,"], Ok("192.0.2.7:0")),
            (&["Forwarded: for=192.0.2.7 , ,, for=10.1.1.1 ,"], Ok("192.0.2.7:0")),
            (&["Forwarded: for=192.0.2.7", "Forwarded:"], Ok("192.0.2.7:0")),
            (&["Forwarded: for=192.0.2.7, ;"], Ok(PROXY)),
            (&["Forwarded: for=192.0.2.7, proto=http"], Ok(PROXY)),
            (&["Forwarded: for=192.0.2.7"], Ok("192.0.2.7:0")),
            (&["Forwarded: for=198.51.100.1, For=192.0.2.7;proto=https;by=10.0.0.1"], Ok("192.0.2.7:0")),
            (&["Forwarded: proto=https; for=\"[2001:db8::9]:4711\""], Ok("[2001:db8::9]:4711")),
            (&["Forwarded: for=\"_hidden\", for=10.1.1.1"], Ok("10.1.1.1:0")),
            (&["Forwarded: for=198.51.100.1, for=unknown"], Ok(PROXY)),
            (&["Forwarded: for=198.51.100.1", "Forwarded: for=192.0.2.7"], Ok("192.0.2.7:0")),
            (&["Forwarded: host=\"a, for=198.51.100.1\", for=192.0.2.7"], Ok("192.0.2.7:0")),
            (&["Forwarded: for=\"198.51.100.1, for=192.0.2.7"], Err(400)),
            (&["Forwarded: 192.0.2.7"], Err(400)),
            (&["Forwarded: for=a b=c"], Err(400)),
            (&["Forwarded: for=192.0.2.7", "X-Forwarded-For: 192.0.2.7"], Ok("192.0.2.7:0")),
            (&["Forwarded: for=198.51.100.1", "X-Forwarded-For: 192.0.2.7"], Err(400)),
        ] {
            assert_eq!(client(fields), expected.map(str::to_owned), "{fields:?}");
        }
    }

    #[test]
    fn nothing_that_a_client_writes_in_front_changes_what_its_proxy_appends() {
        let mut random = SplitMix64::new(11);
        let pieces =
            ["10.0.0.9", "198.51.100.1", ",", ";", "for=", "\"", "\\", " ", "unknown", "[", "::1", "]", "="];
        for _ in 0..20_000 {
            let written: String = (0..random.below(9)).map(|_| *random.pick(&pieces)).collect();
            let usual = client(&[&format!("X-Forwarded-For: {written}, 192.0.2.7")]);
            assert_eq!(usual.as_deref(), Ok("192.0.2.7:0"), "{written:?}");
            let standard = client(&[&format!("Forwarded: {written}, for=192.0.2.7")]);
            assert!(matches!(standard.as_deref(), Ok("192.0.2.7:0") | Err(400)), "{written:?}: {standard:?}");
        }
    }
}

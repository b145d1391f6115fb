//! Decides which header fields pass and which change (RFC 9110, 7.6; RFC 9112, 9.6).
//!
//! Never: I/O, or the framing fields that hyper writes.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use echoring_proto::handshake;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Header fields that describe the client to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto` and `-Host` describe the connection to the proxy. A client's own fields of these
    /// names, and its `Forwarded`, are removed, because anybody can send them.
    #[default]
    Replace,
    /// They are added to the fields that the client sent, for a proxy behind another proxy.
    Add,
    /// Nothing is added or removed.
    Off,
}

/// The `Host` that an upstream sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostPolicy {
    /// The client's. An upstream that compares it with a page's origin needs this.
    #[default]
    Preserve,
    /// The host of the upstream's URL, for upstreams that distinguish virtual hosts by it.
    Upstream,
}

/// The client of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// The client uses TLS.
    pub(crate) secure: bool,
}

/// Whether `request` asks for a WebSocket (RFC 6455, 4.2.1). The upstream validates the rest of the handshake.
pub(crate) fn is_websocket_upgrade<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(request.headers(), &CONNECTION, "upgrade")
        && lists(request.headers(), &UPGRADE, "websocket")
}

/// Whether a 101 response accepts a WebSocket upgrade.
pub(crate) fn accepts_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &CONNECTION, "upgrade") && lists(headers, &UPGRADE, "websocket")
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut elements = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    elements.any(|element| element.trim().eq_ignore_ascii_case(token))
}

/// The host of a request that may pass, or the reason for its refusal. Upstreams append the path to their own and
/// compare hosts with origins, so both must be well formed.
pub(crate) fn validate_host_and_path<B>(request: &Request<B>) -> Result<HeaderValue, &'static str> {
    const BAD_HOST: &str = "Host header missing, repeated or malformed";
    let mut hosts = request.headers().get_all(HOST).into_iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BAD_HOST);
    }
    // The authority of an absolute target takes precedence over the field (RFC 9112, 3.2.2).
    let host = match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => host.cloned(),
    };
    let is_host = |host: &HeaderValue| host.to_str().is_ok_and(handshake::is_authority);
    let host = host.filter(is_host).ok_or(BAD_HOST)?;
    if has_dot_dot_segment(request.uri().path()) {
        return Err("path contains a `..` segment");
    }
    Ok(host)
}

/// Whether an upstream may read a segment of `path` as `..` (RFC 3986, 5.2.4), percent-encoded or with a parameter.
fn has_dot_dot_segment(path: &str) -> bool {
    let decoded: String = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/")
        .replace("%3b", ";")
        .replace('\\', "/");
    decoded.split('/').any(|segment| segment.split(';').next() == Some(".."))
}

/// Removes the hop-by-hop fields.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let connection = headers.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
    let names: Vec<HeaderName> =
        handshake::hop_by_hop_fields(connection).filter_map(|name| name.parse().ok()).collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether the body has only transfer codings that hyper decodes.
pub(crate) fn has_plain_body(headers: &HeaderMap) -> bool {
    handshake::is_only_chunked(headers.get_all(TRANSFER_ENCODING).into_iter().map(HeaderValue::as_bytes))
}

/// Adds the two fields that request or accept a WebSocket.
pub(crate) fn add_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Sets `Host` and the forwarding fields by the policies. `host` is the host that the client asked for.
pub(crate) fn set_forwarding_fields(
    headers: &mut HeaderMap,
    client: Client,
    host: &HeaderValue,
    upstream_host: &HeaderValue,
    host_policy: HostPolicy,
    forwarded: Forwarded,
) {
    let proto = HeaderValue::from_static(if client.secure { "https" } else { "http" });
    // A dual-stack listener reports IPv4 clients as IPv4-mapped addresses.
    let address = client.address.to_canonical().to_string();
    let close_received: Vec<HeaderName> =
        headers.keys().filter(|name| handshake::identifies_client(name.as_str())).cloned().collect();
    match forwarded {
        Forwarded::Off => {}
        Forwarded::Replace => {
            for name in close_received {
                headers.remove(name);
            }
            set(headers, FOR, &address);
            headers.insert(PROTO, proto);
            headers.insert(FORWARDED_HOST, host.clone());
        }
        Forwarded::Add => {
            // Proxies write these names with hyphens.
            for name in close_received.into_iter().filter(|name| name.as_str().contains('_')) {
                headers.remove(name);
            }
            let before = headers.get_all(FOR).into_iter().filter_map(|value| value.to_str().ok());
            // A sender generates no empty elements (RFC 9110, 5.6.1.1).
            let before =
                before.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty());
            let chain: Vec<&str> = before.chain([address.as_str()]).collect();
            let chain = chain.join(", ");
            set(headers, FOR, &chain);
            // The first proxy knows the client's scheme and host.
            headers.entry(PROTO).or_insert(proto);
            headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
        }
    }
    headers.insert(
        HOST,
        match host_policy {
            HostPolicy::Preserve => host.clone(),
            HostPolicy::Upstream => upstream_host.clone(),
        },
    );
    headers.append(VIA, HeaderValue::from_static(handshake::VIA));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Header values and addresses always form a valid header value.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The permessage-deflate offers in the values of `Sec-WebSocket-Extensions`, as they were sent; `None` if there are
/// none. The proxy does not understand other extensions, and so must not pass them (RFC 6455, 5.4).
pub(crate) fn deflate_offers<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let mut offers: Vec<u8> = Vec::new();
    for element in values.flat_map(elements) {
        let name = element.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        if name == b"permessage-deflate" {
            if !offers.is_empty() {
                offers.extend_from_slice(b", ");
            }
            offers.extend_from_slice(element);
        }
    }
    HeaderValue::from_bytes(&offers).ok().filter(|value| !value.is_empty())
}

/// The elements of a list, split at commas outside quotes (RFC 9110, 5.6.1 and 5.6.4).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(move |&byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' => return !quoted,
                _ => {}
            }
            false
        })
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).into_iter().map(|v| v.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn fields_for_the_next_hop_do_not_pass() {
        let mut fields = headers(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("accept", "*/*"),
            ("content-length", "3"),
        ]);
        remove_hop_by_hop(&mut fields);
        let mut names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "content-length"]);
    }

    #[test]
    fn forwarding_fields_are_replaced_kept_or_extended() {
        let client = Client { address: "::ffff:192.0.2.7".parse().expect("an address"), secure: true };
        let host = HeaderValue::from_static("app.example");
        let upstream = HeaderValue::from_static("127.0.0.1:8002");
        let sent = [
            ("x-forwarded-for", " , 10.0.0.1 ,"),
            ("x-forwarded-for", ""),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "80"),
            ("forwarded", "for=x"),
            ("x-real-ip", "10.0.0.2"),
            ("x_forwarded_for", "10.0.0.3"),
            ("x_real-ip", "10.0.0.4"),
        ];
        let names = |headers: &HeaderMap| {
            let mut names: Vec<String> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort_unstable();
            names
        };
        let close_received = |policy, host_policy| {
            let mut fields = headers(&sent);
            set_forwarding_fields(&mut fields, client, &host, &upstream, host_policy, policy);
            fields
        };
        let replaced = close_received(Forwarded::Replace, HostPolicy::Preserve);
        assert_eq!(values(&replaced, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(values(&replaced, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&replaced, "x-forwarded-host"), ["app.example"]);
        let own = ["host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        assert_eq!(names(&replaced), own);
        assert_eq!(values(&replaced, "host"), ["app.example"]);
        let added = close_received(Forwarded::Add, HostPolicy::Upstream);
        assert_eq!(values(&added, "x-forwarded-for"), ["10.0.0.1, 192.0.2.7"]);
        assert_eq!(values(&added, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&added, "x-forwarded-host"), ["app.example"]);
        assert_eq!(values(&added, "forwarded"), ["for=x"]);
        assert_eq!(values(&added, "x-real-ip"), ["10.0.0.2"]);
        assert!(names(&added).iter().all(|name| !name.contains('_')));
        assert_eq!(values(&added, "host"), ["127.0.0.1:8002"]);
        let off = close_received(Forwarded::Off, HostPolicy::Preserve);
        assert_eq!(values(&off, "x-forwarded-for"), [" , 10.0.0.1 ,", ""]);
        assert_eq!(values(&off, "x-forwarded-host"), [""; 0]);
        assert_eq!(values(&off, "via"), ["1.1 echoring"]);
    }

    #[test]
    fn malformed_hosts_and_paths_are_refused() {
        let validated = |target: &str, hosts: &[&str]| {
            let request =
                hosts.iter().fold(Request::get(target), |request, host| request.header(HOST, *host));
            validate_host_and_path(&request.body(()).expect("a request"))
                .map(|host| host.to_str().expect("text").to_owned())
        };
        for (target, host, expected) in [
            ("/", "app.example", "app.example"),
            ("/a/b?../..", "app.example:8080", "app.example:8080"),
            ("/..a/b../...", "[::1]:80", "[::1]:80"),
            ("http://other.example/x", "app.example", "other.example"),
            ("*", "127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(validated(target, &[host]).as_deref(), Ok(expected), "{target} {host}");
        }
        for host in
            ["", "a b/../@evil", "user@a", "a/..", "a:b", "a:99999", "[::1", "a,b", "a\t", "\u{fc}.example"]
        {
            assert!(validated("/", &[host]).is_err(), "{host}");
        }
        assert!(validated("/", &[]).is_err() && validated("/", &["a", "a"]).is_err());
        assert!(validated("http://user:secret@a/", &["a"]).is_err());
        for path in [
            "/..",
            "/../admin",
            "/a/../../b",
            "/%2e%2E/admin",
            "/.%2e/admin",
            "/a/..%2fb",
            "/..%5cadmin",
            "/..\\admin",
            "/..;x=y/admin",
            "/..%3bx/admin",
            "http://a/../admin",
        ] {
            assert!(validated(path, &["a"]).is_err(), "{path}");
        }
    }

    #[test]
    fn only_a_get_with_both_fields_asks_for_a_websocket() {
        let asks = |method: Method, version, connection: &str, upgrade: &str| {
            let request = Request::builder()
                .method(method)
                .version(version)
                .header(CONNECTION, connection)
                .header(UPGRADE, upgrade)
                .body(())
                .expect("a request");
            is_websocket_upgrade(&request)
        };
        assert!(asks(Method::GET, Version::HTTP_11, "keep-alive, Upgrade", "WebSocket"));
        assert!(asks(Method::GET, Version::HTTP_11, "upgrade", "h2c, websocket"));
        assert!(!asks(Method::POST, Version::HTTP_11, "upgrade", "websocket"));
        assert!(!asks(Method::GET, Version::HTTP_10, "upgrade", "websocket"));
        assert!(!asks(Method::GET, Version::HTTP_11, "close", "websocket"));
        assert!(!asks(Method::GET, Version::HTTP_11, "upgrade", "h2c"));
    }

    #[test]
    fn only_offers_of_permessage_deflate_pass() {
        for (values, offers) in [
            (
                &["permessage-deflate; client_max_window_bits"][..],
                Some("permessage-deflate; client_max_window_bits"),
            ),
            (&["x-webkit-deflate-frame, permessage-deflate"], Some("permessage-deflate")),
            (&["a;b=\"permessage-deflate, permessage-deflate\""], None),
            (
                &["a; b=\"\\\",\"", "permessage-deflate , permessage-deflate;server_max_window_bits=9"],
                Some("permessage-deflate, permessage-deflate;server_max_window_bits=9"),
            ),
            (&["permessage-deflated", ""], None),
            (&[], None),
        ] {
            let found = deflate_offers(values.iter().map(|value| value.as_bytes()));
            assert_eq!(found, offers.map(HeaderValue::from_static), "{values:?}");
        }
    }
}

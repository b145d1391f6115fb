//! Addresses, limits, TLS, tokens, keys and proxies: everything but channels.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::given::Given;
use super::hooks::Proxies;
use super::written::{Line, Written};
use crate::common::values::{origin, shown_time};
use crate::serve::args::DRAIN_TIME;
use crate::serve::options::option;
use crate::serve::toml_text::{list, quoted};
use echoring_auth::limits::{SECRET_BYTES_MIN, TOKEN_BYTES_MIN};
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::PeerLimits;
use echoring_server::ServerConfig;

/// An issuer that no token has (RFC 6761, 6.4), in the place of those that only a regular expression names.
const NO_ISSUER: &str = "https://issuer.invalid";

/// What channels need to know of the rest.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Clients may have credentials, or the application decides who they are.
    pub(super) has_identities: bool,
    /// The services that may be asked.
    pub(super) proxies: Proxies,
}

pub(super) fn translate(given: &mut Given, written: &mut Written) -> Result<Surroundings, String> {
    addresses(given, written)?;
    limits(given, written)?;
    origins(given, written)?;
    let has_keys = tokens(given, written)?;
    let has_anonymous = given.switch("client.allow_anonymous_connect_without_token")?;
    if has_anonymous {
        written.auth.push(("anonymous", "true".to_owned()));
    }
    admin(given, written)?;
    let proxies = Proxies::read(given, written)?;
    let asks_connect = proxies.ask_about_connections(given, written)?;
    proxies.ask_about_stays(given, written, asks_connect)?;
    proxies.ask_about_calls(given, written)?;
    insecure(given, written)?;
    nodes(given)?;
    let has_identities = has_keys || has_anonymous || asks_connect;
    personal_topic(given, written, has_identities)?;
    Ok(Surroundings { has_identities, proxies })
}

/// Where clients connect, and TLS.
fn addresses(given: &mut Given, written: &mut Written) -> Result<(), String> {
    let port = given.number("http_server.port")?.unwrap_or(8_000);
    let port = u16::try_from(port).map_err(|_| "http_server.port: expected a port".to_owned())?;
    let mut address = match given.text("http_server.address")?.as_deref() {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(word) => word.parse().unwrap_or_else(|_| {
            written.leave("http_server.address", "is no address: set `listen` to one");
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        }),
    };
    let certificate = tls(given, written)?;
    if given.switch("http_server.tls_autocert.enabled")? {
        given.forget_below("http_server.tls_autocert");
        written.leave(
            "http_server.tls_autocert",
            "certificates are not fetched here: run an ACME client such as certbot, set `tls_cert` and `tls_key`, and only then \
             `listen` for other machines; files that change are read again",
        );
        if certificate.is_empty() {
            address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        }
    }
    let listen = SocketAddr::new(address, port).to_string();
    written.top.push(("listen", quoted(&listen)));
    written.top.extend(certificate);
    // Pages for trying things out would be one more way in.
    written.top.push(("demo", quoted("off")));
    if let Some(level) = given.text("log.level")? {
        let level = match level.as_str() {
            "none" => "off",
            "fatal" => "error",
            level @ ("trace" | "debug" | "info" | "warn" | "error") => level,
            _ => return Err("log.level: expected a level".to_owned()),
        };
        written.top.push(("log", quoted(level)));
    }
    Ok(())
}

/// The lines for a certificate of the server.
fn tls(given: &mut Given, written: &mut Written) -> Result<Vec<Line>, String> {
    const TABLE: &str = "http_server.tls";
    if !given.switch("http_server.tls.enabled")? {
        given.forget_below(TABLE);
        return Ok(Vec::new());
    }
    let mut lines = Vec::new();
    for (key, here, file) in [
        ("http_server.tls.cert_pem", "tls_cert", "tls-certificate.pem"),
        ("http_server.tls.key_pem", "tls_key", "tls-key.pem"),
        ("http_server.tls.client_ca_pem", "tls_client_ca", "tls-client-ca.pem"),
    ] {
        let Some(value) = given.text(key)? else { continue };
        let path = match pem(&value) {
            Some(text) => written.secret(file, text, key),
            None => quoted(&value),
        };
        lines.push((here, path));
    }
    // Of the client's side.
    given.forget_below(TABLE);
    if !["tls_cert", "tls_key"].iter().all(|key| lines.iter().any(|(line, _)| line == key)) {
        return Err("http_server.tls: expected cert_pem and key_pem".to_owned());
    }
    Ok(lines)
}

/// The text of a PEM file, perhaps in base64; `None` for a path.
fn pem(value: &str) -> Option<String> {
    const BEGIN: &str = "-----BEGIN ";
    if value.contains(BEGIN) {
        return Some(value.to_owned());
    }
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, value).ok()?;
    String::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN))
}

/// Times and bounds, where they are given and possible here.
fn limits(given: &mut Given, written: &mut Written) -> Result<(), String> {
    let range = |name| {
        let of_server = option::<ServerConfig>(name).map(|option| option.field.numbers().range.clone());
        of_server.or_else(|| Some(option::<PeerLimits>(name)?.field.numbers().range.clone()))
    };
    for (key, here) in [
        ("client.ping_interval", "ping_interval"),
        ("client.pong_timeout", "pong_timeout"),
        ("client.stale_close_delay", "handshake_timeout"),
        ("websocket.write_timeout", "send_timeout"),
        ("shutdown.timeout", "drain"),
    ] {
        let Some(time) = given.time(key)? else { continue };
        let range = range(here).unwrap_or(DRAIN_TIME);
        match Nanos::try_from(time).ok().filter(|time| range.contains(time)) {
            Some(time) => written.top.push((here, quoted(&shown_time(time)))),
            None => {
                let [from, to] = [range.start(), range.end()].map(|time| shown_time(*time));
                written.leave(key, format!("`{here}` is from {from} to {to}, and keeps its default"));
            }
        }
    }
    for (key, here) in [
        ("websocket.message_size_limit", "max_message"),
        ("client.queue_max_size", "queue_bytes"),
        ("client.channel_limit", "max_subscriptions"),
        ("client.connection_limit", "max_connections"),
        ("client.connection_rate_limit", "handshake_rate"),
    ] {
        let Some(number) = given.number(key)?.filter(|number| *number != 0) else { continue };
        let Some(range) = range(here) else { continue };
        if u64::try_from(number).is_ok_and(|number| range.contains(&number)) {
            written.top.push((here, number.to_string()));
        } else {
            let (from, to) = (range.start(), range.end());
            written.leave(key, format!("`{here}` is from {from} to {to}, and keeps its default"));
        }
    }
    if given.switch("websocket.compression")? {
        written.top.push(("compress", quoted("on")));
    }
    given.forget(&["websocket.compression_level", "websocket.compression_min_size"]);
    Ok(())
}

/// The sites of pages.
fn origins(given: &mut Given, written: &mut Written) -> Result<(), String> {
    const KEY: &str = "client.allowed_origins";
    let mut allowed = Vec::new();
    for word in given.texts(KEY)? {
        match origin(word.trim_end_matches('/')) {
            Ok(origin) => allowed.push(origin),
            Err(_) => written.leave(
                KEY,
                format!("{word} is not carried over: name each origin in `allow_origin`, such as https://app.example"),
            ),
        }
    }
    if !allowed.is_empty() {
        written.top.push(("allow_origin", list(&allowed)));
    }
    Ok(())
}

/// The keys of tokens. Tells whether there are any.
fn tokens(given: &mut Given, written: &mut Written) -> Result<bool, String> {
    let keys = token_keys(given, written, "client.token", "token")?;
    let jwks = jwks(given, written, "client.token.jwks_public_endpoint")?;
    let has_keys = !keys.is_empty() || jwks.is_some();
    if !keys.is_empty() {
        written.auth.push(("jwt_key", format!("[{}]", keys.join(", "))));
    }
    written.auth.extend(jwks.map(|url| ("jwks", url)));
    for (key, here) in [("client.token.audience", "audience"), ("client.token.issuer", "issuer")] {
        let has_regex = given.has(&format!("{key}_regex"));
        let name = given.text(key)?.or_else(|| (here == "issuer" && has_regex).then(|| NO_ISSUER.to_owned()));
        if let Some(name) = name {
            // Without keys it would have no effect.
            written.auth.extend(has_keys.then(|| (here, quoted(&name))));
        }
    }
    if has_keys {
        written.leave(
            "client.token",
            "tokens without `exp` are refused, and so are those with an `aud` that `audience` does not name: change the back \
             end, or set `token_without_exp` and `audience` in [auth]",
        );
    }
    let of_subscriptions = subscription_keys(given, written)?;
    Ok(has_keys || of_subscriptions)
}

/// The keys of tokens of subscriptions, if they have their own. Tells whether there are any.
fn subscription_keys(given: &mut Given, written: &mut Written) -> Result<bool, String> {
    const TABLE: &str = "client.subscription_token";
    if !given.switch("client.subscription_token.enabled")? {
        given.forget_below(TABLE);
        return Ok(false);
    }
    let keys = token_keys(given, written, TABLE, "subscription-token")?;
    if !keys.is_empty() {
        written.auth.push(("subscription_jwt_key", format!("[{}]", keys.join(", "))));
    }
    Ok(!keys.is_empty())
}

/// The topic to which each user is subscribed.
fn personal_topic(given: &mut Given, written: &mut Written, has_identities: bool) -> Result<(), String> {
    const TABLE: &str = "client.subscribe_to_user_personal_channel";
    let key = |name: &str| format!("{TABLE}.{name}");
    let is_on = given.switch(&key("enabled"))?;
    let namespace = given.text(&key("personal_channel_namespace"))?;
    let is_single = given.switch(&key("single_connection"))?;
    if !is_on || !has_identities {
        return Ok(());
    }
    let [boundary, users] = ["namespace_boundary", "user_boundary"]
        .map(|mark| given.peek(&format!("channel.{mark}")).map(str::to_owned));
    let users = users.unwrap_or_else(|| "#".to_owned());
    let prefix = match namespace {
        Some(name) => format!("{name}{}{users}", boundary.unwrap_or_else(|| ":".to_owned())),
        None => users,
    };
    written.top.push(("personal_topic", quoted(&prefix)));
    if is_single {
        written.leave(key("single_connection"), "several connections of a user stay open");
    }
    Ok(())
}

/// The files with the keys of the table `table`.
fn token_keys(
    given: &mut Given,
    written: &mut Written,
    table: &str,
    name: &str,
) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    for kind in ["hmac_secret_key", "hmac_previous_secret_key"] {
        let key = format!("{table}.{kind}");
        let Some(secret) = given.text(&key)? else { continue };
        let file = format!("{name}-{}", kind.replace('_', "-"));
        let is_long = secret.len() >= SECRET_BYTES_MIN;
        files.push(if is_long && !secret.ends_with('\n') && !secret.contains("-----BEGIN ") {
            written.secret(&file, secret, &key)
        } else {
            let reason = format!("HS256 needs a secret of at least {SECRET_BYTES_MIN} bytes, on one line");
            written.new_secret(&file, &key, reason)
        });
    }
    for kind in ["rsa_public_key", "ecdsa_public_key"] {
        let key = format!("{table}.{kind}");
        let Some(text) = given.text(&key)? else { continue };
        match pem(&text) {
            Some(text) => {
                files.push(written.secret(&format!("{name}-{}.pem", kind.replace('_', "-")), text, &key))
            }
            None => {
                written.leave(key, "is not in PEM: write the key to a file in PEM, and name it in `jwt_key`")
            }
        }
    }
    Ok(files)
}

/// The URL of a set of keys.
fn jwks(given: &mut Given, written: &mut Written, key: &str) -> Result<Option<String>, String> {
    let Some(url) = given.text(key)? else { return Ok(None) };
    if url.contains("{{") {
        written
            .leave(key, "a URL with parts of the token is not supported: set `jwks` to that of one issuer");
        return Ok(None);
    }
    Ok(Some(quoted(&url)))
}

/// The HTTP API, for back ends.
fn admin(given: &mut Given, written: &mut Written) -> Result<(), String> {
    const KEY: &str = "http_api.key";
    const FILE: &str = "admin-token";
    let port = given.text("http_server.internal_port")?;
    let address = given.text("http_server.internal_address")?.unwrap_or_default();
    let admin = match port.as_deref().map(str::parse::<u16>) {
        Some(Ok(port)) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).to_string(),
        Some(Err(_)) => return Err("http_server.internal_port: expected a port".to_owned()),
        None => "127.0.0.1:9002".to_owned(),
    };
    written.top.push(("admin", quoted(&admin)));
    let is_used = !given.switch("http_api.disabled")?;
    let key = given.text(KEY)?;
    let is_fit =
        |key: &String| key.len() >= TOKEN_BYTES_MIN && key.bytes().all(|byte| byte.is_ascii_graphic());
    let file = match key {
        Some(key) if is_fit(&key) => written.secret(FILE, key, KEY),
        Some(_) => {
            let reason = format!("a key has at least {TOKEN_BYTES_MIN} characters, and no spaces");
            written.new_secret(FILE, KEY, reason)
        }
        None => written.new_secret(FILE, KEY, "is missing".to_owned()),
    };
    written.top.push(("admin_token_file", file));
    given.forget(&["http_api.handler_prefix", "http_api.external"]);
    if is_used && !matches!(address.as_str(), "127.0.0.1" | "localhost" | "::1") {
        let hint = format!(
            "back ends reach the HTTP API at http://{admin}/api, from this machine only: set `admin` to another address for \
             others, or put a proxy with TLS in front"
        );
        written.leave("http_api", hint);
    }
    Ok(())
}

/// Switches that open everything are never carried over.
fn insecure(given: &mut Given, written: &mut Written) -> Result<(), String> {
    for (key, hint) in [
        (
            "client.insecure",
            "everything would be open: give clients tokens, or open single topics with `subscribe` and `publish`",
        ),
        (
            "client.insecure_skip_token_signature_verify",
            "tokens are always verified: set `jwt_key` or `jwks` in [auth]",
        ),
        ("http_api.insecure", "the HTTP API asks for the token of `admin_token_file`: give it to back ends"),
        ("admin.insecure", "the admin address asks for the token of `admin_token_file`"),
    ] {
        if given.switch(key)? {
            written.leave(key, hint);
        }
    }
    Ok(())
}

/// Forgets what has no effect in Centrifugo either: a single node that keeps everything in memory.
fn nodes(given: &mut Given) -> Result<(), String> {
    for table in ["engine", "broker", "presence_manager", "map_broker", "controller"] {
        let is_on =
            table == "engine" || table == "map_broker" || given.switch(&format!("{table}.enabled"))?;
        let kind = given.text(&format!("{table}.type"))?;
        if !is_on || kind.is_none_or(|kind| kind == "memory") {
            given.forget_below(table);
        } else {
            given.put(table, true);
        }
    }
    Ok(())
}

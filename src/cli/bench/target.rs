//! The servers that `bench` measures: those of URLs, looked up, or one that this process starts.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use super::parsers::{Resolve, expanded};
use super::usage::usage;
use crate::Failure;
use crate::common::http_client::trust;
use crate::common::start_error;
use echoring_async::tls;
use echoring_async::{Proxy, connect_to_any};
use echoring_load::{
    self, DriverChoice, Embedded, Endpoint, Refused, RemoteAddress, Route, Template, WEIGHT_MAX,
};
use echoring_proto::tunnel::{NotEncodable, Tunnel};
use echoring_proto::url::{Url, percent_decode};
use echoring_server::{self, ListenAddress, Server};

/// Time in which an address of a host with several must answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How the servers of URLs are found and trusted, as given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Lookup {
    /// Authorities instead of those of the system.
    pub(super) ca_file: Option<PathBuf>,
    /// Whether any certificate is trusted.
    pub(super) insecure: bool,
    /// Certificate chain and private key of the client.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// The name of certificates, instead of the URL's host.
    pub(super) sni: Option<String>,
    pub(super) resolve: Vec<Resolve>,
    pub(super) proxy: Option<String>,
    pub(super) unix_socket: Option<PathBuf>,
    /// Whether connections are dealt over all addresses of a host.
    pub(super) all_addresses: bool,
}

/// A URL as given, and with its environment variables expanded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GivenUrl {
    /// Without a password.
    shown: String,
    expanded: String,
    weight: u32,
}

/// The parts of a URL.
struct UrlParts {
    url: Url,
    path: Option<Template>,
    authorization: Option<String>,
}

impl GivenUrl {
    /// Reads a URL, with its share of the connections.
    pub(super) fn read(text: &str, weight: u32) -> Result<GivenUrl, Failure> {
        let expanded = expanded(text).map_err(|why| usage("URL", &why))?;
        // What variables of the environment hold may be secret too.
        Ok(GivenUrl { shown: split_user_info(text).1, expanded, weight })
    }

    /// Path and query; `None` if the URL ends after the authority.
    pub(super) fn path(&self) -> Result<Option<Template>, Failure> {
        self.parts().map(|parts| parts.path)
    }

    /// Whether it is a wss:// URL.
    pub(super) fn is_secure(&self) -> Result<bool, Failure> {
        self.parts().map(|parts| parts.url.secure)
    }

    /// URLs as results name them.
    pub(super) fn shown(urls: &[GivenUrl]) -> String {
        urls.iter().map(|url| url.shown.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn parts(&self) -> Result<UrlParts, Failure> {
        let wrong = |why: &str| usage("URL", why);
        let (user_info, bare) = split_user_info(&self.expanded);
        let authorization = user_info.map(basic_credentials).transpose().map_err(|why| wrong(&why))?;
        // The parts outside of expressions must be a URL.
        let url = Url::parse(&without_expressions(&bare)).map_err(|why| wrong(&why.to_string()))?;
        // A URL that ends behind its port leaves the path to the mode; one that says `/` means it.
        let rest = bare.split_once("://").map_or("", |(_, rest)| rest);
        let path = match rest.find(['/', '?']).map(|at| &rest[at..]) {
            Some(path) => {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                // The short form, also where it was within an expression already.
                let path = path.replace("{topic}", "{{topic}}").replace("{{{topic}}}", "{{topic}}");
                Some(Template::parse(&path).map_err(|why| wrong(&why))?.for_url())
            }
            None => None,
        };
        Ok(UrlParts { url, path, authorization })
    }
}

impl Lookup {
    /// Looks up the server of a URL.
    pub(super) fn endpoint(&self, text: &str) -> Result<Endpoint, Failure> {
        self.find(&GivenUrl::read(text, 1)?)
    }

    /// Looks up the servers of URLs. With all addresses, each is a server, and the URLs keep their shares of the connections.
    pub(super) fn find_all(&self, urls: &[GivenUrl]) -> Result<Vec<Endpoint>, Failure> {
        let found = urls.iter().map(|url| self.find(url)).collect::<Result<Vec<_>, _>>()?;
        if !self.all_addresses {
            return Ok(found);
        }
        let mut each = Vec::new();
        for (url, endpoint) in urls.iter().zip(found) {
            let all = match (&endpoint.route.tunnel, &endpoint.route.address) {
                (None, RemoteAddress::Tcp(_)) => {
                    let UrlParts { url, .. } = url.parts()?;
                    self.addresses(&url.host, url.port)?
                }
                _ => Vec::new(),
            };
            each.push((endpoint, all));
        }
        let hosts: Vec<(u32, usize)> =
            each.iter().map(|(endpoint, all)| (endpoint.weight, all.len().max(1))).collect();
        let Some(weights) = address_weights(&hosts) else {
            return Err(usage("--all-addresses", "the hosts have too many addresses for these --weights"));
        };
        let dealt = each.into_iter().zip(weights).flat_map(|((endpoint, all), weight)| {
            let address = endpoint.route.address.clone();
            let all = if all.is_empty() { vec![address] } else { all.into_iter().map(Into::into).collect() };
            all.into_iter().map(move |address: RemoteAddress| {
                let route = Route { address, ..endpoint.route.clone() };
                Endpoint { route, weight, ..endpoint.clone() }
            })
        });
        Ok(dealt.collect())
    }

    /// Looks up the server of a URL that was read.
    pub(super) fn find(&self, given: &GivenUrl) -> Result<Endpoint, Failure> {
        let UrlParts { url, path, authorization } = given.parts()?;
        let security = if url.secure { Some(self.secure(&url.host)?) } else { None };
        let (address, tunnel) = self.address(&url)?;
        let route = Route { address, security, tunnel };
        let (text, authority) = (given.shown.clone(), url.authority());
        Ok(Endpoint { text, route, authority, path, authorization, weight: given.weight })
    }

    /// The proxy, if there is one.
    pub(super) fn proxy(&self) -> Result<Option<Proxy>, Failure> {
        let Some(word) = &self.proxy else { return Ok(None) };
        // The error does not repeat the URL, which may have a password.
        let proxy = match word.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()) {
            None if word == "env" => Proxy::from_env(),
            Some(scheme) if scheme.starts_with("socks") => Proxy::socks5(word),
            _ => Proxy::http(word),
        };
        proxy.map(Some).map_err(|why| usage("--proxy", &why.to_string()))
    }

    /// The target of connections, and the request to a proxy there.
    fn address(&self, url: &Url) -> Result<(RemoteAddress, Option<Arc<Tunnel>>), Failure> {
        if let Some(path) = &self.unix_socket {
            return Ok((RemoteAddress::Unix(path.clone()), None));
        }
        let proxies = self.proxy()?;
        if let Some(proxy) = proxies.as_ref().and_then(|proxies| proxies.to(url)) {
            let tunnel = Tunnel::new(proxy, &url.host, url.port).map_err(|NotEncodable| {
                usage("--proxy", "SOCKS5 takes hosts, user names and passwords of 1 to 255 bytes")
            })?;
            let address = self.resolved(&proxy.host, proxy.port)?;
            return Ok((address.into(), Some(Arc::new(tunnel))));
        }
        Ok((self.resolved(&url.host, url.port)?.into(), None))
    }

    /// The address of a host that answers first; addresses without an answer are skipped. Without an answer, the first.
    fn resolved(&self, host: &str, port: u16) -> Result<SocketAddr, Failure> {
        let addresses = self.addresses(host, port)?;
        let first = addresses[0];
        Ok(if addresses.len() > 1 { first_to_answer(addresses).unwrap_or(first) } else { first })
    }

    /// All addresses of a host; at least one.
    fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let is_named = |found: &&Resolve| found.host.eq_ignore_ascii_case(host) && found.port == port;
        let named = self.resolve.iter().filter(is_named).map(|found| SocketAddr::new(found.address, port));
        let mut found: Vec<SocketAddr> = named.collect();
        if found.is_empty() {
            found.extend((host, port).to_socket_addrs().into_iter().flatten());
        }
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            let hint = "check the host, or name its address with --resolve HOST:PORT:ADDR";
            return Err(Failure::Environment(format!("{host} cannot be resolved: {hint}")));
        }
        Ok(addresses)
    }

    /// The TLS configuration of `wss://`, and the name in the certificate.
    fn secure(&self, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
        let name = self.sni.as_deref().unwrap_or(host).to_owned();
        let flag = if self.sni.is_some() { "--sni" } else { "URL" };
        let name = ServerName::try_from(name)
            .map_err(|_| usage(flag, "no certificate can name that host: give a name or an address"))?;
        let trust = trust(self.ca_file.as_deref(), self.insecure);
        let identity = self.identity.as_ref();
        let identity = identity
            .map(|(certificates, key)| tls::Identity { certificates: certificates.into(), key: key.into() });
        let config = tls::client_config_with(&trust, identity.as_ref());
        Ok((config.map_err(|error| Failure::Environment(error.to_string()))?, name))
    }
}

/// The address that answers first, in the way of RFC 8305.
fn first_to_answer(addresses: Vec<SocketAddr>) -> Option<SocketAddr> {
    let runtime = echoring_async::local_runtime().ok()?;
    let connecting = async { tokio::time::timeout(ANSWER_TIME, connect_to_any(addresses)).await };
    runtime.block_on(connecting).ok()?.ok()?.peer_addr().ok()
}

/// The weight of each address of hosts with these weights and numbers of addresses, as small as the shares allow. `None` if one
/// is above [`WEIGHT_MAX`].
fn address_weights(hosts: &[(u32, usize)]) -> Option<Vec<u32>> {
    let common = hosts.iter().try_fold(1_u64, |common, &(_, addresses)| {
        let addresses = addresses as u64;
        (common / greatest_common_divisor(common, addresses)).checked_mul(addresses)
    })?;
    let multiples = hosts
        .iter()
        .map(|&(weight, addresses)| u64::from(weight).checked_mul(common / addresses as u64))
        .collect::<Option<Vec<u64>>>()?;
    let divisor = multiples.iter().copied().fold(0, greatest_common_divisor);
    let weights = multiples.into_iter().map(|multiple| u32::try_from(multiple / divisor).ok());
    weights.map(|weight| weight.filter(|weight| *weight <= WEIGHT_MAX)).collect()
}

/// Of 0 and another number, the other.
fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    let (mut larger, mut smaller) = (one, other);
    while smaller > 0 {
        (larger, smaller) = (smaller, larger % smaller);
    }
    larger
}

/// The `user:password` of a URL, and the URL without it.
fn split_user_info(text: &str) -> (Option<&str>, String) {
    let Some((scheme, rest)) = text.split_once("://") else { return (None, text.to_owned()) };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user_info, host)) => (Some(user_info), format!("{scheme}://{host}{path}")),
        None => (None, text.to_owned()),
    }
}

/// The value of an `Authorization` field for `user:password` (RFC 7617).
fn basic_credentials(user_info: &str) -> Result<String, String> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decoded = |part: &str| {
        percent_decode(part).ok_or("user name and password must be percent-encoded UTF-8 text".to_owned())
    };
    let (user, password) = (decoded(user)?, decoded(password)?);
    if user.contains(':') {
        return Err("a user name of Basic authentication contains no colon (RFC 7617, 2)".to_owned());
    }
    Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// The text with a letter in place of each expression.
fn without_expressions(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("{{") {
        out.push_str(before);
        out.push('x');
        rest = behind.split_once("}}").map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// Starts the server that is measured when no URL is given: one shard for each of `cpus`, echo and broadcast
/// on a free port.
pub(crate) fn start_server(
    cpus: &[usize],
    driver: DriverChoice,
    message_bytes: usize,
    compress: &echoring_load::Compress,
) -> Result<Embedded, Refused> {
    let mut config = echoring_server::ServerConfig {
        listen: vec![ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        shards: Some(cpus.len().max(1)),
        cpus: cpus.to_vec(),
        driver,
        compression_bytes: compress.context_bytes,
        ..echoring_server::ServerConfig::default()
    };
    config.connection.compression = compress.compression;
    config.connection.max_message = config.connection.max_message.max(message_bytes as u64);
    let server = Server::start(config)
        .map_err(|error| Refused(format!("the embedded server: {}", start_error::line(&error))))?;
    let Some(&ListenAddress::Tcp(address)) = server.addresses().first() else {
        return Err(Refused("the embedded server has no address".to_owned()));
    };
    let stop = move || {
        server.handle().stop();
        if let Err(error) = server.join() {
            tracing::warn!(%error, "the embedded server failed");
        }
    };
    Ok(Embedded { address, stop: Box::new(stop) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_become_credentials() {
        assert_eq!(split_user_info("ws://h/a@b"), (None, "ws://h/a@b".to_owned()));
        let (user_info, url) = split_user_info("wss://al%40ice:p%3Aw%C3%A9@h:1/x");
        assert_eq!(url, "wss://h:1/x");
        let value = basic_credentials(user_info.expect("a user")).expect("valid");
        let decoded = STANDARD.decode(value.strip_prefix("Basic ").expect("Basic")).expect("Base64");
        assert_eq!(String::from_utf8(decoded).as_deref(), Ok("al@ice:p:wé"));
        for wrong in ["a%3Ab:c", "%zz", "%ff"] {
            assert!(basic_credentials(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_share_the_weight_of_their_host() {
        assert_eq!(address_weights(&[(1, 1)]), Some(vec![1]));
        assert_eq!(address_weights(&[(1, 2), (1, 3)]), Some(vec![3, 2]));
        assert_eq!(address_weights(&[(1_000, 2), (500, 1)]), Some(vec![1, 1]));
        assert_eq!(address_weights(&[(1_000, 1), (1_000, 1_000)]), Some(vec![1_000, 1]));
        assert_eq!(address_weights(&[(999, 1), (1, 2)]), None, "1,998 to 1");
        assert_eq!(address_weights(&[(1, usize::MAX), (1, usize::MAX - 1)]), None);
    }

    #[test]
    fn expressions_are_no_part_of_the_url_syntax() {
        assert_eq!(without_expressions("ws://h/{{ data.a }}?b={{random.hex(8)}}&c"), "ws://h/x?b=x&c");
    }
}

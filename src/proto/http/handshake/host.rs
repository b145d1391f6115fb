//! The policy for the `Host` field (RFC 9110, section 7.2).
//!
//! With DNS rebinding, an attacker points the name of a page to this machine. The browser and
//! [`OriginPolicy`](super::OriginPolicy) then see the same origin for the page and the server. The name in `Host` is
//! that of the attacker and reveals the attack.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::origin::is_below;

/// The values of `Host` that the server accepts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HostPolicy {
    /// Every name: for servers with public names.
    #[default]
    Any,
    /// `localhost`, addresses, and these names: for servers on loopback addresses. A name without a port allows all
    /// ports. `*.` in front of a name stands for all names below it.
    Local(Vec<String>),
}

impl HostPolicy {
    /// Whether the policy allows a request with this `Host`.
    pub fn allows(&self, host: &str) -> bool {
        let HostPolicy::Local(names) = self else { return true };
        let (name, port) = name_and_port(host);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        name.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok()
            || names.iter().any(|listed| {
                let (listed_name, listed_port) = name_and_port(listed);
                let is_named = match listed_name.strip_prefix("*.") {
                    Some(parent) => is_below(name, parent),
                    None => listed_name.eq_ignore_ascii_case(name),
                };
                is_named && (listed_port.is_empty() || listed_port == port)
            })
    }
}

/// A host and its port, which is empty when there is none.
fn name_and_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        // The last colon of a bare IPv6 literal is inside its brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            (name, port)
        }
        _ => (host, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_server_accepts_localhost_addresses_and_listed_names() {
        let policy =
            HostPolicy::Local(vec!["app.example".into(), "dev.example:8080".into(), "*.b.example".into()]);
        for host in [
            "localhost",
            "LocalHost:9001",
            "127.0.0.1",
            "127.0.0.1:9001",
            "[::1]",
            "[::1]:9001",
            "192.0.2.1:1",
        ]
        .into_iter()
        .chain([
            "app.example",
            "APP.example:9001",
            "dev.example:8080",
            "x.b.example",
            "x.y.B.example:9001",
        ]) {
            assert!(policy.allows(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9001",
            "localhost.evil.example",
            "localhost.",
            "127.0.0.1.evil.example",
        ]
        .into_iter()
        .chain([
            "dev.example",
            "dev.example:80",
            "xapp.example",
            "",
            ":9001",
            "a:b",
            "[evil]",
            "127.0.0.1x",
            "b.example",
            "xb.example",
            "x.b.example.evil",
        ]) {
            assert!(!policy.allows(host), "{host}");
        }
        assert!(HostPolicy::Any.allows("evil.example"));
    }
}

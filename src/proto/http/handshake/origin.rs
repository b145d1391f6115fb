//! The policy for the `Origin` field (RFC 6455, section 10.2; RFC 6454).

#![forbid(unsafe_code)]

/// The values of `Origin` that the server accepts from browsers.
///
/// ```
/// # use echoring_proto::handshake as echoring;
/// use echoring::OriginPolicy;
///
/// let policy = OriginPolicy::List(vec!["https://app.example".to_owned()]);
/// assert!(policy.allows("api.example", Some("https://app.example")));
/// assert!(!policy.allows("api.example", Some("https://other.example")));
/// // Programs send no origin.
/// assert!(OriginPolicy::SameHost.allows("api.example", None));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OriginPolicy {
    /// Pages of the host that they connect to.
    #[default]
    SameHost,
    /// Every page.
    Any,
    /// Pages of the same host and of these origins, such as `https://example.com` or `null`. `*.` in front of a host stands for
    /// all hosts below it: `https://*.example.com` includes `https://a.b.example.com`, and not `https://example.com`.
    List(Vec<String>),
}

impl OriginPolicy {
    /// Whether an upgrade with these `Host` and `Origin` values is allowed.
    ///
    /// A request without `Origin` is allowed: it does not come from a browser, so it carries no cookies of a user, and
    /// its sender could forge any origin.
    pub fn allows(&self, host: &str, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        match self {
            OriginPolicy::Any => true,
            OriginPolicy::SameHost => is_same_host(host, origin),
            OriginPolicy::List(list) => {
                is_same_host(host, origin) || list.iter().any(|listed| is_same_origin(listed, origin))
            }
        }
    }
}

/// The scheme and authority of an origin. `None` for `null` and malformed origins.
fn split(origin: &str) -> Option<(&str, &str)> {
    origin.split_once("://").filter(|(_, authority)| !authority.is_empty())
}

/// The default port of a scheme. Empty for unknown schemes.
fn default_port(scheme: &str) -> &'static str {
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("ws") {
        "80"
    } else if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss") {
        "443"
    } else {
        ""
    }
}

/// Host and port of an authority. A missing port is `default`.
fn host_and_port<'a>(authority: &'a str, default: &'a str) -> (&'a str, &'a str) {
    match authority.rsplit_once(':') {
        // The last colon of a bare IPv6 literal is inside its brackets.
        Some((host, port)) if !port.ends_with(']') => (host, if port.is_empty() { default } else { port }),
        _ => (authority, default),
    }
}

fn is_same_authority(one: &str, other: &str, default: &str) -> bool {
    let (host, port) = host_and_port(one, default);
    let (other_host, other_port) = host_and_port(other, default);
    host.eq_ignore_ascii_case(other_host) && port == other_port
}

/// Whether a host is below `parent`, at any depth.
pub(super) fn is_below(host: &str, parent: &str) -> bool {
    // Nothing else is a part of a host: no user, no path.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let labels_end = host.len().checked_sub(parent.len() + 1).filter(|end| *end > 0);
    labels_end.and_then(|end| host.split_at_checked(end)).is_some_and(|(labels, rest)| {
        labels.bytes().all(is_name)
            && rest.strip_prefix('.').is_some_and(|rest| rest.eq_ignore_ascii_case(parent))
    })
}

/// Compares without the scheme, because behind a proxy that terminates TLS the scheme of the server is unknown. A
/// missing port is the default port of the scheme of the page, on both sides.
fn is_same_host(host: &str, origin: &str) -> bool {
    split(origin).is_some_and(|(scheme, authority)| is_same_authority(authority, host, default_port(scheme)))
}

fn is_same_origin(listed: &str, origin: &str) -> bool {
    match (split(listed.trim_end_matches('/')), split(origin)) {
        (Some((scheme, authority)), Some((other_scheme, other_authority))) => {
            let default = default_port(scheme);
            let is_listed = match authority.strip_prefix("*.") {
                None => is_same_authority(authority, other_authority, default),
                Some(parent) => {
                    let ((parent, port), (host, other_port)) =
                        (host_and_port(parent, default), host_and_port(other_authority, default));
                    port == other_port && is_below(host, parent)
                }
            };
            is_listed && scheme.eq_ignore_ascii_case(other_scheme)
        }
        _ => listed.eq_ignore_ascii_case(origin),
    }
}

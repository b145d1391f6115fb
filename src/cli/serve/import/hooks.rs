//! Proxies: services that Centrifugo asks, as `[hooks]`.

use std::collections::{BTreeMap, BTreeSet};

use super::given::Given;
use super::written::{FixedField, Line, Written};
use crate::serve::toml_text::quoted;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// The services that may be asked.
#[derive(Debug)]
pub(super) struct Proxies {
    /// Those with names, by which namespaces choose them.
    named: BTreeMap<String, Proxy>,
}

/// A service that is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxy {
    /// The path of its endpoint.
    key: String,
    endpoint: Option<String>,
    timeout: Option<i128>,
    headers: Vec<String>,
    /// Header fields of each request, which may be secret.
    fixed: Vec<(String, String)>,
}

impl Proxy {
    /// The keys that begin with `prefix`.
    pub(super) fn read(given: &mut Given, prefix: &str) -> Result<Proxy, String> {
        let key = |name: &str| format!("{prefix}{name}");
        Ok(Proxy {
            key: given.path(&key("endpoint")),
            endpoint: given.text(&key("endpoint"))?,
            timeout: given.time(&key("timeout"))?,
            headers: given.texts(&key("http_headers"))?,
            fixed: given.texts_below(&key("http.static_headers"))?,
        })
    }
}

impl Proxies {
    /// The list `proxies`.
    pub(super) fn read(given: &mut Given, written: &mut Written) -> Result<Proxies, String> {
        let mut named = BTreeMap::new();
        for (name, mut keys) in given.tables("proxies")? {
            named.insert(name, Proxy::read(&mut keys, "")?);
            for key in keys.left() {
                written.leave(key, "[hooks] has no such setting");
            }
        }
        Ok(Proxies { named })
    }

    /// Tells whether a service is asked about connections.
    pub(super) fn ask_about_connections(
        &self,
        given: &mut Given,
        written: &mut Written,
    ) -> Result<bool, String> {
        let proxy = Proxy::read(given, "client.proxy.connect.")?;
        Ok(given.switch("client.proxy.connect.enabled")? && ask(&proxy, "connect", None, written))
    }

    /// Has a service asked whether clients may stay.
    pub(super) fn ask_about_stays(
        &self,
        given: &mut Given,
        written: &mut Written,
        asks_connect: bool,
    ) -> Result<(), String> {
        let proxy = Proxy::read(given, "client.proxy.refresh.")?;
        if given.switch("client.proxy.refresh.enabled")? {
            if asks_connect {
                ask(&proxy, "refresh", None, written);
            } else {
                let hint = "is asked about clients that a connect proxy lets in; others refresh their tokens";
                written.leave(proxy.key, hint);
            }
        }
        Ok(())
    }

    pub(super) fn ask_about_calls(&self, given: &mut Given, written: &mut Written) -> Result<(), String> {
        let default = Proxy::read(given, "rpc.proxy.")?;
        let name = given.text("rpc.without_namespace.proxy_name")?;
        if given.switch("rpc.without_namespace.proxy_enabled")? {
            ask(&self.named(name.as_deref()).unwrap_or_else(|| default.clone()), "rpc", None, written);
        }
        let boundary = given.text("rpc.namespace_boundary")?.unwrap_or_else(|| ":".to_owned());
        for (namespace, mut options) in given.tables("rpc.namespaces")? {
            let is_on = options.switch("proxy_enabled")?;
            let name = options.text("proxy_name")?.filter(|_| is_on);
            match name.as_deref().and_then(|name| Some((name, self.named(Some(name))?))) {
                None if is_on => drop(ask(&default, "rpc", None, written)),
                None => {}
                Some((name, proxy)) => {
                    let name = table_name([name]);
                    if ask(&proxy, "rpc", Some(&name), written) {
                        let hooks = written.named_hooks.entry(name).or_default();
                        hooks.rpc_methods.push(format!("{namespace}{boundary}*"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The proxy with a name; `None` for the default.
    fn named(&self, name: Option<&str>) -> Option<Proxy> {
        let name = name.filter(|name| *name != "default")?;
        let missing = || Proxy { key: format!("proxies[{name}].endpoint"), ..Proxy::default() };
        Some(self.named.get(name).cloned().unwrap_or_else(missing))
    }

    /// Has the services asked that a namespace chooses: each hook with the name of its proxy, and the one without a name. Gives back the
    /// hooks that are asked, and the name of their table, if they have one.
    pub(super) fn choose(
        &self,
        chosen: Vec<(&'static str, Option<String>, &Proxy)>,
        written: &mut Written,
    ) -> (Vec<&'static str>, Option<String>) {
        let is_named = |name: &&Option<String>| name.as_deref().is_some_and(|name| name != "default");
        let names = chosen.iter().map(|(_, name, _)| name).filter(is_named).flatten();
        let names: BTreeSet<&str> = names.map(String::as_str).collect();
        let table = (!names.is_empty()).then(|| table_name(names));
        let mut asked = Vec::new();
        for (hook, name, default) in &chosen {
            let is_asked = match self.named(name.as_deref()) {
                None => ask(default, hook, None, written),
                Some(proxy) => ask(&proxy, hook, table.as_deref(), written),
            };
            asked.extend(is_asked.then_some(*hook));
        }
        let is_there = |name: &String| written.named_hooks.contains_key(name);
        (asked, table.filter(is_there))
    }
}

/// The name of a table for these proxies. A key of `[hooks]` is none.
fn table_name<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let name = names.into_iter().collect::<Vec<_>>().join("-");
    let keys =
        ["connect", "refresh", "rpc", "publish", "subscribe", "sub_refresh", "header", "headers", "timeout"];
    if keys.contains(&&*name) { format!("{name}-proxy") } else { name }
}

/// Adds header fields of each request to the hooks of a table. Their values go to files.
fn add_fixed(key: &str, fixed: &[(String, String)], table: Option<&str>, written: &mut Written) {
    for (name, value) in fixed {
        let present =
            written.hooks_of(table).fixed.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        match present.map(|field| field.value == *value) {
            Some(true) => {}
            Some(false) => written.leave(
                format!("{key}.{name}"),
                "[hooks] has one value of the field for all: let the services accept the same",
            ),
            None => {
                let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
                let of = table.map_or(String::new(), |table| format!("{table}-"));
                let file: String = format!("hooks-{of}{name}").chars().map(plain).collect();
                let path = written.secret(&file, value.clone(), &format!("{key}.{name}"));
                let field = FixedField { name: name.clone(), value: value.clone(), path };
                written.hooks_of(table).fixed.push(field);
            }
        }
    }
}

/// Has this service asked about `hook`, unless it cannot be. Tells whether it is.
fn ask(proxy: &Proxy, hook: &'static str, table: Option<&str>, written: &mut Written) -> bool {
    let line = proxy.endpoint.as_ref().map(|url| (hook, quoted(url)));
    let known: &[Line] = match table {
        None => &written.hooks.urls,
        Some(table) => written.named_hooks.get(table).map_or(&[], |hooks| &hooks.urls),
    };
    let is_there = line.as_ref().is_some_and(|line| known.contains(line));
    let has_other = known.iter().any(|(key, _)| *key == hook);
    if let Some(reason) = refusal(proxy, hook, has_other).filter(|_| !is_there) {
        written.leave(proxy.key.clone(), format!("{reason}; until then it lets nobody in"));
        return false;
    }
    add_fixed(&proxy.key.replace("endpoint", "http.static_headers"), &proxy.fixed, table, written);
    let hooks = written.hooks_of(table);
    hooks.urls.extend(line.filter(|_| !is_there));
    // The longest time counts.
    if let Some(time) = proxy.timeout {
        let time = Nanos::try_from(time).unwrap_or(0).clamp(10 * MILLISECOND, 60 * SECOND);
        hooks.timeout = hooks.timeout.max(Some(time));
    }
    for name in &proxy.headers {
        if !hooks.headers.iter().any(|present| present.eq_ignore_ascii_case(name)) {
            hooks.headers.push(name.clone());
        }
    }
    true
}

/// Why a service cannot be asked about `hook`, and what to do.
fn refusal(proxy: &Proxy, hook: &str, has_other: bool) -> Option<String> {
    let Some(url) = &proxy.endpoint else { return Some(format!("is missing: set `{hook}` in [hooks]")) };
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Some(format!(
            "is not asked by gRPC: answer the same requests over HTTP, and set `{hook}` in [hooks]"
        ));
    }
    if url.split('/').nth(2).is_some_and(|host| host.contains('@')) {
        return Some(format!("has a password: set `{hook}` in [hooks] to the URL without it"));
    }
    has_other.then(|| format!("[hooks] has one `{hook}` for all channels: let that service ask this one"))
}

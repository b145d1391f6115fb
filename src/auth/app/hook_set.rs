//! Hooks that are asked together: those without a name, and those that topics and methods choose by a name.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use echoring_proto::handshake::is_hop_by_hop;
use echoring_topics::Pattern;
use hyper::header::{HeaderName, HeaderValue};

use super::{AppEvent, AppSettings, Forwarded};
use crate::calls::HOOKS;
use crate::calls::http_client::{HttpClient, REQUEST_ID};
use crate::error::LoadError;
use crate::limits::APP_FIELDS_MAX;

/// Hooks that are asked together.
pub(super) struct HookSet {
    /// See [`hooks_id`].
    pub(super) id: u64,
    /// The name of this server.
    pub(super) node: String,
    pub(super) clients: [Option<HttpClient>; AppEvent::ALL.len()],
    /// Names of fields that are forwarded.
    pub(super) headers: Box<[HeaderName]>,
    /// Fields of each request.
    pub(super) fixed: Box<[(HeaderName, HeaderValue)]>,
    pub(super) timeout: Duration,
    /// The methods whose calls they get, if they have a name.
    pub(super) methods: Box<[Pattern]>,
}

impl HookSet {
    /// Those without a name.
    pub(super) fn load(settings: &AppSettings) -> Result<HookSet, LoadError> {
        let mut clients = [const { None }; AppEvent::ALL.len()];
        for (event, url) in &settings.urls {
            let (number, (_, setting)) = (*event as usize, AppEvent::ALL[*event as usize]);
            clients[number] = Some(HttpClient::parse(setting, url, HOOKS.answer_bytes_max)?);
        }
        let wrong = |problem: String| LoadError::new("hooks_header", problem);
        if settings.headers.len() > APP_FIELDS_MAX || settings.fixed.len() > APP_FIELDS_MAX {
            return Err(wrong(format!("at most {APP_FIELDS_MAX} header fields")));
        }
        let name = |name: &str, problem: &str| {
            let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !is_own(name));
            known.ok_or_else(|| wrong(format!("{name} {problem}")))
        };
        let fixed = |(own, value): &(String, String)| {
            let own = name(own, "cannot be set")?;
            let value = HeaderValue::from_str(value);
            Ok((own.clone(), value.map_err(|_| wrong(format!("{own} has an invalid value")))?))
        };
        Ok(HookSet {
            id: 0,
            node: settings.node.clone(),
            clients,
            headers: settings
                .headers
                .iter()
                .map(|own| name(own, "cannot be forwarded"))
                .collect::<Result<_, _>>()?,
            fixed: settings.fixed.iter().map(fixed).collect::<Result<_, _>>()?,
            timeout: settings.timeout,
            methods: Box::default(),
        })
    }

    /// The fields of a request: forwarded ones that these hooks get, and fixed ones in place of those with the same names.
    pub(super) fn fields(&self, forwarded: Option<&Forwarded>) -> Vec<(HeaderName, HeaderValue)> {
        let forwarded = forwarded.map(|fields| &*fields.0).unwrap_or_default();
        let is_got =
            |name: &HeaderName| self.headers.contains(name) && !self.fixed.iter().any(|(own, _)| own == name);
        forwarded.iter().filter(|(name, _)| is_got(name)).chain(&*self.fixed).cloned().collect()
    }
}

/// Identifies hooks with a name in this process; never 0, which stands for those without.
pub fn hooks_id(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish().max(1)
}

/// The hooks that are asked about an event: those with this id, or those without a name if they have no URL for it. `None` if there are
/// none, or none with the id.
pub(super) fn set_for(sets: &[HookSet], event: AppEvent, hooks: u64) -> Option<usize> {
    let chosen = sets.iter().position(|set| set.id == hooks)?;
    let asks = |index: &usize| sets[*index].clients[event as usize].is_some();
    [chosen, 0].into_iter().find(asks)
}

/// Fields that each request has of its own, or that are about one connection only.
fn is_own(name: &HeaderName) -> bool {
    let own = ["host", "content-type", "content-length", "trailer", "expect"];
    own.contains(&name.as_str()) || *name == REQUEST_ID || is_hop_by_hop(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{App, NamedHooks};

    #[test]
    fn named_hooks_are_asked_where_they_have_a_url() {
        let url = |event, path: &str| (event, format!("http://127.0.0.1:1/{path}"));
        let publish_url = url(AppEvent::Publish, "publish");
        let hooks = |publish: bool, fixed: &[(&str, &str)]| AppSettings {
            urls: [url(AppEvent::Rpc, "rpc")]
                .into_iter()
                .chain(publish.then(|| publish_url.clone()))
                .collect(),
            headers: vec!["cookie".to_owned(), "x-key".to_owned()],
            fixed: fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..AppSettings::default()
        };
        let rpc_methods = vec!["bill:*".to_owned()];
        let named =
            NamedHooks { name: "bills".to_owned(), rpc_methods, hooks: hooks(false, &[("X-Key", "k")]) };
        let settings = AppSettings { named: vec![named], ..hooks(true, &[]) };
        let app = App::load(&settings).expect("valid");
        let id = hooks_id("bills");
        assert_eq!((app.hooks_of_method("bill:pay"), app.hooks_of_method("pay")), (id, 0));
        let sets = |event, hooks| set_for(&app.hooks.sets, event, hooks);
        assert_eq!((sets(AppEvent::Rpc, id), sets(AppEvent::Publish, id)), (Some(1), Some(0)));
        assert_eq!((sets(AppEvent::Subscribe, id), sets(AppEvent::Rpc, 7)), (None, None));
        let field = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let forwarded =
            Forwarded([field("cookie", "c"), field("x-key", "false"), field("x-else", "e")].into());
        assert_eq!(app.hooks.sets[1].fields(Some(&forwarded)), [field("cookie", "c"), field("x-key", "k")]);
        assert_eq!(
            app.hooks.sets[0].fields(Some(&forwarded)),
            [field("cookie", "c"), field("x-key", "false")]
        );
        for (name, value) in [("host", "a"), ("x y", "a"), ("x", "a\n")] {
            assert!(App::load(&hooks(true, &[(name, value)])).is_err(), "{name}");
        }
    }
}

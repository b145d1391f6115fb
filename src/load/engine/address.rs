//! The servers of a run, and the upgrade requests that are sent to them.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::shared::Shared;
use crate::plan::replay::script::Dialogue;
use crate::plan::template::{BoundTemplate, Scope};
use crate::plan::{Endpoint, Template, Workload, turns};
use echoring_proto::handshake::Dial;
use echoring_runtime::shard::Route;

/// The servers of the target.
#[derive(Clone, Debug)]
pub(super) struct TargetAddress {
    pub(super) endpoints: Arc<[Endpoint]>,
    pub(super) embedded: bool,
}

impl TargetAddress {
    /// The URLs, or `embedded`.
    pub(super) fn text(&self) -> String {
        let mut texts: Vec<&str> = self.endpoints.iter().map(|endpoint| endpoint.text.as_str()).collect();
        // A URL may have several addresses.
        texts.dedup();
        texts.join(", ")
    }
}

/// The upgrade requests of a run.
#[derive(Debug)]
pub struct UpgradeRequests {
    /// The servers.
    pub(super) endpoints: Arc<[Endpoint]>,
    /// By protocol, and by server.
    paths: Vec<Vec<BoundTemplate>>,
    /// The subprotocols of each protocol, if there are several.
    subprotocols: Vec<Vec<String>>,
    headers: Vec<(String, BoundTemplate)>,
    host: Option<BoundTemplate>,
    origin: Option<BoundTemplate>,
    /// The server of each connection, by its number modulo the length.
    turns: Vec<u16>,
    is_constant: bool,
    /// Whether subprotocols are offered that the command line names.
    names_subprotocols: bool,
}

impl UpgradeRequests {
    /// The requests of a load that was checked.
    pub(super) fn new(load: &Workload, endpoints: Arc<[Endpoint]>) -> UpgradeRequests {
        let bind = |template: &Template| load.bind(template).unwrap_or_default();
        let paths_of = |protocol| -> Vec<BoundTemplate> {
            let default_path = load.default_path(protocol);
            endpoints.iter().map(|endpoint| bind(endpoint.path.as_ref().unwrap_or(&default_path))).collect()
        };
        let mut paths: Vec<_> = load.protocols().map(|protocol| paths_of(Some(protocol))).collect();
        if paths.is_empty() {
            paths.push(paths_of(None));
        }
        let names_subprotocols = !load.connecting.subprotocols.is_empty();
        let differ = paths.len() > 1 && !names_subprotocols;
        let offered = load.protocols().filter(|_| differ).map(|protocol| protocol.subprotocols().to_vec());
        let (hosts, others): (Vec<_>, Vec<_>) =
            load.connecting.headers.iter().partition(|(name, _)| name.eq_ignore_ascii_case("host"));
        let headers: Vec<_> = others.into_iter().map(|(name, value)| (name.clone(), bind(value))).collect();
        let host = hosts.last().map(|(_, value)| bind(value));
        let origin = load.connecting.origin.as_ref().map(bind);
        let values = headers.iter().map(|(_, value)| value);
        let mut all = values.chain(paths.iter().flatten()).chain(&host).chain(&origin);
        let is_constant = all.all(BoundTemplate::is_constant) && paths.len() == 1 && endpoints.len() == 1;
        UpgradeRequests {
            subprotocols: offered.collect(),
            turns: turns(endpoints.iter().map(|endpoint| endpoint.weight)),
            endpoints,
            paths,
            headers,
            host,
            origin,
            is_constant,
            names_subprotocols,
        }
    }

    /// The server of a connection.
    pub(super) fn endpoint(&self, connection: u32) -> usize {
        self.turns[connection as usize % self.turns.len()].into()
    }

    /// Writes the request of a connection over the previous one's.
    pub(super) fn write(&self, dial: &mut Dial, protocol: usize, scope: &Scope<'_>, scratch: &mut Vec<u8>) {
        if self.is_constant && !dial.path.is_empty() {
            return;
        }
        let mut expand = |template: &BoundTemplate, text: &mut String| {
            scratch.clear();
            template.expand(scope, scratch);
            text.clear();
            text.push_str(&String::from_utf8_lossy(scratch));
        };
        let index = self.endpoint(scope.connection);
        let endpoint = &self.endpoints[index];
        expand(&self.paths[protocol][index], &mut dial.path);
        if let Some(offered) = self.subprotocols.get(protocol) {
            dial.subprotocols.clone_from(offered);
        }
        match &self.host {
            Some(host) => expand(host, &mut dial.host),
            None => dial.host.clone_from(&endpoint.authority),
        }
        if let Some(origin) = &self.origin {
            expand(origin, dial.origin.get_or_insert_default());
        }
        dial.headers.resize_with(self.headers.len(), Default::default);
        for ((name, value), (written, bytes)) in self.headers.iter().zip(&mut dial.headers) {
            written.clone_from(name);
            bytes.clear();
            value.expand(scope, bytes);
        }
        if let Some(authorization) = &endpoint.authorization {
            dial.headers.push(("Authorization".to_owned(), authorization.clone().into_bytes()));
        }
    }

    /// Puts the properties of a recorded connection into its request: the path, unless the URL has one, and the
    /// subprotocol, unless others are offered.
    pub(super) fn write_recorded(&self, dial: &mut Dial, connection: u32, recorded: &Dialogue) {
        if self.endpoints[self.endpoint(connection)].path.is_none() {
            dial.path.clone_from(&recorded.path);
        }
        if !self.names_subprotocols {
            dial.subprotocols.clear();
            dial.subprotocols.extend(recorded.subprotocol.clone());
        }
    }
}

impl Shared {
    /// The routes to the servers, for one thread: it resumes its own TLS sessions unless disabled, and shares no lock.
    pub(super) fn own_routes(&self) -> Vec<Route> {
        let resumes = self.load.connecting.resumes;
        let own = |endpoint: &Endpoint| {
            let mut route = endpoint.route.clone();
            if let Some((config, _)) = &mut route.security {
                let mut own = ClientConfig::clone(config);
                own.resumption =
                    if resumes { Resumption::in_memory_sessions(1) } else { Resumption::disabled() };
                *config = Arc::new(own);
            }
            route
        };
        self.requests.endpoints.iter().map(own).collect()
    }
}

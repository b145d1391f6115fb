//! The server to measure: a URL, or a server in this process.

use std::fmt;
use std::net::SocketAddr;

use super::template::Template;
use echoring_runtime::shard::Route;

/// Maximum share of a URL: the turns of all URLs are listed.
pub const WEIGHT_MAX: u32 = 1_000;

/// The server to measure.
pub enum Target {
    /// Servers that are already running; at least one.
    Urls(Vec<Endpoint>),
    /// A server in this process.
    Embedded(Box<StartServer>),
}

/// A URL of a server, looked up.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The URL as given, without a password.
    pub text: String,
    /// The way there. Each thread of a run has a TLS configuration of its own, so that it resumes its own sessions.
    pub route: Route,
    /// The value of the `Host` field.
    pub authority: String,
    /// Path and query; `None` if the URL ends after the authority.
    pub path: Option<Template>,
    /// Value of an `Authorization` field: the user name and password of the URL.
    pub authorization: Option<String>,
    /// Its share of the connections, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Urls(endpoints) => {
                f.debug_list().entries(endpoints.iter().map(|endpoint| &endpoint.text)).finish()
            }
            Target::Embedded(_) => f.write_str("Embedded"),
        }
    }
}

/// Starts a server in this process on the given CPUs; none leaves it unpinned.
pub type StartServer = dyn FnOnce(&[usize]) -> Result<Embedded, Refused>;

/// A running server in this process.
pub struct Embedded {
    /// Its address.
    pub address: SocketAddr,
    /// Stops the server and waits for its end.
    pub stop: Box<dyn FnOnce()>,
}

/// Why the environment prevents the run, in one line with a remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The places of these weights in turn, each as often as its weight says, evenly spread.
pub(crate) fn turns(weights: impl Iterator<Item = u32>) -> Vec<u16> {
    let weights: Vec<i64> = weights.map(i64::from).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0; weights.len()];
    let mut turns = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        // Of equals the first.
        let next = (0..credit.len()).rev().max_by_key(|&index| credit[index]).unwrap_or(0);
        credit[next] -= total;
        turns.push(next as u16);
    }
    turns
}

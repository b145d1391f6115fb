//! `/connections` and `/connections/{id}`: the open connections of the node, listed, closed and sent messages.

mod messages;
pub(crate) mod pages;
mod trace;

use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::http::Reply;
use super::publications::InvalidBody;
use super::reload::served::Served;
use super::topics::{parameters, refuse, unknown_parameter};
use crate::limits::{ADMIN_CONNECTION_REQUESTS_MAX, ADMIN_CONNECTIONS_LISTED_DEFAULT, TRACES_MAX};
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_server::limits::ADMIN_CONNECTIONS_LISTED_MAX;
use echoring_server::machinery::{
    ConnectionFilter, ConnectionReport, Missing, OperatorClose, RankBy, ScanAction, address_block,
};
use pages::{ConnectionPages, Gathered, Lacking, Place, ScanError};

const SCHEMA: &str = "echoring.connections/1";

/// The inputs of a request about connections.
#[derive(Debug)]
pub(super) struct Connections {
    server: Served,
    requests: Semaphore,
    traces: Arc<Semaphore>,
}

/// The answer to `GET`.
#[derive(Debug, Serialize)]
struct Page<'a> {
    schema: &'a str,
    connections: Vec<ConnectionReport>,
    #[serde(flatten)]
    lacking: Lacking,
    next: Option<String>,
}

/// The answer to `DELETE`.
#[derive(Debug, Serialize)]
struct ClosedConnections<'a> {
    schema: &'a str,
    closed: usize,
    #[serde(flatten)]
    lacking: Lacking,
    next: Option<String>,
    /// Why not all were closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    message: &'static str,
}

impl Connections {
    pub(super) fn new(server: Served) -> Connections {
        let traces = Arc::new(Semaphore::new(TRACES_MAX));
        Connections { server, requests: Semaphore::new(ADMIN_CONNECTION_REQUESTS_MAX), traces }
    }

    /// `GET /connections`.
    pub(super) async fn list(&self, query: &str) -> Reply {
        let Parameters { filter, after, limit, rank } = match Parameters::of(query) {
            Ok(parameters) => parameters,
            Err(fault) => return refuse(&fault),
        };
        let most = limit.unwrap_or(ADMIN_CONNECTIONS_LISTED_DEFAULT);
        let listed = match rank {
            Some(by) => self.asked(move |pages| pages.largest(&filter, by, most)).await,
            None => self.asked(move |pages| pages.list(&filter, after, most)).await,
        };
        listed.map_or_else(
            |error| failed(&error),
            |Gathered { connections, missing, next, .. }| {
                let next = next.map(|place| place.to_string());
                let page = Page { schema: SCHEMA, connections, lacking: Lacking { reason: missing }, next };
                Reply::json(StatusCode::OK, serde_json::to_vec(&page))
            },
        )
    }

    /// `DELETE /connections`.
    pub(super) async fn close_matching(&self, query: &str) -> Reply {
        let parameters = match Parameters::of(query) {
            Ok(parameters) => parameters,
            Err(fault) => return refuse(&fault),
        };
        let (filter, after) = match parameters.chosen() {
            Ok(chosen) => chosen,
            Err(reply) => return reply,
        };
        let close = ScanAction::Close(OperatorClose::default());
        let closed = self.asked(move |pages| pages.change(&filter, after, &close)).await;
        closed.map_or_else(|error| failed(&error), |gathered| closed_reply(&gathered))
    }

    /// `DELETE /connections/{id}`.
    pub(super) async fn close_one(&self, id: &str) -> Reply {
        let Ok(id) = id.parse() else { return unknown() };
        match self.asked(move |pages| pages.close(id)).await {
            Ok(true) => closed_reply(&Gathered { changed: 1, ..Gathered::default() }),
            Ok(false) => unknown(),
            Err(error) => failed(&error),
        }
    }

    /// Asks the shards, which waits and so must not block this thread.
    pub(super) async fn asked<T: Send + 'static>(
        &self,
        ask: impl FnOnce(ConnectionPages<'_>) -> Result<T, ScanError> + Send + 'static,
    ) -> Result<T, ScanError> {
        let Ok(_permit) = self.requests.try_acquire() else { return Err(ScanError::Busy) };
        let server = self.server.handle();
        let asked = spawn_blocking(move || ask(ConnectionPages(&server))).await;
        asked.unwrap_or(Err(ScanError::Silent(0)))
    }
}

fn unknown() -> Reply {
    Reply::problem(StatusCode::NOT_FOUND, "unknown-connection", "no such open connection")
}

/// The status is 200 only if no connections are missing.
fn closed_reply(gathered: &Gathered) -> Reply {
    let next = gathered.next.map(|place| place.to_string());
    let (closed, lacking) = (gathered.changed, Lacking { reason: gathered.missing });
    let message = "the connections of the previous server were not closed";
    let error = lacking.reason.map(|missing| Problem { code: missing_code(missing), message });
    let status = if error.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let closed = ClosedConnections { schema: SCHEMA, closed, lacking, next, error };
    Reply::json(status, serde_json::to_vec(&closed))
}

pub(super) fn failed(error: &ScanError) -> Reply {
    let (code, line) = match error {
        ScanError::Busy => return Reply::busy("too many concurrent requests about connections"),
        ScanError::Silent(shard) => ("silent-shard", format!("shard {shard} did not answer in time")),
        ScanError::TooLong(shard) => {
            ("too-long", format!("shard {shard} has too many connections to rank them by address in time"))
        }
        ScanError::Previous(missing) => (missing_code(*missing), missing.to_string()),
        ScanError::UnknownPlace => {
            return refuse(&InvalidBody::bad("after", "must be the `next` of a page of this server"));
        }
    };
    Reply::problem(StatusCode::SERVICE_UNAVAILABLE, code, &line)
}

fn missing_code(missing: Missing) -> &'static str {
    match missing {
        Missing::Silent => "silent-predecessor",
        Missing::Unsupported => "unsupported-predecessor",
    }
}

/// The parameters of a request.
#[derive(Debug, Default)]
struct Parameters {
    filter: ConnectionFilter,
    after: Option<Place>,
    limit: Option<usize>,
    rank: Option<RankBy>,
}

impl Parameters {
    fn of(query: &str) -> Result<Parameters, InvalidBody> {
        let mut all = Parameters::default();
        for (name, value) in parameters(query) {
            let value = value.ok_or_else(|| InvalidBody::bad("query", "must be percent-encoded UTF-8"))?;
            if !all.set(name, &value)? {
                return Err(InvalidBody::bad("query", "has a parameter twice"));
            }
        }
        if all.rank.is_some() && all.after.is_some() {
            return Err(InvalidBody::bad("after", "cannot be combined with sort"));
        }
        Ok(all)
    }

    /// The connections that something is done with, and where to continue. All of them must not be meant by mistake.
    fn chosen(self) -> Result<(ConnectionFilter, Option<Place>), Reply> {
        let Parameters { filter, after, limit, rank } = self;
        if filter.is_empty() {
            let hint = "say which: give an address, an identity or a topic";
            return Err(Reply::problem(StatusCode::BAD_REQUEST, "no-filter", hint));
        }
        if rank.is_some() || limit.is_some() {
            return Err(refuse(&InvalidBody::bad("query", "has a parameter of GET")));
        }
        Ok((filter, after))
    }

    /// Sets a parameter. False if it is set already.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, InvalidBody> {
        let bad = |field, message: &str| InvalidBody::bad(field, message.to_owned());
        let Parameters { filter, after, limit, rank } = self;
        Ok(match name {
            "address" => {
                let block =
                    address_block(value).map_err(|_| bad("address", "must be an IP address or a prefix"))?;
                filter.address.replace(block).is_none()
            }
            "identity" if (1..=SUBJECT_BYTES_MAX).contains(&value.len()) => {
                filter.identity.replace(value.into()).is_none()
            }
            "identity" => return Err(bad("identity", "must have 1 to 255 bytes")),
            "topic" if !value.is_empty() => filter.topic.replace(value.into()).is_none(),
            "topic" => return Err(bad("topic", "must not be empty")),
            "after" => {
                let place = value.parse().map_err(|()| bad("after", "must be the `next` of a page"))?;
                after.replace(place).is_none()
            }
            "limit" => {
                let number = value.parse().ok();
                let number = number.filter(|number| (1..=ADMIN_CONNECTIONS_LISTED_MAX).contains(number));
                let number = number.ok_or_else(|| bad("limit", "must be a number from 1 to 1000"))?;
                limit.replace(number).is_none()
            }
            "sort" => {
                let by = match value {
                    "lag" => RankBy::Lag,
                    "queued" => RankBy::Queued,
                    _ => return Err(bad("sort", "must be `lag` or `queued`")),
                };
                rank.replace(by).is_none()
            }
            _ => return Err(unknown_parameter()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let all = Parameters::of("address=10.0.0.0%2F8&identity=a%20b&topic=t%2Fu&limit=1000&after=1-2")
            .expect("right");
        assert_eq!((all.filter.identity.as_deref(), all.filter.topic.as_deref()), (Some("a b"), Some("t/u")));
        assert_eq!((all.limit, all.after), (Some(1_000), Some(Place { number: 1, index: 2 })));
        for (sort, by) in [("queued", RankBy::Queued), ("lag", RankBy::Lag)] {
            let ranked = Parameters::of(&format!("sort={sort}&topic=a")).expect("right");
            assert_eq!(ranked.rank, Some(by));
        }
        assert!(Parameters::of("").expect("right").filter.is_empty());
        for wrong in [
            "address=10.0.0.1:80",
            "address=",
            "identity=",
            "topic=",
            "limit=0",
            "limit=1001",
            "limit=a",
            "after=x",
            "sort=open",
            "sort=queued&sort=queued",
            "topic=a&topic=b",
            "sort=queued&after=0-0",
            "other=1",
            "topic=%ff",
        ] {
            assert!(Parameters::of(wrong).is_err(), "{wrong}");
        }
    }
}

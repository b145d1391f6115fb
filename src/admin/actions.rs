//! The table of the actions that operators and back ends can ask for: how each is requested at the admin address and in Centrifugo's HTTP
//! API, and which function carries it out. The rights that an action needs follow from the table.

use std::sync::LazyLock;

use echoring_server::{Handle, machinery};
use hyper::Method;

/// Where an action goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nowhere: it only reads.
    Nowhere,
    /// To the owner shard of a topic, which orders the messages for the clients of the previous server, too.
    Topic,
    /// To every shard that has clients, those of the previous server included, or it fails. One that is about a process goes to both
    /// processes.
    EveryShard,
    /// To the shards of this server: it can do nothing at those of the previous one, as its answer says.
    OwnShards,
}

/// Where each action goes, and the method and the path of each of its requests, in the order of [`Action`]. A GET stands for a HEAD, too.
/// Capitals at the end of a path stand for any text.
type Rows = &'static [(Action, Destination, &'static [&'static str])];

macro_rules! actions {
    ($($action:ident $destination:ident $($request:literal)+;)+) => {
        /// An action, however it is requested.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Action {
            $($action,)+
        }

        const ROWS: Rows = &[$((Action::$action, Destination::$destination, &[$($request),+])),+];
    };
}

actions! {
    Page               Nowhere    "GET /";
    Health             Nowhere    "GET /healthz";
    Readiness          Nowhere    "GET /readyz";
    Stats              Nowhere    "GET /stats";
    Metrics            Nowhere    "GET /metrics";
    Limits             Nowhere    "GET /limits";
    ReadLogLevel       Nowhere    "GET /log-level";
    SetLogLevel        EveryShard "PUT /log-level";
    Reload             EveryShard "POST /reload";
    Rebalance          OwnShards  "POST /rebalance";
    Trace              OwnShards  "POST /trace";
    ListTopics         Nowhere    "GET /topics";
    ReadTopic          Nowhere    "GET /topics/NAME";
    Publish            Topic      "POST /topics/NAME" "POST /api/publish";
    Broadcast          Topic      "POST /broadcast" "POST /api/broadcast";
    History            Nowhere    "POST /api/history";
    RemoveHistory      Topic      "POST /api/history_remove";
    Presence           Nowhere    "POST /api/presence";
    PresenceStats      Nowhere    "POST /api/presence_stats";
    Channels           Nowhere    "POST /api/channels";
    Info               Nowhere    "POST /api/info";
    ListConnections    Nowhere    "GET /connections";
    CloseMatching      EveryShard "DELETE /connections" "POST /api/disconnect";
    SendToMatching     EveryShard "POST /connections";
    CloseOne           EveryShard "DELETE /connections/ID";
    SendToOne          EveryShard "POST /connections/ID";
    SendToIdentity     EveryShard "POST /identities/ID";
    Subscribe          EveryShard "POST /api/subscribe";
    Unsubscribe        EveryShard "POST /api/unsubscribe";
    Refresh            EveryShard "POST /api/refresh";
    BlockUser          EveryShard "POST /api/block_user";
    RevokeToken        EveryShard "POST /api/revoke_token";
    UnblockUser        EveryShard "POST /api/unblock_user";
    Cluster            Nowhere    "GET /cluster";
    ReadCluster        Nowhere    "GET /cluster/topics" "GET /cluster/stats" "GET /cluster/limits" "GET /cluster/connections";
    CloseInCluster     EveryShard "DELETE /cluster/connections";
}

/// Why a request is for no action.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAction {
    Path,
    /// The path has these methods only.
    Method(Vec<&'static str>),
}

/// A request of the table.
struct Request {
    method: &'static str,
    /// The path, without the text that capitals stand for.
    path: &'static str,
    /// Whether there is such a text.
    is_named: bool,
    action: Action,
}

/// All requests. Each one that comes is compared with them several times.
static REQUESTS: LazyLock<Vec<Request>> = LazyLock::new(|| {
    let of_row = |(action, _, requests): &(Action, _, &'static [&'static str])| {
        let action = *action;
        requests.iter().filter_map(move |request| {
            let (method, pattern) = request.split_once(' ')?;
            let path = pattern.trim_end_matches(|letter: char| letter.is_ascii_uppercase());
            Some(Request { method, path, is_named: path.len() < pattern.len(), action })
        })
    };
    ROWS.iter().flat_map(of_row).collect()
});

impl Action {
    /// The action that a request asks for, and the text at the end of its path that names what it is about.
    pub(crate) fn at<'a>(method: &Method, path: &'a str) -> Result<(Action, &'a str), NoAction> {
        let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
        let mut methods = Vec::new();
        for Request { method: own, path: fixed, is_named, action } in &*REQUESTS {
            let name = path.strip_prefix(fixed).filter(|name| *is_named || name.is_empty());
            match name {
                Some(name) if *own == method => return Ok((*action, name)),
                Some(_) if *own == "GET" => methods.extend(["GET", "HEAD"]),
                Some(_) => methods.push(own),
                None => {}
            }
        }
        Err(if methods.is_empty() { NoAction::Path } else { NoAction::Method(methods) })
    }

    /// The action of a method of Centrifugo's API.
    pub(crate) fn of_api(name: &str) -> Option<Action> {
        let is_method = |request: &&Request| request.path.strip_prefix("/api/") == Some(name);
        REQUESTS.iter().find(is_method).map(|request| request.action)
    }

    /// The paths of the admin address, each once, without the names at their ends.
    pub(crate) fn paths() -> Vec<&'static str> {
        let paths = REQUESTS.iter().map(|request| request.path);
        let mut paths: Vec<&str> = paths.filter(|path| !path.starts_with("/api/")).collect();
        paths.sort_unstable();
        paths.dedup_by(|later, earlier| {
            later.strip_suffix('/').is_some_and(|fixed| fixed == *earlier) || later == earlier
        });
        paths
    }

    /// Where it goes.
    pub(crate) fn destination(self) -> Destination {
        ROWS[self as usize].1
    }

    /// Whether it changes nothing, so that the read token suffices for it.
    pub(crate) fn only_reads(self) -> bool {
        self.destination() == Destination::Nowhere
    }

    /// Whether everybody may ask for it: what has no data.
    pub(crate) fn is_public(self) -> bool {
        matches!(self, Action::Page | Action::Health)
    }

    /// Whether a request for it is answered however many others are in progress.
    pub(crate) fn is_urgent(self) -> bool {
        matches!(self, Action::Health | Action::Readiness)
    }

    /// Whether each node of a cluster runs it for itself, as a command of Centrifugo's API. Topics and their messages are the same at all
    /// nodes, which have copies of their histories.
    pub(crate) fn is_about_all_nodes(self) -> bool {
        use Action::{Broadcast, History, Presence, PresenceStats, Publish};
        !matches!(self, Publish | Broadcast | History | Presence | PresenceStats)
    }

    /// Whether nodes of a cluster ask each other for it, as a request with this path: each answers for itself. Reports of the cluster
    /// would go round, and of publications there are only those that the process before this one could not make.
    #[cfg(feature = "cluster")]
    pub(crate) fn is_asked_by_nodes(self, path: &str) -> bool {
        let is_of_api = path.starts_with("/api/");
        match self {
            Action::ListTopics | Action::Stats | Action::Limits => true,
            Action::ListConnections | Action::CloseMatching | Action::SendToMatching => true,
            Action::Publish => !is_of_api,
            _ => is_of_api && self.is_about_all_nodes(),
        }
    }

    /// Whether `server` refuses it, because another server has taken over, or is about to.
    pub(crate) fn is_refused_by(self, server: &Handle) -> bool {
        matches!(self.destination(), Destination::EveryShard | Destination::OwnShards)
            && !machinery::takes_orders(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_for_actions() {
        let at = |method: Method, path: &'static str| Action::at(&method, path);
        assert_eq!(at(Method::GET, "/"), Ok((Action::Page, "")));
        assert_eq!(at(Method::HEAD, "/topics"), Ok((Action::ListTopics, "")));
        assert_eq!(at(Method::POST, "/topics/a/b"), Ok((Action::Publish, "a/b")));
        assert_eq!(at(Method::GET, "/topics/"), Ok((Action::ReadTopic, "")));
        assert_eq!(at(Method::POST, "/api/publish"), Ok((Action::Publish, "")));
        assert_eq!(at(Method::DELETE, "/connections/7"), Ok((Action::CloseOne, "7")));
        for path in ["", "/topicsx", "/API/publish", "/cluster/", "/cluster/other", "/identities", "/stats/"]
        {
            assert_eq!(at(Method::GET, path), Err(NoAction::Path), "{path}");
        }
        let methods = ["GET", "HEAD", "DELETE", "POST"];
        assert_eq!(at(Method::PUT, "/connections"), Err(NoAction::Method(methods.to_vec())));
        assert_eq!(Action::of_api("INFO"), None);
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn nodes_ask_each_other_for_what_each_answers_for_itself() {
        let is_asked = |(method, path): &(&str, &str)| {
            let method = Method::try_from(*method).expect("a method");
            let (action, _) = Action::at(&method, path).expect("an action");
            action.is_asked_by_nodes(path)
        };
        for asked in [
            ("GET", "/topics"),
            ("GET", "/connections"),
            ("DELETE", "/connections"),
            ("POST", "/connections"),
            ("GET", "/stats"),
            ("GET", "/limits"),
            ("POST", "/topics/a"),
            ("POST", "/api/info"),
            ("POST", "/api/disconnect"),
            ("POST", "/api/history_remove"),
            ("POST", "/api/revoke_token"),
        ] {
            assert!(is_asked(&asked), "{asked:?}");
        }
        for other in [
            ("GET", "/cluster/topics"),
            ("POST", "/api/publish"),
            ("POST", "/api/history"),
            ("POST", "/identities/a"),
            ("POST", "/reload"),
            ("PUT", "/log-level"),
        ] {
            assert!(!is_asked(&other), "{other:?}");
        }
    }

    /// The requests that the table of commands in docs/reference/admin.md has, with their place there.
    fn documented() -> Vec<(String, String)> {
        let text = include_str!("../../docs/reference/admin.md");
        let table = text.split_once("### Commands while a previous server drains").expect("the section").1;
        let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows = rows.take_while(|line| line.starts_with('|')).flat_map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(str::trim);
            let (requests, place) = (cells.next().expect("requests"), cells.next().expect("a place"));
            let requests = requests.split(", ").map(|request| request.trim_matches('`').to_owned());
            requests.map(|request| (request, place.to_owned())).collect::<Vec<_>>()
        });
        rows.collect()
    }

    /// Each command of both interfaces is in the table of the documents, and goes where that says.
    #[test]
    fn every_command_goes_where_the_documents_say() {
        let place = |destination| match destination {
            Destination::Nowhere => "nowhere",
            Destination::Topic => "the topic's owner shard",
            Destination::EveryShard => "every shard, or it fails",
            Destination::OwnShards => "the shards of the new server, as the answer says",
        };
        let commands = ROWS.iter().filter(|(_, destination, _)| *destination != Destination::Nowhere);
        let mut expected: Vec<(String, String)> = commands
            .flat_map(|(_, destination, requests)| requests.iter().map(|request| (request, *destination)))
            .map(|(request, destination)| ((*request).to_owned(), place(destination).to_owned()))
            .collect();
        let mut documented = documented();
        expected.sort();
        documented.sort();
        assert_eq!(documented, expected);
    }

    #[test]
    fn what_reads_is_requested_by_reading_and_what_changes_is_not() {
        for Request { method, path, action, .. } in &*REQUESTS {
            let is_read = *method == "GET" || (path.starts_with("/api/") && action.only_reads());
            assert_eq!(action.only_reads(), is_read, "{method} {path}");
        }
    }
}

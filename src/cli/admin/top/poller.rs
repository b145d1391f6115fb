//! Asks the admin address, on a thread of its own, because an answer may take seconds.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::answers::{Answers, Connections, Lists};
use crate::Failure;
use crate::admin::admin_client::{AdminClient, message};
use crate::limits::TOP_ROWS_MAX;

/// The questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Questions {
    pub(super) interval: Duration,
    pub(super) topic_order: &'static str,
    pub(super) is_paused: bool,
}

/// The orders of the list of topics, as the admin address calls them.
pub(super) const TOPIC_ORDERS: [&str; 5] = ["subscribers", "rate", "bytes", "dropped", "name"];

/// The order after this one.
pub(super) fn next(orders: &[&'static str], order: &str) -> &'static str {
    let at = orders.iter().position(|known| *known == order).unwrap_or(0);
    orders[(at + 1) % orders.len()]
}

/// Makes one round of questions.
///
/// # Errors
/// If the server does not answer, or not this client.
pub(super) fn ask(admin: &AdminClient, order: &str) -> Result<Answers, Failure> {
    let (status, line) = admin.request(Method::GET, "/healthz")?;
    let unhealthy = (status != StatusCode::OK).then(|| message(&line));
    let stats = get(admin, "/stats")?.unwrap_or_default();
    // Asking a stalled shard would delay the line that says so.
    let lists = if unhealthy.is_none() { ask_lists(admin, order).ok() } else { None };
    Ok(Answers { stats, unhealthy, lists })
}

fn ask_lists(admin: &AdminClient, order: &str) -> Result<Lists, Failure> {
    let path = format!("/topics?sort={}&limit={TOP_ROWS_MAX}", order);
    let topics = match get(admin, &path) {
        // Servers of before list topics by name only.
        Err(Failure::Usage(_)) => get(admin, &format!("/topics?limit={TOP_ROWS_MAX}"))?,
        answer => answer?,
    };
    let ranked = |order: &str| get(admin, &format!("/connections?sort={order}&limit={TOP_ROWS_MAX}"));
    let consumers: Option<Connections> = match ranked("lag") {
        // Servers of before rank by queued bytes only.
        Err(Failure::Usage(_)) => ranked("queued")?,
        answer => answer?,
    };
    Ok(Lists {
        topics: topics.unwrap_or_default(),
        consumers: consumers.map(|list| list.connections),
        limits: get(admin, "/limits")?.unwrap_or_default(),
    })
}

/// The JSON at a path; `None` if the server does not know the path.
fn get<T: DeserializeOwned>(admin: &AdminClient, path: &str) -> Result<Option<T>, Failure> {
    let (status, body) = admin.request(Method::GET, path)?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| Failure::Environment(format!("the answer to {path} cannot be read: {error}"))),
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::BAD_REQUEST => Err(Failure::Usage(message(&body))),
        _ => Err(Failure::Environment(format!("the server answers {status} to {path}: {}", message(&body)))),
    }
}

/// The thread that asks.
#[derive(Debug)]
pub(super) struct Poller {
    questions: Sender<Questions>,
    answers: Receiver<Result<Answers, Failure>>,
}

impl Poller {
    /// Asks from now on. The thread ends after its current question when this is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(admin: AdminClient, questions: Questions) -> io::Result<Poller> {
        let (sender, asked) = mpsc::channel();
        let (answering, answers) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("poller".to_owned())
            .spawn(move || poll(&admin, questions, &asked, &answering))?;
        Ok(Poller { questions: sender, answers })
    }

    /// Changes the questions, and asks at once unless they are paused.
    pub(super) fn change(&self, questions: Questions) {
        // The thread ends with this only.
        let _ = self.questions.send(questions);
    }

    /// An answer that has come since the last call.
    pub(super) fn next(&self) -> Option<Result<Answers, Failure>> {
        self.answers.try_recv().ok()
    }
}

fn poll(
    admin: &AdminClient,
    mut questions: Questions,
    changes: &Receiver<Questions>,
    answers: &SyncSender<Result<Answers, Failure>>,
) {
    loop {
        if !questions.is_paused && answers.send(ask(admin, questions.topic_order)).is_err() {
            return;
        }
        let changed = match questions.is_paused {
            true => changes.recv().map_err(RecvTimeoutError::from),
            false => changes.recv_timeout(questions.interval),
        };
        match changed {
            // Of several changes, the last one counts.
            Ok(change) => questions = changes.try_iter().last().unwrap_or(change),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

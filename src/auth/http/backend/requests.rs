//! The thread of a back end: sends the requests of its connections, some at the same time, and sends some of them again.
//!
//! A message is sent again only if the back end cannot have read it, because no connection was made, or has said when to try again. Events
//! about connections are sent again after any failure, because a back end can tell that it knows them: the id is the same.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use hyper::header::HeaderMap;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::connection::{BackendOutcome, Line, Prepared};
use super::counters::Counters;
use super::settings::BackendEvent;
use super::{Backend, wire};
use crate::http::http_client::{HttpClient, HttpError, random_id, retry_after};
use crate::http::signature::SigningSecrets;
use crate::limits::{BACKEND_ANSWER_BYTES_MAX, BACKEND_RETRY_DELAY_MAX, BACKEND_RETRY_DELAY_MIN};

/// Work for the thread. A connection is in its channel once, so there are at most as many as connections.
pub(super) enum Job {
    /// Send the events of a connection.
    Run(Arc<Line>),
    /// Answer once nothing waits.
    Finish(SyncSender<()>),
}

/// Starts the thread. It ends when the back end is dropped, and its connections are.
pub(super) fn start(backend: &Backend) -> io::Result<UnboundedSender<Job>> {
    let (sender, jobs) = unbounded_channel();
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
    let settings = &backend.settings;
    let requests_max = settings.requests_max;
    let (endpoint, secrets) = (backend.endpoint.clone(), backend.secrets.clone());
    let (path, limit, retries) = (settings.path.clone(), settings.timeout, settings.retries);
    let counters = Arc::clone(&backend.counters);
    thread::Builder::new().name("backend".to_owned()).spawn(move || {
        let requests = Requests {
            client: HttpClient::new(endpoint),
            turns: Semaphore::new(requests_max),
            running: Cell::new(0),
            idle: Notify::new(),
            path,
            secrets,
            timeout: limit,
            retries,
            counters,
        };
        run(&runtime, Rc::new(requests), jobs);
    })?;
    Ok(sender)
}

fn run(runtime: &Runtime, requests: Rc<Requests>, mut jobs: UnboundedReceiver<Job>) {
    LocalSet::new().block_on(runtime, async move {
        while let Some(job) = jobs.recv().await {
            let requests = Rc::clone(&requests);
            match job {
                Job::Run(line) => {
                    requests.running.update(|running| running + 1);
                    tokio::task::spawn_local(async move { requests.send_all(&line).await });
                }
                Job::Finish(done) => {
                    tokio::task::spawn_local(async move { requests.finish(&done).await });
                }
            }
        }
    });
}

struct Requests {
    client: HttpClient,
    turns: Semaphore,
    /// Connections whose events are being sent.
    running: Cell<usize>,
    /// None are.
    idle: Notify,
    path: String,
    secrets: SigningSecrets,
    timeout: Duration,
    retries: u32,
    counters: Arc<Counters>,
}

/// The result of one attempt.
enum Attempt {
    Done(BackendOutcome),
    /// Without a usable answer.
    Failed {
        problem: String,
        /// Whether the back end may have read the request.
        was_read: bool,
        /// Whether another attempt may help, and after which time if the back end has named one.
        may_retry: bool,
        after: Option<Duration>,
    },
}

impl Requests {
    async fn finish(&self, done: &SyncSender<()>) {
        while self.running.get() > 0 {
            self.idle.notified().await;
        }
        // Nobody waits any more.
        let _ = done.try_send(());
    }

    async fn send_all(&self, line: &Arc<Line>) {
        while let Some(mut request) = line.next() {
            let body = Bytes::from(std::mem::take(&mut request.body));
            let (outcome, is_known) = self.send(line, &request, body).await;
            if !line.complete(request, outcome, is_known) {
                break;
            }
        }
        self.running.update(|running| running - 1);
        if self.running.get() == 0 {
            self.idle.notify_waiters();
        }
    }

    /// Sends a request until there is an answer. Also returns whether the back end may have accepted what it is about.
    async fn send(&self, line: &Line, request: &Prepared, body: Bytes) -> (BackendOutcome, bool) {
        let id = random_id();
        let mut attempts = 0;
        let mut is_known = false;
        loop {
            let attempt = match &id {
                Ok(id) => self.attempt(id, request.event, body.clone()).await,
                Err(problem) => Attempt::failed(problem.clone(), false),
            };
            let (problem, may_retry, after) = match attempt {
                Attempt::Done(BackendOutcome::Refused(status)) => {
                    return (BackendOutcome::Refused(status), false);
                }
                Attempt::Done(outcome) => return (outcome, true),
                Attempt::Failed { problem, was_read, may_retry, after } => {
                    is_known |= was_read;
                    (problem, may_retry, after)
                }
            };
            if !may_retry || attempts == self.retries || line.is_pointless(request.event) {
                let (backend, event) = (&*self.path, request.event.word());
                tracing::warn!(
                    backend,
                    event,
                    attempts = attempts + 1,
                    problem,
                    "a back end did not answer an event"
                );
                return (BackendOutcome::Failed, is_known);
            }
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
            let usual = BACKEND_RETRY_DELAY_MIN.saturating_mul(1 << attempts.min(16));
            sleep(after.unwrap_or(usual).min(BACKEND_RETRY_DELAY_MAX)).await;
            attempts += 1;
        }
    }

    async fn attempt(&self, id: &str, event: BackendEvent, body: Bytes) -> Attempt {
        let Ok(_turn) = self.turns.acquire().await else {
            return Attempt::failed("the server ends".to_owned(), false);
        };
        let Some(fields) = self.secrets.sign_now(id, &body) else {
            return Attempt::failed("the request cannot be signed".to_owned(), false);
        };
        let _in_progress = InProgress::new(&self.counters);
        let posted = self.client.post_exactly(fields, body, BACKEND_ANSWER_BYTES_MAX);
        match timeout(self.timeout, posted).await {
            Ok(answered) => judge(event, answered),
            Err(_) => Attempt::unknown(format!("no answer within {:?}", self.timeout), event),
        }
    }
}

/// Counts a request in progress until it is dropped.
struct InProgress<'a>(&'a Counters);

impl InProgress<'_> {
    fn new(counters: &Counters) -> InProgress<'_> {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        InProgress(counters)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Attempt {
    /// Another attempt would not help.
    fn failed(problem: String, was_read: bool) -> Attempt {
        Attempt::Failed { problem, was_read, may_retry: false, after: None }
    }

    /// The back end may have read the request, and done what it says.
    fn unknown(problem: String, event: BackendEvent) -> Attempt {
        Attempt::Failed { problem, was_read: true, may_retry: event != BackendEvent::Message, after: None }
    }
}

/// The result of an attempt with this answer.
fn judge(event: BackendEvent, answered: Result<(Parts, Bytes), HttpError>) -> Attempt {
    let (head, body) = match answered {
        Ok(answered) => answered,
        Err(HttpError { is_unsent: true, problem }) => {
            return Attempt::Failed { problem, was_read: false, may_retry: true, after: None };
        }
        Err(HttpError { problem, .. }) => return Attempt::unknown(problem, event),
    };
    let status = head.status.as_u16();
    let problem = format!("its status is {status}");
    let after = retry_after(&head.headers);
    match status {
        // There is nothing to do for a connection that has ended.
        200..=299 if event == BackendEvent::Disconnect => {
            Attempt::Done(BackendOutcome::Answered(Default::default()))
        }
        200..=299 if !body.is_empty() && !is_json(&head.headers) => {
            Attempt::failed("its answer is not application/json".to_owned(), true)
        }
        200..=299 => match wire::answer(&body) {
            Ok(answer) => Attempt::Done(BackendOutcome::Answered(answer)),
            Err(problem) => Attempt::failed(format!("its answer is malformed: {problem}"), true),
        },
        429 | 503 if after.is_some() => Attempt::Failed { problem, was_read: false, may_retry: true, after },
        400..=499 if event == BackendEvent::Connect => Attempt::Done(BackendOutcome::Refused(status)),
        500..=599 if event != BackendEvent::Message => {
            Attempt::Failed { problem, was_read: false, may_retry: true, after: None }
        }
        _ => Attempt::failed(problem, false),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

//! The figures of a run for monitoring systems: the address that Prometheus scrapes while `bench` runs, and the collector that
//! they are sent to.
//!
//! A small HTTP server by hyper, on its own thread, answers with the text of the latest progress, which the conductor of the run
//! hands over a few times a second. The threads that make the load know nothing of it.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, oneshot};

#[cfg(feature = "otlp")]
use super::push::Pusher;
use crate::common::locked;
use crate::common::output::note;
use echoring_admin::limits::ADMIN_TIMEOUT;
use echoring_async::TokioStream;
use echoring_load::render::{self, CONTENT_TYPE as EXPOSITION, Figures, MessageRate};
use echoring_load::{RunProgress, RunStage};
use echoring_proto::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};

/// The server, in logs and as a thread.
const NAME: &str = "exporter";
/// Connections at once: a program makes one, a person another.
const CONNECTIONS_MAX: usize = 8;
/// How long answers that are under way at the end may take.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);
/// Time for which the last figures can be scraped if only one scrape was seen: a usual interval.
const LINGER_TIME: Duration = Duration::from_secs(15);
/// The same at most, where the interval of scrapes is known: Prometheus' own default and some more.
const LINGER_TIME_MAX: Duration = Duration::from_secs(75);
/// Interval of checks whether the user has stopped waiting.
const LINGER_STEP: Duration = Duration::from_millis(50);

/// The exporter of one `bench`, which ends with it.
#[derive(Debug)]
pub(super) struct Exporter {
    address: SocketAddr,
    shown: Arc<Mutex<Shown>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Everything that shows the figures of the runs in progress.
#[derive(Debug)]
pub(super) struct Monitoring {
    exporter: Option<Exporter>,
    #[cfg(feature = "otlp")]
    pusher: Option<Pusher>,
    message_rate: MessageRate,
    /// The number of the run, and when it began.
    run: (usize, SystemTime),
    last_stage: Option<RunStage>,
}

impl Monitoring {
    pub(super) fn new(
        exporter: Option<Exporter>,
        #[cfg(feature = "otlp")] pusher: Option<Pusher>,
    ) -> Monitoring {
        Monitoring {
            exporter,
            #[cfg(feature = "otlp")]
            pusher,
            message_rate: MessageRate::default(),
            run: (1, SystemTime::now()),
            last_stage: None,
        }
    }

    fn is_wanted(&self) -> bool {
        #[cfg(feature = "otlp")]
        if self.pusher.is_some() {
            return true;
        }
        self.exporter.is_some()
    }

    /// Shows a progress from now on.
    pub(super) fn show(&mut self, progress: &RunProgress<'_>) {
        if !self.is_wanted() {
            return;
        }
        let before = self.last_stage.replace(progress.stage);
        // Runs follow one another, and each begins by connecting.
        if progress.stage == RunStage::Connecting
            && before.is_some_and(|before| before != RunStage::Connecting)
        {
            self.run = (self.run.0 + 1, SystemTime::now());
        }
        let per_s = self.message_rate.observe(progress, Instant::now()).unwrap_or(0.0);
        let figures = Arc::new(render::figures(progress, self.run.0, per_s));
        if let Some(exporter) = &self.exporter {
            exporter.show(&figures);
        }
        #[cfg(feature = "otlp")]
        if let Some(pusher) = &self.pusher {
            pusher.show(&figures, self.run.1);
        }
    }

    /// Sends the last figures, and leaves them to be scraped. `stop` ends the wait. Reports a loss in a line.
    pub(super) fn finish(self, stop: &AtomicBool) -> Option<String> {
        #[cfg(feature = "otlp")]
        let lost = self.pusher.and_then(Pusher::finish);
        #[cfg(not(feature = "otlp"))]
        let lost = None;
        if let Some(exporter) = self.exporter {
            exporter.linger(stop);
        }
        lost
    }
}

/// The text to be scraped, and the scrapes so far.
#[derive(Debug, Default)]
struct Shown {
    text: Bytes,
    /// Number of the text, and of the one that was scraped last.
    version: u64,
    scraped: u64,
    latest: Option<Instant>,
    /// From one scrape to the next, at most.
    interval: Option<Duration>,
}

impl Shown {
    fn show(&mut self, text: String) {
        self.text = Bytes::from(text);
        self.version += 1;
    }

    fn scrape(&mut self, now: Instant) -> Bytes {
        if let Some(before) = self.latest.replace(now) {
            self.interval = self.interval.max(Some(now - before));
        }
        self.scraped = self.version;
        self.text.clone()
    }

    /// Time that is left for a scrape at `now`; zero after the last one, or if nobody scrapes.
    fn wanted_for(&self, now: Instant) -> Duration {
        let Some(latest) = self.latest.filter(|_| self.scraped < self.version) else { return Duration::ZERO };
        let patience = self.interval.map_or(LINGER_TIME, |interval| interval + interval / 4 + LINGER_STEP);
        (latest + patience.min(LINGER_TIME_MAX)).saturating_duration_since(now)
    }
}

impl Exporter {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When that is impossible.
    pub(super) fn start(address: SocketAddr) -> io::Result<Exporter> {
        let listener = echoring_runtime::listening::retry_busy(|| TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = echoring_async::local_runtime()?;
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (stop, stopped) = oneshot::channel();
        let theirs = shown.clone();
        let serving = move || runtime.block_on(serve(listener, theirs, stopped));
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(serving)?;
        Ok(Exporter { address, shown, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn show(&self, figures: &Figures) {
        locked(&self.shown).show(render::exposition(figures));
    }

    /// Leaves the last figures until they were scraped, where somebody scrapes: as long as from one scrape to the next. `stop`
    /// ends it.
    fn linger(&self, stop: &AtomicBool) {
        let wanted_for = || locked(&self.shown).wanted_for(Instant::now());
        let mut left = wanted_for();
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return;
        }
        let line = format!(
            "the final metrics can be scraped for {:.0} s more; Ctrl-C ends the wait",
            left.as_secs_f64().ceil()
        );
        note(line);
        while !left.is_zero() && !stop.load(Ordering::Relaxed) {
            thread::sleep(left.min(LINGER_STEP));
            left = wanted_for();
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once, or when what it was answering has left.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, shown: Arc<Mutex<Shown>>, mut stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "the exporter of this run cannot be reached"),
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let ((stream, _), permit) = tokio::select! {
            accepted = async {
                // The semaphore is never closed, so there is always a permit in the end.
                let permit = room.clone().acquire_owned().await.ok();
                (echoring_async::accept(NAME, async || listener.accept().await).await, permit)
            } => accepted,
            _ = &mut stopped => break,
        };
        let shown = shown.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &shown);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .keep_alive(false)
                // A client that has sent FIN still reads what it has asked for.
                .half_close(true)
                .max_buf_size(HEAD_BYTES_DEFAULT)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioStream(stream), service);
            // A request that is too slow, or not HTTP, gets no answer.
            let _ = tokio::time::timeout(Duration::from_nanos(ADMIN_TIMEOUT), connection).await;
            drop(permit);
        });
    }
    // Once all permits are free, no request is being answered. A client that reads too slowly is cut off.
    drop(listener);
    let all = room.acquire_many(CONNECTIONS_MAX as u32);
    let _ = tokio::time::timeout(LAST_ANSWERS_TIME, all).await;
}

fn answer(request: &Request<Incoming>, shown: &Mutex<Shown>) -> Response<Full<Bytes>> {
    const METHODS: &str = "GET, HEAD";
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, content_type, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, EXPOSITION, locked(shown).scrape(Instant::now()))
        }
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, TEXT, Bytes::from("the metrics are at /metrics\n"))
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, Bytes::from(format!("only {METHODS}\n"))),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, and its end");
        answer
    }

    #[test]
    fn the_last_text_stays_until_it_was_scraped_where_somebody_scrapes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut shown = Shown::default();
        shown.show("first".to_owned());
        assert_eq!(shown.wanted_for(after(1)), Duration::ZERO, "nobody asks");
        assert_eq!(shown.scrape(after(2)), "first");
        assert_eq!(shown.wanted_for(after(2)), Duration::ZERO, "it was asked for");
        shown.show("second".to_owned());
        assert_eq!(shown.wanted_for(after(2)), LINGER_TIME);
        assert_eq!(shown.scrape(after(6)), "second");
        shown.show("last".to_owned());
        assert_eq!(shown.wanted_for(after(7)), Duration::from_secs(4) + LINGER_STEP);
        assert_eq!(shown.wanted_for(after(60)), Duration::ZERO, "nobody comes any more");
        shown.scrape(after(60_000));
        shown.show("later".to_owned());
        assert_eq!(shown.wanted_for(after(60_000)), LINGER_TIME_MAX);
    }

    #[test]
    fn the_latest_text_is_on_one_path_and_dropping_the_exporter_frees_the_port() {
        let exporter = Exporter::start((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = exporter.address();
        for text in ["first 1\n", "second 2\n"] {
            exporter.shown.lock().expect("no panic").show(text.to_owned());
            let answer = ask(address, "GET /metrics");
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(text), "{answer}");
            assert!(answer.contains(EXPOSITION), "{answer}");
        }
        assert!(ask(address, "GET /").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "DELETE /metrics").starts_with("HTTP/1.1 405 "));
        drop(exporter);
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}

//! Changes the rate of a running load: by requests at an address, or by keys on a terminal.

use std::io::{self, IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use super::http::{self, Answer, HttpServer};
use crate::common::values;
use echoring_load::RateControl;

/// Maximum size of the body of a request in bytes.
const BODY_BYTES_MAX: usize = 64;
/// Change of the rate by one key.
const STEP: f64 = 1.1;
/// Interval of checks whether the run is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A change of a rate: `8000`, `10k`, `+500`, `-10%`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    To(u64),
    More(u64),
    Less(u64),
    /// A factor.
    By(f64),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let expected = |why: String| {
            format!("{why}: expected a rate such as 8000 or 10k, or a change such as +500 or -10%")
        };
        let (sign, number) = match text.as_bytes().first() {
            Some(b'+') => (1.0, &text[1..]),
            Some(b'-') => (-1.0, &text[1..]),
            _ => return values::rate(text).map(Change::To).map_err(expected),
        };
        if number.ends_with('%') {
            let share = values::share(number).map_err(expected)?;
            return Ok(Change::By(1.0 + sign * share));
        }
        let number = values::rate(number).map_err(expected)?;
        Ok(if sign > 0.0 { Change::More(number) } else { Change::Less(number) })
    }
}

impl Change {
    fn next(self, rate: u64) -> u64 {
        match self {
            Change::To(rate) => rate,
            Change::More(more) => rate.saturating_add(more),
            Change::Less(less) => rate.saturating_sub(less),
            Change::By(factor) => (rate as f64 * factor).round() as u64,
        }
    }
}

/// Listens for requests that read and change the rate.
///
/// # Errors
/// When it cannot listen there.
pub(super) fn listen(address: SocketAddr, control: Arc<RateControl>) -> io::Result<HttpServer> {
    let handler = move |request| -> Answer { Box::pin(answer(request, control.clone())) };
    HttpServer::start("control", address, Arc::new(handler))
}

async fn answer(
    request: Request<Incoming>,
    control: Arc<RateControl>,
) -> hyper::Response<http_body_util::Full<hyper::body::Bytes>> {
    if request.uri().path() != "/rate" {
        return http::plain(StatusCode::NOT_FOUND, "the rate is at /rate\n");
    }
    let rate = match *request.method() {
        Method::GET | Method::HEAD => control.rate(),
        Method::PUT => {
            let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
                return http::plain(StatusCode::PAYLOAD_TOO_LARGE, "expected a rate such as 8000\n");
            };
            let body = body.to_bytes();
            match str::from_utf8(&body).unwrap_or_default().trim().parse::<Change>() {
                Ok(change) => control.change(|rate| change.next(rate)),
                Err(why) => return http::plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
            }
        }
        _ => return http::wrong_method("GET, HEAD, PUT"),
    };
    match rate {
        Some(rate) => http::response(StatusCode::OK, "application/json", format!("{{\"rate\":{rate}}}\n")),
        None => http::plain(StatusCode::CONFLICT, "no load with a rate is running\n"),
    }
}

/// Reads keys from a terminal until it is dropped, or the run is stopped. Never: a terminal that is left in a changed
/// mode.
#[derive(Debug)]
pub(super) struct Keys {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The rates that were asked for.
    rates: mpsc::Receiver<u64>,
}

impl Keys {
    /// Where this process has the terminal. `stop` ends it as well.
    pub(super) fn read(control: Arc<RateControl>, stop: Arc<AtomicBool>) -> Option<Keys> {
        let has_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        // A process in the background would be stopped for changing the mode.
        let is_in_front = has_terminal && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        let saved = tcgetattr(io::stdin()).ok().filter(|_| is_in_front)?;
        let over = Arc::new(AtomicBool::new(false));
        let (sender, rates) = mpsc::channel();
        let theirs = over.clone();
        let mut silent = saved.clone();
        silent.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
        // Restored as well where the thread cannot be started.
        let restored = RestoredMode(saved);
        let reading = move || {
            while !theirs.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                let Some(key) = next_key() else { continue };
                let asked = match key {
                    b'+' => control.change(|rate| Change::By(STEP).next(rate).max(rate + 1)),
                    b'-' => control.change(|rate| Change::By(1.0 / STEP).next(rate).min(rate - 1)),
                    _ => None,
                };
                if let Some(rate) = asked {
                    let _ = sender.send(rate);
                }
            }
            drop(restored);
        };
        let thread = thread::Builder::new().name("keys".to_owned()).spawn(reading).ok()?;
        Some(Keys { over, thread: Some(thread), rates })
    }

    /// A rate that was asked for since the last call.
    pub(super) fn asked(&self) -> Option<u64> {
        self.rates.try_iter().last()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Restores the terminal's mode when it is dropped.
struct RestoredMode(Termios);

impl Drop for RestoredMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// A key, if one is pressed soon.
fn next_key() -> Option<u8> {
    let stdin = io::stdin();
    let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.subsec_nanos().into() };
    if !poll(&mut ready, Some(&timeout)).is_ok_and(|count| count > 0) {
        return None;
    }
    let mut key = [0];
    match stdin.lock().read(&mut key) {
        Ok(1) => Some(key[0]),
        _ => {
            // The terminal is gone.
            thread::sleep(LOOK_INTERVAL);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn a_rate_is_set_or_changed() {
        let next = |text: &str| text.parse::<Change>().map(|change| change.next(1_000));
        for (text, rate) in [
            ("8000", 8_000),
            ("10k", 10_000),
            ("+500", 1_500),
            ("-250", 750),
            ("-5k", 0),
            ("+10%", 1_100),
            ("-50%", 500),
        ] {
            assert_eq!(next(text), Ok(rate), "{text}");
        }
        for wrong in ["", "+", "fast", "1e3%", "-x", "+-5"] {
            assert!(next(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_running_load_there_is_no_rate() {
        let server = listen((Ipv4Addr::LOCALHOST, 0).into(), Arc::default()).expect("a free port");
        let ask = |request: &str| {
            let mut stream = TcpStream::connect(server.address()).expect("it listens");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            write!(stream, "{request}").expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer, and its end");
            answer.split("\r\n").next().unwrap_or_default().to_owned()
        };
        let put = |body: &str| {
            ask(&format!("PUT /rate HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        };
        assert_eq!(ask("GET /rate HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 409 Conflict");
        assert_eq!(put("5k"), "HTTP/1.1 409 Conflict");
        assert_eq!(put("soon"), "HTTP/1.1 400 Bad Request");
        assert_eq!(put(&"5".repeat(100)), "HTTP/1.1 413 Payload Too Large");
        assert_eq!(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(ask("DELETE /rate HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    }
}

//! The little that all examples share: one argument, a listener, and an end.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use echoring::aio::{Acceptance, Answer, Asked, Decision, Listener};
use tokio::net::{TcpListener, lookup_host};
use tokio::signal::unix::{SignalKind, signal};

/// The arguments of the command line, or `defaults` for those that are not given. `--help` prints what the example
/// is about, and ends it.
pub fn arguments<const N: usize>(about: &str, names: [&str; N], defaults: [&str; N]) -> [String; N] {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let usage = names.map(|name| format!(" [{name}]")).concat();
    let example = std::env::args().next().unwrap_or_default();
    let example = example.rsplit('/').next().unwrap_or_default();
    if given.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{about}\n\nUsage: {example}{usage}\n");
        for (name, default) in names.into_iter().zip(defaults) {
            println!("  {name:<10} {default} unless told otherwise");
        }
        std::process::exit(0);
    }
    if given.len() > N || given.iter().any(|argument| argument.starts_with('-')) {
        eprintln!("usage: {example}{usage}; --help tells more");
        std::process::exit(2);
    }
    let mut given = given.into_iter();
    defaults.map(|default| given.next().unwrap_or_else(|| default.to_owned()))
}

/// Listens on `HOST:PORT`, or on all interfaces for `:PORT`. As in Go, `localhost` is 127.0.0.1 if there is such.
///
/// Says where it listens in the words of the command line, unless that left the port to the kernel (port 0).
pub async fn listen(address: &str) -> io::Result<(Listener, String)> {
    let (listener, shown) = bind(address).await?;
    Ok((listener.into(), shown))
}

/// The same for axum, which wants a listener of tokio's.
pub async fn bind(address: &str) -> io::Result<(TcpListener, String)> {
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let mut addresses: Vec<SocketAddr> = lookup_host(full).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let listener = TcpListener::bind(&*addresses).await?;
    let shown = match address.strip_suffix(":0") {
        Some(_) => listener.local_addr()?.to_string(),
        None if address.starts_with(':') => format!("localhost{address}"),
        None => address.to_owned(),
    };
    Ok((listener, shown))
}

/// Lets the WebSockets of one path in, as a route of an HTTP server would.
pub fn only(path: &'static str) -> impl FnOnce(&Asked<'_>) -> Decision {
    move |asked| match asked.path() == path {
        true => Acceptance::new().into(),
        false => Answer::new(404, "404 page not found\n").into(),
    }
}

/// Runs `program` to its end, or until Ctrl-C (SIGINT) or SIGTERM, which are a good end. Dropping a future ends it
/// wherever it waits, so there is nothing to tell it.
pub async fn until_signal<E: From<io::Error>>(program: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let program = pin!(program);
    tokio::select! {
        ended = program => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

//! The code that all examples share: one argument, a listener, and shutdown.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;

use echoring::{Acceptance, Decision, HttpResponse, Listener, RequestHead};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, lookup_host};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// The arguments of the command line, or `defaults` for missing ones. `--help` prints the description of the example
/// and exits.
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

/// Listens on `HOST:PORT`, or on all interfaces for `:PORT`, with IPv4 and IPv6, because clients differ in which of
/// them they try for `localhost`.
///
/// Prints the address as given, or the actual one if the port is 0.
pub async fn listen(address: &str) -> io::Result<(Listener, String)> {
    let (listener, shown) = bind(address).await?;
    Ok((listener.into(), shown))
}

/// The same for axum, which needs tokio's listeners, one by one; see [`serve_all`].
pub async fn bind(address: &str) -> io::Result<(Vec<TcpListener>, String)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut unusable = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for mut wanted in addresses(address).await? {
        let first = listeners.first().map(TcpListener::local_addr).transpose()?;
        let follows = wanted.port() == 0 && first.is_some();
        if follows {
            wanted.set_port(first.map_or(0, |first| first.port()));
        }
        match listen_on(wanted) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !follows => return Err(error),
            // A host without IPv6, for one.
            Err(error) => unusable = error,
        }
    }
    let Some(first) = listeners.first() else { return Err(unusable) };
    let shown = match address.strip_suffix(":0") {
        Some(_) => first.local_addr()?.to_string(),
        None if address.starts_with(':') => format!("localhost{address}"),
        None => address.to_owned(),
    };
    Ok((listeners, shown))
}

/// IPv4 addresses first.
async fn addresses(address: &str) -> io::Result<Vec<SocketAddr>> {
    let pair = match address.rsplit_once(':') {
        Some(("", port)) => Some((port, [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])),
        Some(("localhost", port)) => Some((port, [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])),
        _ => None,
    };
    if let Some((port, pair)) = pair {
        let port = port.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "which port?"))?;
        return Ok(pair.map(|host| SocketAddr::new(host, port)).to_vec());
    }
    let mut addresses: Vec<SocketAddr> = lookup_host(address).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    Ok(addresses)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // IPv4 has a listener of its own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Serves on each of the listeners, with the future that `serve` makes for it.
pub async fn serve_all<F>(listeners: Vec<TcpListener>, serve: impl FnMut(TcpListener) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut serving: JoinSet<_> = listeners.into_iter().map(serve).collect();
    while let Some(ended) = serving.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Accepts WebSockets on one path, like a route of an HTTP server.
pub fn only(path: &'static str) -> impl FnOnce(&RequestHead<'_>) -> Decision {
    move |asked| match asked.path() == path {
        true => Acceptance::new().into(),
        false => HttpResponse::new(404, "404 page not found\n").into(),
    }
}

/// Runs `program` to its end, or until Ctrl-C (SIGINT) or SIGTERM, which count as success. Dropping a future ends it
/// wherever it waits, so no signal has to be passed on.
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

//! TCP connections with Happy Eyeballs (RFC 8305).

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep};

use crate::limits::CONNECT_STAGGER;

/// Connects to the address of `host` that answers first.
///
/// # Errors
/// If the name has no address, or no address can be connected to.
pub async fn connect_to(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = race(&resolve(host, port).await?, None).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to the one of these addresses that answers first; the families take turns (RFC 8305).
///
/// # Errors
/// If no address can be connected to.
pub async fn connect_to_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let stream = race(&interleave_families(addresses), None).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The addresses of a host, alternating between the families (RFC 8305, section 4).
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(interleave_families(found))
}

/// The family of the first address stays first.
fn interleave_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().map(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| Some(address.is_ipv6()) == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let before = turns.len();
        turns.extend(one.next());
        turns.extend(other.next());
        if turns.len() == before {
            return turns;
        }
    }
}

/// Connects to one of `addresses`: each is tried once those before it have failed or had their head start, and the
/// first that answers wins (RFC 8305, section 5). Dropping the future cancels all attempts.
pub(super) async fn race(addresses: &[SocketAddr], local: Option<SocketAddr>) -> io::Result<TcpStream> {
    let mut race = Race {
        untried: addresses.iter().copied().collect(),
        running: Vec::new(),
        next: None,
        failed: io::Error::new(io::ErrorKind::NotFound, "no address"),
    };
    poll_fn(|cx| race.poll(cx, local)).await
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

struct Race {
    untried: VecDeque<SocketAddr>,
    running: Vec<Attempt>,
    /// When the next address is tried although the previous ones have not failed.
    next: Option<Pin<Box<Sleep>>>,
    /// The error of the last failed attempt.
    failed: io::Error,
}

impl Race {
    fn poll(&mut self, cx: &mut Context<'_>, local: Option<SocketAddr>) -> Poll<io::Result<TcpStream>> {
        loop {
            let mut at = 0;
            while let Some(attempt) = self.running.get_mut(at) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        self.failed = error;
                        drop(self.running.remove(at));
                        self.next = None;
                    }
                    Poll::Pending => at += 1,
                }
            }
            let head_start = match &mut self.next {
                Some(next) => next.as_mut().poll(cx).is_pending(),
                None => false,
            };
            if head_start {
                return Poll::Pending;
            }
            let Some(address) = self.untried.pop_front() else {
                self.next = None;
                if self.running.is_empty() {
                    let empty = io::Error::from(io::ErrorKind::NotConnected);
                    return Poll::Ready(Err(std::mem::replace(&mut self.failed, empty)));
                }
                return Poll::Pending;
            };
            self.running.push(Box::pin(connect(address, local)));
            let another = !self.untried.is_empty();
            self.next = another.then(|| Box::pin(sleep(Duration::from_nanos(CONNECT_STAGGER))));
        }
    }
}

async fn connect(address: SocketAddr, local: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(local) = local {
        socket.bind(local)?;
    }
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn families_take_turns() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&[], &[]),
            (&["1.1.1.1:1"], &["1.1.1.1:1"]),
            (&["[::1]:1", "[::2]:1", "1.1.1.1:1"], &["[::1]:1", "1.1.1.1:1", "[::2]:1"]),
            (&["1.1.1.1:1", "[::1]:1", "[::2]:1"], &["1.1.1.1:1", "[::1]:1", "[::2]:1"]),
        ];
        for (found, turns) in cases {
            let all = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
            assert_eq!(interleave_families(all(found)), all(turns));
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_to_the_next() {
        let refusing = {
            let bound = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            bound.local_addr().expect("its address")
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listening = listener.local_addr().expect("its address");
        let stream = race(&[refusing, listening], None).await.expect("a connection");
        assert_eq!(stream.peer_addr().expect("its address"), listening);
        let refused = race(&[refusing, refusing], None).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race(&[], None).await.expect_err("nowhere").kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_loses_to_the_next() {
        // A listener whose backlog of one is full: the kernel drops further SYNs.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        full.bind(&address("127.0.0.1:0").into()).expect("a port");
        full.listen(0).expect("a listener");
        let silent = full.local_addr().expect("its address").as_socket().expect("of IP");
        let _filling = std::net::TcpStream::connect(silent).expect("the only place");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listening = listener.local_addr().expect("its address");
        let stream = race(&[silent, listening], None).await.expect("a connection");
        assert_eq!(stream.peer_addr().expect("its address"), listening);
    }

    #[tokio::test]
    async fn a_connection_uses_the_given_local_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listening = listener.local_addr().expect("its address");
        let stream = race(&[listening], Some(address("127.0.0.7:0"))).await.expect("a connection");
        assert_eq!(stream.local_addr().expect("its address").ip(), address("127.0.0.7:0").ip());
    }
}

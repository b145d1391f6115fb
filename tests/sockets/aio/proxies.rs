//! Connects through proxies: a CONNECT proxy on hyper, and a SOCKS5 proxy (RFC 1928, 1929), both with and without
//! credentials.

use std::convert::Infallible;
use std::net::SocketAddr;

use echoring_async::{DialError, Message, Proxy, ProxyError, SocksError, Upgrader};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ports;
use super::support::{dialer, echo_server, serve_each};
use super::tls::{Authority, tls_echo_server};

/// A CONNECT proxy that runs until the set is dropped and requires `Proxy-Authorization` to be `wanted`.
async fn connect_proxy(wanted: Option<&'static str>) -> (SocketAddr, JoinSet<()>) {
    serve_each(move |stream| async move {
        let service = service_fn(move |request| tunnel(request, wanted));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _ = serving.with_upgrades().await;
    })
    .await
}

async fn tunnel(
    request: Request<Incoming>,
    wanted: Option<&str>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let answer = |status: StatusCode| {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        Ok(response)
    };
    assert_eq!(request.headers()["host"], request.uri().authority().expect("a server").as_str());
    let said = request.headers().get("proxy-authorization").map(|value| value.to_str().expect("text"));
    if said != wanted {
        return answer(StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    }
    if request.method() != Method::CONNECT {
        return answer(StatusCode::METHOD_NOT_ALLOWED);
    }
    // The proxy resolves the name, not the client.
    let authority = request.uri().authority().expect("a server").as_str();
    let Ok(mut upstream) = TcpStream::connect(authority).await else {
        return answer(StatusCode::BAD_GATEWAY);
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let _ = copy_bidirectional(&mut TokioIo::new(upgraded), &mut upstream).await;
        }
    });
    answer(StatusCode::OK)
}

/// A SOCKS5 proxy that runs until the set is dropped. It requires the user name and password, if given.
async fn socks_proxy(wanted: Option<(&'static str, &'static str)>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            clients.spawn(async move {
                // A client that disconnects early is not an error of the proxy.
                let _ = socks(stream, wanted).await;
            });
        }
    });
    (address, proxy)
}

async fn socks(mut client: TcpStream, wanted: Option<(&str, &str)>) -> std::io::Result<()> {
    const NO_AUTHENTICATION: u8 = 0;
    const USER_AND_PASSWORD: u8 = 2;
    const NONE_ACCEPTABLE: u8 = 0xff;
    assert_eq!(client.read_u8().await?, 5);
    let methods = counted(&mut client).await?;
    let method = if wanted.is_some() { USER_AND_PASSWORD } else { NO_AUTHENTICATION };
    if !methods.contains(&method) {
        return client.write_all(&[5, NONE_ACCEPTABLE]).await;
    }
    client.write_all(&[5, method]).await?;
    if let Some((user, password)) = wanted {
        assert_eq!(client.read_u8().await?, 1);
        let said = (counted(&mut client).await?, counted(&mut client).await?);
        let right = said == (user.as_bytes().to_vec(), password.as_bytes().to_vec());
        client.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            return Ok(());
        }
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    assert_eq!(head[..3], [5, 1, 0], "CONNECT");
    let host = match head[3] {
        1 => std::net::Ipv4Addr::from_bits(client.read_u32().await?).to_string(),
        3 => String::from_utf8(counted(&mut client).await?).expect("a name"),
        4 => std::net::Ipv6Addr::from_bits(client.read_u128().await?).to_string(),
        other => panic!("address type {other}"),
    };
    let port = client.read_u16().await?;
    let (reply, upstream) = match TcpStream::connect((host.as_str(), port)).await {
        Ok(upstream) => (0, Some(upstream)),
        Err(_) => (5, None),
    };
    client.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    if let Some(mut upstream) = upstream {
        copy_bidirectional(&mut client, &mut upstream).await?;
    }
    Ok(())
}

/// Reads a length byte, then as many bytes.
async fn counted(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn echoes(proxy: Proxy, host: &str) {
    let (server, _running) = echo_server(Upgrader::new()).await;
    let dialer = dialer().proxy(proxy);
    let mut conn = dialer.dial(&format!("ws://{host}:{}/", server.port())).await.expect("a connection");
    // The connection is to the proxy.
    assert_ne!(conn.peer_addr(), Some(server));
    conn.write("through").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("through"));
}

/// The proxy's error for a port on which nothing listens.
async fn refusal(proxy: Proxy) -> ProxyError {
    let [nobody] = ports::free();
    match dialer().proxy(proxy).dial(&format!("ws://{nobody}/")).await.expect_err("no way through") {
        DialError::Proxy(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_http_proxy_is_asked_by_connect() {
    let (address, _proxy) = connect_proxy(None).await;
    echoes(Proxy::http(&format!("http://{address}")).expect("a proxy"), "127.0.0.1").await;
    echoes(Proxy::http(&address.to_string()).expect("a proxy"), "localhost").await;
    let proxy = Proxy::http(&address.to_string()).expect("a proxy");
    assert!(matches!(refusal(proxy).await, ProxyError::Status(502)));
}

#[tokio::test]
async fn an_http_proxy_is_told_user_and_password() {
    let (address, _proxy) = connect_proxy(Some("Basic dXNlcjpwQHNz")).await;
    echoes(Proxy::http(&format!("http://user:p%40ss@{address}")).expect("a proxy"), "localhost").await;
    for wrong in [format!("http://{address}"), format!("http://user:wrong@{address}")] {
        let error = refusal(Proxy::http(&wrong).expect("a proxy")).await;
        assert!(matches!(error, ProxyError::Status(407)), "{error:?}");
        assert!(error.to_string().contains("user name"));
    }
}

#[tokio::test]
async fn a_socks_proxy_is_asked_and_resolves_the_name() {
    let (address, _proxy) = socks_proxy(None).await;
    echoes(Proxy::socks5(&format!("socks5://{address}")).expect("a proxy"), "127.0.0.1").await;
    echoes(Proxy::socks5(&format!("socks5h://{address}")).expect("a proxy"), "localhost").await;
    let error = refusal(Proxy::socks5(&address.to_string()).expect("a proxy")).await;
    assert!(matches!(error, ProxyError::Socks(SocksError::Refused(5))), "{error:?}");
}

#[tokio::test]
async fn a_socks_proxy_is_told_user_and_password() {
    let (address, _proxy) = socks_proxy(Some(("user", "p@ss"))).await;
    echoes(Proxy::socks5(&format!("socks5://user:p%40ss@{address}")).expect("a proxy"), "localhost").await;
    for wrong in [format!("socks5://{address}"), format!("socks5://user:wrong@{address}")] {
        let error = refusal(Proxy::socks5(&wrong).expect("a proxy")).await;
        assert!(matches!(error, ProxyError::Socks(_)), "{error:?}");
    }
}

#[tokio::test]
async fn tls_goes_through_a_proxy_to_the_server_itself() {
    let authority = Authority::new();
    let (server, _running) = tls_echo_server(authority.certificate("localhost")).await;
    let (http, _http) = connect_proxy(None).await;
    let (socks, _socks) = socks_proxy(None).await;
    let proxies = [Proxy::http(&http.to_string()), Proxy::socks5(&socks.to_string())];
    for proxy in proxies {
        let dialer = dialer().proxy(proxy.expect("a proxy")).tls(authority.trusted());
        let url = format!("wss://localhost:{}/", server.port());
        let mut conn = dialer.dial(&url).await.expect("a connection");
        conn.write("sealed").await.expect("written");
        assert_eq!(conn.read().await.expect("the echo"), Message::from("sealed"));
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_something_else_is_no_proxy() {
    let (address, _server) = super::support::canned_server(b"SSH-2.0-OpenSSH\r\n".to_vec(), true).await;
    let error = refusal(Proxy::http(&address.to_string()).expect("a proxy")).await;
    assert!(matches!(error, ProxyError::Http(_)), "{error:?}");
    let [nobody] = ports::free();
    let dialer = dialer().proxy(Proxy::socks5(&nobody.to_string()).expect("a proxy"));
    let error = dialer.dial("ws://localhost/").await.expect_err("no proxy");
    assert!(matches!(error, DialError::Connect(_)), "{error:?}");
}

//! [`TestResponse`]: an HTTP response of the server.

use std::error::Error;
use std::fmt;

/// The response to a request: that of a plain route, or one that refuses an upgrade.
///
/// ```
/// use echoring::server::{Response, Server};
/// use echoring::testing::TestServer;
///
/// let server = TestServer::new(Server::builder().get("/hello", || Response::text(200, "hello\n")));
/// let response = server.get("/hello");
/// assert_eq!((response.status(), response.text().as_str()), (200, "hello\n"));
/// assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TestResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl TestResponse {
    /// Reads a response as far as it has arrived. The server's heads are UTF-8.
    pub(super) fn parse(bytes: &[u8]) -> TestResponse {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        let end = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END);
        let head = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        TestResponse {
            status: status.unwrap_or(0),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: end.map(|end| bytes[end + HEAD_END.len()..].to_vec()).unwrap_or_default(),
        }
    }

    /// The HTTP status; 0 if the server has closed the connection without a response.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of the first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body, as far as it has arrived: that of an event stream has no end.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as text; bytes that are not UTF-8 are replaced by U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Display for TestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            0 => f.write_str("the server closed the connection without a response"),
            status => write!(f, "the server answered {status}: {}", self.text().trim_end()),
        }
    }
}

impl Error for TestResponse {}

echoring_proto::error_debug!(struct TestResponse { status, headers, body });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_as_far_as_they_have_arrived() {
        for (bytes, status, header, body) in [
            ("HTTP/1.1 403 Forbidden\r\nRetry-After: 5\r\nA: b: c\r\n\r\nno\n", 403, Some("5"), "no\n"),
            ("HTTP/1.1 200 OK\r\n\r\na\r\n\r\nb", 200, None, "a\r\n\r\nb"),
            ("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5", 503, Some("5"), ""),
            ("", 0, None, ""),
            ("nonsense", 0, None, ""),
        ] {
            let response = TestResponse::parse(bytes.as_bytes());
            let seen = (response.status(), response.header("retry-after"), response.text());
            assert_eq!(seen, (status, header, body.to_owned()), "{bytes:?}");
        }
    }
}

//! Single HTTP requests of the program, each on its own connection.

use std::path::Path;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;

use echoring_async::tls::Trust;
use echoring_async::{TokioStream, Transport};

/// Any failure of a request.
pub(crate) type RequestError = Box<dyn std::error::Error + Send + Sync>;

/// The trust of `--ca-file` and `--insecure`.
pub(crate) fn trust(ca_file: Option<&Path>, insecure: bool) -> Trust {
    match ca_file {
        Some(file) => Trust::CaFile(file.to_owned()),
        None if insecure => Trust::Insecure,
        None => Trust::System,
    }
}

/// Makes one request on a connection. A longer answer than `answer_bytes_max` is an error.
///
/// The stream is boxed, so that the client is compiled once for all kinds of streams.
pub(crate) async fn ask(
    stream: Box<dyn Transport + Send>,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> Result<Response<Bytes>, RequestError> {
    let (mut sender, connection) = http1::handshake(TokioStream(stream)).await?;
    let driving = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, answer_bytes_max).collect().await?.to_bytes();
    driving.abort();
    Ok(Response::from_parts(head, body))
}

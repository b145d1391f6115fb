//! The upgrade request, and its response.

#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::{DialError, Response, Stage};
use super::{DialDeadline, Dialer};
use crate::handshake::{HeadError, read_head, write_head};
use crate::limits::{AIO_LINGER, REFUSAL_BODY_BYTES_MAX};
use crate::{Opened, Transport};
use echoring_proto::connection::{Entropy, Seed};
use echoring_proto::handshake::{
    self, BadHandshake, ResponseHead, check_field, parse_response, parse_response_head, write_request,
};
use echoring_proto::{Role, Url};

/// Sends the upgrade request of `dialer` for `url` over `stream`, and reads the response.
pub(super) async fn request_upgrade<S: Transport>(
    dialer: &Dialer,
    url: &Url,
    stream: &mut S,
    deadline: &DialDeadline,
) -> Result<(Opened, Response), DialError> {
    // For `Sec-WebSocket-Key` (RFC 6455, 4.1).
    let nonce = Entropy::new(Seed::System).nonce();
    let offer = dialer.settings.compression.as_ref().map(|compression| &compression.preferences);
    let mut request = Vec::new();
    write_request(&mut request, &request_head(dialer, url)?, nonce, offer);
    let mut bytes = BytesMut::new();
    let asking = async {
        write_head(stream, &request).await.map_err(HeadError::Io)?;
        read_head(stream, &mut bytes, |bytes| parse_response(bytes, nonce, offer)).await
    };
    let evaluated = match deadline.run(Stage::Upgrade, asking).await? {
        Ok((accepted, head_bytes)) => {
            accepted.check_subprotocol(&dialer.request.subprotocols).map(|()| (accepted, head_bytes))
        }
        Err(HeadError::Bad(why)) => Err(why),
        Err(HeadError::Gone) => return Err(DialError::Closed),
        Err(HeadError::Io(error)) => return Err(DialError::of_stream(error)),
    };
    // A response that is HTTP is returned to the caller even if it is not acceptable.
    let read = parse_response_head(&bytes).ok().flatten();
    let response = read.as_ref().map(|(head, _)| into_response(head));
    if let (Some(jar), Some(response)) = (&dialer.jar, &response) {
        let values = response.headers().get_all(SET_COOKIE).into_iter();
        values.filter_map(|value| value.to_str().ok()).for_each(|value| jar.store(url, value));
    }
    match evaluated {
        Ok((accepted, head_bytes)) => {
            let opened = Opened {
                role: Role::Client,
                subprotocol: accepted.subprotocol,
                agreement: accepted.agreement,
                early: bytes.split_off(head_bytes).freeze(),
                local: None,
                peer: None,
            };
            Ok((opened, response.unwrap_or_default()))
        }
        Err(why) => {
            let Some((mut response, (_, head_bytes))) = response.zip(read) else {
                return Err(DialError::BadHandshake { why, response: None });
            };
            let mut rest = bytes.split_off(head_bytes);
            if let BadHandshake::Status(_) = why {
                // Wait only briefly for the body: the status is informative without it, and a body need not end.
                let soon = deadline.min_with(Some(Duration::from_nanos(AIO_LINGER)));
                let _ = soon.run(Stage::Upgrade, read_body(stream, &response, &mut rest)).await;
                *response.body_mut() = body(&response, rest);
            }
            Err(refusal(why, response))
        }
    }
}

fn request_head(dialer: &Dialer, url: &Url) -> Result<handshake::Dial, DialError> {
    let mut request = dialer.request.clone();
    request.path.clone_from(&url.path);
    if request.host.is_empty() {
        request.host = url.authority();
    }
    if let Some(cookies) = dialer.jar.as_ref().and_then(|jar| jar.cookies(url)) {
        let name = "Cookie".to_owned();
        if let Err(why) = check_field(&name, &cookies) {
            return Err(DialError::BadField { name, why });
        }
        request.headers.push((name, cookies.into_bytes()));
    }
    Ok(request)
}

/// Fields that `http`'s types do not allow are omitted; our parser is slightly more lenient.
fn into_response(head: &ResponseHead) -> Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = http::StatusCode::from_u16(head.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    for (name, value) in &head.fields {
        let name = http::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn refusal(why: BadHandshake, response: Response) -> DialError {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    match (why, location) {
        (BadHandshake::Status(status @ (301 | 302 | 303 | 307 | 308)), Some(location)) => {
            DialError::Redirect { status, location: location.to_owned(), response: Box::new(response) }
        }
        _ => DialError::BadHandshake { why, response: Some(Box::new(response)) },
    }
}

/// Maximum number of body bytes to keep. Some responses have no body (RFC 9112, 6.3).
fn body_bytes_max(response: &Response) -> usize {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match response.status().as_u16() {
        204 | 304 => 0,
        _ => length.unwrap_or(usize::MAX).min(REFUSAL_BODY_BYTES_MAX),
    }
}

/// Reads the body behind the bytes that were already read, up to its end if the head defines one.
async fn read_body<S: AsyncRead + Unpin>(stream: &mut S, response: &Response, rest: &mut BytesMut) {
    let wanted = body_bytes_max(response);
    while rest.len() < wanted && !is_chunked_to_its_end(response, rest) {
        match stream.read_buf(rest).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

fn is_chunked(response: &Response) -> bool {
    let codings = response.headers().get(TRANSFER_ENCODING).and_then(|codings| codings.to_str().ok());
    codings.is_some_and(|codings| codings.trim().eq_ignore_ascii_case("chunked"))
}

fn is_chunked_to_its_end(response: &Response, rest: &[u8]) -> bool {
    is_chunked(response) && dechunked(rest).1
}

fn body(response: &Response, rest: BytesMut) -> Bytes {
    let mut body = match is_chunked(response) {
        true => Bytes::from(dechunked(&rest).0),
        false => rest.freeze(),
    };
    body.truncate(body_bytes_max(response));
    body
}

/// The received data of a chunked body (RFC 9112, 7.1), and whether the last chunk has arrived.
fn dechunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Ok(httparse::Status::Complete((line_bytes, chunk_bytes))) = httparse::parse_chunk_size(rest) {
        if chunk_bytes == 0 {
            return (body, true);
        }
        rest = &rest[line_bytes..];
        let here = rest.len().min(usize::try_from(chunk_bytes).unwrap_or(usize::MAX));
        body.extend_from_slice(&rest[..here]);
        rest = rest.get(here + 2..).unwrap_or_default();
    }
    (body, false)
}

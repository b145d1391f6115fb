//! The errors of commands: codes of the client protocol.

use echoring_wire::centrifuge::ErrorCode;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use echoring_server::PublishError;
use echoring_topics::Refused;

/// An error in a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ApiError {
    pub(super) code: u32,
    message: String,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, detail: &str) -> ApiError {
        ApiError { code: code.code(), message: format!("{}: {detail}", code.message()) }
    }

    /// The same error, of another node.
    pub(super) fn at_node(self, node: &str) -> ApiError {
        ApiError { message: format!("node {node}: {}", self.message), ..self }
    }
}

impl ApiError {
    /// The status of an answer that is this error.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            102 | 104 => StatusCode::NOT_FOUND,
            103 => StatusCode::FORBIDDEN,
            106..=110 => StatusCode::BAD_REQUEST,
            111 => StatusCode::TOO_MANY_REQUESTS,
            112 => StatusCode::RANGE_NOT_SATISFIABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> ApiError {
        ApiError { code: code.code(), message: code.message().to_owned() }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        let code = match refused {
            Refused::Busy | Refused::RateLimited => ErrorCode::TooManyRequests,
            Refused::TooManyTopics
            | Refused::TooManyByConnection
            | Refused::TooManyByIdentity
            | Refused::TooManyKeys
            | Refused::TooLarge => ErrorCode::LimitExceeded,
            Refused::NoKey | Refused::KeyReused => ErrorCode::BadRequest,
            Refused::Forbidden => ErrorCode::PermissionDenied,
            // The state of the server.
            _ => ErrorCode::Internal,
        };
        ApiError::new(code, &refused.to_string())
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> ApiError {
        let code = match error {
            PublishError::BadTopic
            | PublishError::BadKey(_)
            | PublishError::BadIdempotencyKey(_)
            | PublishError::TooDeep(_) => ErrorCode::BadRequest,
            PublishError::TooMany => ErrorCode::LimitExceeded,
            PublishError::Busy => ErrorCode::TooManyRequests,
            // The server has ended. Only handlers get others.
            _ => ErrorCode::Internal,
        };
        ApiError::new(code, &error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_codes_of_the_protocol() {
        for (refused, code) in [
            (Refused::Busy, 111),
            (Refused::RateLimited, 111),
            (Refused::OutOfMemory, 100),
            (Refused::Unreachable, 100),
            (Refused::TooLarge, 106),
            (Refused::TooManyTopics, 106),
            (Refused::NoKey, 107),
            (Refused::KeyReused, 107),
            (Refused::Forbidden, 103),
        ] {
            assert_eq!(ApiError::from(refused).code, code, "{refused:?}");
        }
        for (error, code) in [
            (PublishError::BadTopic, 107),
            (PublishError::TooDeep(0), 107),
            (PublishError::Busy, 111),
            (PublishError::Ended, 100),
        ] {
            assert_eq!(ApiError::from(error).code, code, "{error:?}");
        }
    }
}

//! The names of close codes on the page.

use echoring_proto::CloseCode;

/// Every code that has a constant.
const NAMES: [(CloseCode, &str); 18] = [
    (CloseCode::NORMAL, "normal"),
    (CloseCode::GOING_AWAY, "going away"),
    (CloseCode::PROTOCOL, "protocol error"),
    (CloseCode::UNSUPPORTED, "unsupported data"),
    (CloseCode::NO_STATUS, "no code"),
    (CloseCode::ABNORMAL, "no Close frame"),
    (CloseCode::INVALID_PAYLOAD, "invalid text"),
    (CloseCode::POLICY, "policy"),
    (CloseCode::TOO_BIG, "too big"),
    (CloseCode::INTERNAL, "internal error"),
    (CloseCode::SERVICE_RESTART, "service restart"),
    (CloseCode::TRY_AGAIN_LATER, "try again later"),
    (CloseCode::BAD_GATEWAY, "bad gateway"),
    (CloseCode::CREDENTIALS_ENDED, "credentials ended"),
    (CloseCode::FORBIDDEN, "no longer allowed"),
    (CloseCode::SLOW_CONSUMER, "slow consumer"),
    (CloseCode::SLOW_MESSAGE, "slow message"),
    (CloseCode::CLOSED_BY_OPERATOR, "closed by an operator"),
];

/// An object of JavaScript from codes to names.
pub(super) fn object() -> String {
    let entries: Vec<String> = NAMES.iter().map(|(code, name)| format!("{code}: \"{name}\"")).collect();
    format!("{{ {} }}", entries.join(", "))
}

#[cfg(test)]
pub(crate) fn name(code: u16) -> &'static str {
    NAMES.iter().find(|(known, _)| known.0 == code).expect("it has a name").1
}

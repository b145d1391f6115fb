//! Reloads, authentication, and access to the admin address.

use std::path::PathBuf;

use super::super::family::{Families, Labels, label};
use crate::access::failed_attempts::AttemptFigures;
use crate::reload::ReloadFigures;
use echoring_server::AuthFigures;

pub(super) fn reloads(out: &mut Families, reloads: ReloadFigures) {
    out.counters(
        "echoring_reloads_total",
        "Reloads of the configuration, by result. A refused one changed nothing.",
        [(label("result", "accepted"), reloads.accepted), (label("result", "refused"), reloads.refused)],
    );
    out.gauge(
        "echoring_last_reload_refused",
        "1 while the latest reload was refused: the files differ from the configuration in effect.",
        u64::from(reloads.last_refused),
    );
}

pub(super) fn auth(out: &mut Families, auth: &AuthFigures, uptime_s: f64) {
    let accepted = auth.accepted.iter().map(|(method, count)| (label("method", method), *count));
    out.counters(
        "echoring_authentications_total",
        "Clients admitted, by the method that accepted their credentials; none for clients without \
         credentials.",
        accepted.chain([(label("method", "none"), auth.anonymous)]),
    );
    out.counters(
        "echoring_authentication_refusals_total",
        "Refused handshakes, subscriptions and fresh tokens, by reason.",
        auth.refused.iter().map(|(reason, count)| (label("reason", reason), *count)),
    );
    out.counter("echoring_tokens_refreshed_total", "Fresh tokens presented by sessions.", auth.refreshed);
    out.counters(
        "echoring_credentials_ended_total",
        "Connections closed because their credentials ended, by cause.",
        [(label("cause", "expired"), auth.expired), (label("cause", "withdrawn"), auth.withdrawn)],
    );
    // Only a server with a key set has samples.
    let key_set = auth.key_set.as_ref();
    out.gauges(
        "echoring_key_set_age_seconds",
        "Time since the key set of [auth] was last read, or since the start if it never was.",
        key_set.map(|set| (Labels::new(), set.age_s.map_or(uptime_s, |age_s| age_s as f64))),
    );
    out.gauges(
        "echoring_key_set_last_success_timestamp_seconds",
        "When the key set of [auth] was last read, in seconds since 1970; 0 if it never was.",
        key_set.map(|set| (Labels::new(), set.read_at.unwrap_or(0))),
    );
    out.counters(
        "echoring_key_set_failures_total",
        "Failed reads of the key set of [auth].",
        key_set.map(|set| (Labels::new(), set.failures)),
    );
}

pub(super) fn admin(out: &mut Families, refused: AttemptFigures) {
    out.counters(
        "echoring_admin_refusals_total",
        "Requests refused at the admin address: unauthorized (no token or a wrong one), forbidden (a token \
         or user without this permission).",
        [
            (label("reason", "unauthorized"), refused.unauthorized),
            (label("reason", "forbidden"), refused.forbidden),
        ],
    );
}

pub(super) fn certificates(out: &mut Families, expiries: &[(PathBuf, u64)]) {
    out.gauges(
        "echoring_tls_certificate_expiry_timestamp_seconds",
        "Expiry of the first certificate in each configured file, in seconds since the Unix epoch.",
        expiries.iter().map(|(file, at)| (label("file", file.display()), *at)),
    );
}

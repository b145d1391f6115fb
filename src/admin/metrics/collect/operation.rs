//! Reloads, takeovers, authentication, and access to the admin address.

use std::sync::atomic::Ordering::Relaxed;

use super::super::family::{Families, Labels};
use crate::access::failed_attempts::AttemptFigures;
use crate::reload::ReloadCounters;
use echoring_async::tls::CertificateReport;
use echoring_auth::WEBHOOKS;
use echoring_server::AuthFigures;

pub(super) fn reloads(out: &mut Families, reloads: &ReloadCounters) {
    out.counters("echoring_reloads_total")
        .by(
            "result",
            [("accepted", reloads.accepted.load(Relaxed)), ("refused", reloads.refused.load(Relaxed))],
        )
        .help("Reloads of the configuration, by result. A refused one changed nothing.");
    out.gauge("echoring_last_reload_refused", u64::from(reloads.last_refused.load(Relaxed)))
        .help("1 while the latest reload was refused: the files differ from the configuration in effect.");
}

pub(super) fn takeovers(out: &mut Families, failed: u64) {
    out.counter("echoring_takeovers_failed_total", failed).help(
        "Takeovers by a successor, and changes of the number of shards, that failed: this server went on. After one that succeeds, \
             the successor counts.",
    );
}

pub(super) fn auth(out: &mut Families, auth: &AuthFigures, uptime_s: f64) {
    let accepted = auth.accepted.iter().map(|(method, count)| (*method, *count));
    out.counters("echoring_authentications_total")
        .by("method", accepted.chain([("none", auth.anonymous)]))
        .help(
            "Clients admitted, by the method that accepted their credentials; none for clients without \
             credentials.",
        );
    out.counters("echoring_authentication_refusals_total")
        .by("reason", auth.refused.iter().map(|(reason, count)| (reason, *count)))
        .help("Refused handshakes, subscriptions and fresh tokens, by reason.");
    out.counter("echoring_tokens_refreshed_total", auth.refreshed)
        .help("Fresh tokens presented by sessions.");
    out.counters("echoring_credentials_ended_total")
        .by("cause", [("expired", auth.expired), ("withdrawn", auth.withdrawn)])
        .help("Connections closed because their credentials ended, by cause.");
    // Only a server with a key set has samples.
    let key_set = auth.key_set.as_ref();
    out.gauges("echoring_key_set_age_seconds")
        .samples(key_set.map(|set| (Labels::new(), set.age_s.map_or(uptime_s, |age_s| age_s as f64))))
        .help("Time since the key set of [auth] was last read, or since the start if it never was.");
    out.gauges("echoring_key_set_last_success_timestamp_seconds")
        .samples(key_set.map(|set| (Labels::new(), set.read_at.unwrap_or(0))))
        .help("When the key set of [auth] was last read, in seconds since 1970; 0 if it never was.");
    out.counters("echoring_key_set_failures_total")
        .samples(key_set.map(|set| (Labels::new(), set.failures)))
        .help("Failed reads of the key set of [auth].");
}

pub(super) fn webhooks(out: &mut Families) {
    out.counter("echoring_webhook_events_delivered_total", WEBHOOKS.delivered.load(Relaxed))
        .help("Events that webhooks have accepted.");
    out.counters("echoring_webhook_events_lost_total").by("cause", WEBHOOKS.lost()).help(
        "Events that a webhook did not get, by cause: queue_full (the queue had no room), refused (answered with a status that forbids \
             another attempt), expired (older than give_up_after), ended (the process has ended).",
    );
    out.counter("echoring_webhook_requests_failed_total", WEBHOOKS.failed_requests.load(Relaxed))
        .help("Requests to webhooks that failed and are made again.");
    out.gauge("echoring_webhook_events_waiting", WEBHOOKS.waiting_events.load(Relaxed))
        .help("Events in the queues of the webhooks.");
    out.gauge("echoring_webhook_queue_bytes", WEBHOOKS.waiting_bytes.load(Relaxed))
        .help("Bytes of these events.");
}

pub(super) fn admin(out: &mut Families, refused: AttemptFigures) {
    out.counters("echoring_admin_refusals_total")
        .by("reason", [("unauthorized", refused.unauthorized), ("forbidden", refused.forbidden)])
        .help(
            "Requests refused at the admin address: unauthorized (no token or a wrong one), forbidden (a \
             token or user without this permission).",
        );
}

pub(super) fn certificates(out: &mut Families, reports: &[CertificateReport]) {
    let sample = |report: &CertificateReport| {
        let file = report.file.display().to_string();
        let labels = vec![("file", file), ("number", report.number.to_string()), ("key", report.key.clone())];
        (labels, report.expires_at)
    };
    out.gauges("echoring_tls_certificate_expiry_timestamp_seconds").samples(reports.iter().map(sample)).help(
        "Expiry of each certificate, in seconds since the Unix epoch: by its file, its number in that file, and the \
         kind of its key. Of more than 128, those that expire first.",
    );
}

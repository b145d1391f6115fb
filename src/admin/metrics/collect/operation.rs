//! Reloads, takeovers, authentication, and access to the admin address.

use std::sync::atomic::Ordering::Relaxed;

use super::super::family::{Families, Labels};
use crate::access::failed_attempts::AttemptFigures;
use crate::reload::ReloadCounters;
use echoring_async::tls::CertificateReport;
use echoring_auth::CallMetric;
use echoring_server::AuthFigures;
use echoring_server::machinery::{ProcessFigures, StayReason};

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

pub(super) fn processes(out: &mut Families, processes: &ProcessFigures) {
    let staying = StayReason::ALL.map(|reason| (reason.name(), processes.staying.of(reason)));
    out.gauges("echoring_predecessor_connections").by("reason", staying).help(
        "Connections of the previous server that have not moved here, by reason: tls (its session cannot go on elsewhere), handler (it does not \
         migrate), unread (the client does not read, or awaits an answer), refused (not taken in here), driver (the driver cannot give \
         it up), unopened (in its handshake, or closing).",
    );
    out.counter("echoring_predecessor_connections_cut_total", processes.cut).help(
        "Connections of previous servers that were open when their process ended before the drain was over.",
    );
    out.counter("echoring_takeovers_failed_total", processes.failed).help(
        "Takeovers by a successor that failed after they had begun: this server went on. A successor that ends before, such as for a wrong \
             configuration, is not counted. After one that succeeds, the successor counts.",
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

/// Metrics of calls to other services.
pub(super) fn calls<T>(out: &mut Families, metrics: &[CallMetric<T>], services: &[T]) {
    for metric in metrics {
        let is_counter = metric.name.ends_with("_total");
        let family = if is_counter { out.counters(metric.name) } else { out.gauges(metric.name) };
        family.samples(services.iter().flat_map(metric.samples)).help(metric.help);
    }
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

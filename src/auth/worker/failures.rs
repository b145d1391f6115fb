//! The delay of answers to wrong passwords: it grows with each failure of an address or a name. A right one is answered at once,
//! whatever others have tried under its name.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::calls::load::Source;
use crate::calls::{PASSWORDS, lock};
use crate::limits::{PASSWORD_FAILURES_FORGOTTEN, PASSWORD_SOURCES_MAX};

/// The failures of addresses and names.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<Source, Failed>>);

#[derive(Debug)]
struct Failed {
    /// How often, since it was forgotten.
    count: u32,
    at: Instant,
}

impl Failed {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= PASSWORD_FAILURES_FORGOTTEN
    }
}

impl Failures {
    /// Counts a failure. Returns the time after which it is to be answered.
    pub(super) fn fail(&self, source: Source, now: Instant) -> Duration {
        let mut failures = lock(&self.0);
        if failures.len() >= PASSWORD_SOURCES_MAX && !failures.contains_key(&source) {
            failures.retain(|_, failed| !failed.is_forgotten(now));
        }
        if failures.len() >= PASSWORD_SOURCES_MAX && !failures.contains_key(&source) {
            let oldest =
                failures.iter().min_by_key(|(_, failed)| failed.at).map(|(source, _)| source.clone());
            oldest.and_then(|oldest| failures.remove(&oldest));
        }
        let failed = failures.entry(source).or_insert(Failed { count: 0, at: now });
        if failed.is_forgotten(now) {
            failed.count = 0;
        }
        *failed = Failed { count: failed.count.saturating_add(1), at: now };
        PASSWORDS.retry.after(failed.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PASSWORD_DELAY_MAX, PASSWORD_DELAY_MIN};

    fn name(text: &str) -> Source {
        Source::Name(text.into())
    }

    #[test]
    fn each_failure_is_answered_later_up_to_a_bound() {
        let (failures, now) = (Failures::default(), Instant::now());
        let delays: Vec<Duration> = (0..40).map(|_| failures.fail(name("a"), now)).collect();
        assert_eq!(
            (delays[0], delays[1], delays[2], delays[39]),
            (PASSWORD_DELAY_MIN, 2 * PASSWORD_DELAY_MIN, 4 * PASSWORD_DELAY_MIN, PASSWORD_DELAY_MAX)
        );
        assert_eq!(failures.fail(name("b"), now), PASSWORD_DELAY_MIN);
        assert_eq!(
            failures.fail(name("a"), now + PASSWORD_FAILURES_FORGOTTEN),
            PASSWORD_DELAY_MIN,
            "forgotten"
        );
    }

    #[test]
    fn sources_are_bounded_and_those_that_fail_again_stay() {
        let (failures, now) = (Failures::default(), Instant::now());
        failures.fail(name("first"), now);
        for number in 0..2 * PASSWORD_SOURCES_MAX as u32 {
            let now = now + Duration::from_millis(number.into());
            failures.fail(name(&number.to_string()), now);
            failures.fail(name("first"), now);
        }
        assert!(lock(&failures.0).len() <= PASSWORD_SOURCES_MAX);
        assert_eq!(failures.fail(name("first"), now), PASSWORD_DELAY_MAX);
    }
}

//! The number of waiting decisions of one address and one name, and the delay of answers to wrong passwords.
//!
//! The answer to a wrong password is delayed longer with each failure of its address or name, and takes a place of its
//! address until then. A right one is answered at once, whatever others have tried under its name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits::{
    PASSWORD_DELAY_MAX, PASSWORD_DELAY_MIN, PASSWORD_FAILURES_FORGOTTEN, PASSWORD_SOURCES_MAX,
};

/// Where questions come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// An address of IPv4, or the /64 of one of IPv6, the usual allocation of a single host.
    Address(IpAddr),
    /// The name of a user, whether there is such a user or not.
    Name(Box<str>),
}

impl Source {
    pub(super) fn of(address: IpAddr) -> Source {
        Source::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        })
    }
}

/// The shares of the sources.
#[derive(Debug, Default)]
pub(super) struct Shares(RefCell<BTreeMap<Source, Share>>);

#[derive(Debug, Default)]
struct Share {
    /// Questions that wait.
    waiting: usize,
    /// Failures since it was forgotten, and the last of them.
    failures: u32,
    failed_at: Option<Instant>,
}

impl Share {
    fn is_forgotten(&self, now: Instant) -> bool {
        self.failed_at.is_none_or(|at| now.saturating_duration_since(at) >= PASSWORD_FAILURES_FORGOTTEN)
    }
}

/// A place that a question of a source takes, until it is dropped.
pub(super) struct Place<'a> {
    shares: &'a Shares,
    source: Source,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut shares = self.shares.0.borrow_mut();
        let Some(share) = shares.get_mut(&self.source) else { return };
        share.waiting -= 1;
        if share.waiting == 0 && share.failures == 0 {
            shares.remove(&self.source);
        }
    }
}

impl Shares {
    /// Takes a place, unless the source has `most` of them.
    pub(super) fn take(&self, source: Source, most: usize) -> Option<Place<'_>> {
        let mut shares = self.0.borrow_mut();
        let share = shares.entry(source.clone()).or_default();
        (share.waiting < most).then(|| {
            share.waiting += 1;
            Place { shares: self, source }
        })
    }

    /// Counts a failure of a source that has a place. Returns the time after which it is to be answered.
    pub(super) fn fail(&self, place: &Place<'_>, now: Instant) -> Duration {
        let mut shares = self.0.borrow_mut();
        if shares.len() > PASSWORD_SOURCES_MAX {
            shares.retain(|_, share| share.waiting > 0 || !share.is_forgotten(now));
        }
        if shares.len() > PASSWORD_SOURCES_MAX {
            let idle = shares.iter().filter(|(_, share)| share.waiting == 0);
            let oldest = idle.min_by_key(|(_, share)| share.failed_at).map(|(source, _)| source.clone());
            oldest.and_then(|oldest| shares.remove(&oldest));
        }
        let share = shares.entry(place.source.clone()).or_default();
        if share.is_forgotten(now) {
            share.failures = 0;
        }
        share.failures = share.failures.saturating_add(1);
        share.failed_at = Some(now);
        let factor = 1_u32.checked_shl(share.failures - 1).unwrap_or(u32::MAX);
        PASSWORD_DELAY_MIN.saturating_mul(factor).min(PASSWORD_DELAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Source {
        Source::of(text.parse().expect("an address"))
    }

    #[test]
    fn a_source_has_a_share_of_the_places() {
        let shares = Shares::default();
        let taken: Vec<_> = (0..9).map_while(|_| shares.take(address("192.0.2.1"), 4)).collect();
        assert_eq!(taken.len(), 4);
        assert!(shares.take(address("::ffff:192.0.2.1"), 4).is_none(), "the same host");
        assert!(shares.take(address("192.0.2.2"), 4).is_some());
        let network = shares.take(address("2001:db8::1"), 1).expect("room");
        assert!(shares.take(address("2001:db8::2:3"), 1).is_none(), "the same network");
        assert!(shares.take(Source::Name("192.0.2.1".into()), 4).is_some());
        drop((taken, network));
        assert!(shares.0.borrow().is_empty(), "what takes nothing is forgotten");
    }

    #[test]
    fn each_failure_is_answered_later_up_to_a_bound() {
        let (shares, now) = (Shares::default(), Instant::now());
        let place = shares.take(address("192.0.2.1"), 4).expect("room");
        let delays: Vec<Duration> = (0..40).map(|_| shares.fail(&place, now)).collect();
        assert_eq!(
            (delays[0], delays[1], delays[2], delays[39]),
            (PASSWORD_DELAY_MIN, 2 * PASSWORD_DELAY_MIN, 4 * PASSWORD_DELAY_MIN, PASSWORD_DELAY_MAX)
        );
        let other = shares.take(address("192.0.2.2"), 4).expect("room");
        assert_eq!(shares.fail(&other, now), PASSWORD_DELAY_MIN);
        assert_eq!(shares.fail(&place, now + PASSWORD_FAILURES_FORGOTTEN), PASSWORD_DELAY_MIN, "forgotten");
    }

    #[test]
    fn sources_are_bounded_and_those_that_have_places_stay() {
        let (shares, now) = (Shares::default(), Instant::now());
        let first = shares.take(Source::Name("first".into()), 4).expect("room");
        shares.fail(&first, now);
        for number in 0..2 * PASSWORD_SOURCES_MAX {
            let place = shares.take(Source::Name(number.to_string().into()), 4).expect("room");
            shares.fail(&place, now + Duration::from_millis(number as u64));
        }
        assert!(shares.0.borrow().len() <= PASSWORD_SOURCES_MAX + 1);
        assert_eq!(shares.fail(&first, now), 2 * PASSWORD_DELAY_MIN);
    }
}

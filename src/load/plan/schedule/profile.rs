//! The profile of a rate: constant and linear pieces, and the time at which each message is due.
//!
//! Messages are counted by the integral of the rate, in units that are whole numbers wherever two pieces meet. Only the
//! final time is rounded, down to a nanosecond, so no run is long enough to drift.
//!
//! Never: a clock, a random number.

use std::sync::Arc;

use crate::plan::declared::part;
use std::time::Duration;

use echoring_proto::limits::{Nanos, SECOND};

/// Maximum rate in messages per second: one per nanosecond.
pub const RATE_MAX: u64 = 1_000_000_000;
/// An integral of a rate, in half nanoseconds of one message per second.
pub(crate) type Volume = u128;
/// The volume of one message.
pub(crate) const MESSAGE: Volume = 2 * SECOND as Volume;
/// Maximum length of a piece: 24 hours, so that products of volumes and times fit into 128 bits.
pub const STAGE_TIME_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Maximum number of stages of a run. Each has its own distributions.
pub const STAGES_MAX: usize = 64;

part! {
    /// A part of an open loop's time, in which the rate is constant or changes linearly.
    #[derive(Copy, Eq)]
    RateStage {
        /// Length of the stage.
        #[serde(rename = "seconds", with = "crate::plan::units::seconds")]
        time: Duration,
        /// Messages per second at its beginning, 0 to [`RATE_MAX`].
        from: u64,
        /// Messages per second at its end; the same as `from` for a constant rate.
        to: u64,
    }
}

/// A rate over time. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// This many messages per second for ever.
    Constant(u64),
    /// One piece after the other.
    Pieces(Arc<[Piece]>),
}

/// A part of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    begins: Nanos,
    length: Nanos,
    from: u64,
    to: u64,
    /// The volume of the pieces before it.
    before: Volume,
    /// The volume including this piece.
    after: Volume,
}

impl Profile {
    /// A constant rate of 1 to [`RATE_MAX`] messages per second.
    pub fn constant(rate: u64) -> Profile {
        Profile::Constant(rate.clamp(1, RATE_MAX))
    }

    /// One stage after the other, then `then` messages per second for ever, or nothing. Stages longer than
    /// [`STAGE_TIME_MAX`] are cut.
    pub fn new(stages: impl IntoIterator<Item = RateStage>, then: Option<u64>) -> Profile {
        let (mut begins, mut before) = (0, 0);
        let mut pieces: Vec<Piece> = Vec::new();
        for RateStage { time, from, to } in stages {
            let length = time.min(STAGE_TIME_MAX).as_nanos() as Nanos;
            let (from, to) = (from.min(RATE_MAX), to.min(RATE_MAX));
            let after = before + Volume::from(from + to) * Volume::from(length);
            pieces.push(Piece { begins, length, from, to, before, after });
            (begins, before) = (begins + length, after);
        }
        match then {
            Some(rate) if pieces.is_empty() => return Profile::constant(rate),
            Some(rate) => {
                let rate = rate.clamp(1, RATE_MAX);
                let (length, after) = (Nanos::MAX - begins, Volume::MAX);
                pieces.push(Piece { begins, length, from: rate, to: rate, before, after });
            }
            None => {}
        }
        Profile::Pieces(pieces.into())
    }

    /// The integral from the start of the profile up to `time`, rounded down.
    pub(crate) fn volume_at(&self, time: Nanos) -> Volume {
        match self {
            Profile::Constant(rate) => Volume::from(2 * rate) * Volume::from(time),
            Profile::Pieces(pieces) => {
                let at = pieces.partition_point(|piece| piece.begins.saturating_add(piece.length) <= time);
                match pieces.get(at) {
                    Some(piece) => piece.before + piece.volume_at(time - piece.begins),
                    None => pieces.last().map_or(0, |piece| piece.after),
                }
            }
        }
    }

    /// The time from the start of the profile at which the integral reaches `volume`: the last nanosecond at which it
    /// does not exceed it. [`Nanos::MAX`] if it never does. Within a pause, it is the pause's end.
    #[inline]
    pub(crate) fn time_of(&self, volume: Volume) -> Nanos {
        match self {
            Profile::Constant(rate) => constant_time(volume, *rate),
            Profile::Pieces(pieces) => {
                let at = pieces.partition_point(|piece| piece.after <= volume);
                let piece = pieces.get(at);
                piece.map_or(Nanos::MAX, |piece| {
                    piece.begins.saturating_add(piece.time_of(volume - piece.before))
                })
            }
        }
    }
}

/// Rounded down.
#[inline]
fn constant_time(volume: Volume, rate: u64) -> Nanos {
    Nanos::try_from(volume / Volume::from(2 * rate)).unwrap_or(Nanos::MAX)
}

impl Piece {
    /// The time from the beginning of the piece at which its integral reaches `volume`, which is less than the piece's.
    fn time_of(&self, volume: Volume) -> Nanos {
        if self.from == self.to { constant_time(volume, self.from) } else { self.sloping_time(volume) }
    }

    /// With the rate `a + d t / L` at the time `t`, the integral is `2 a t + d t² / L`. Floating point gives an
    /// estimate, and integers find the nanosecond.
    fn sloping_time(&self, volume: Volume) -> Nanos {
        let is_within = |time: Nanos| self.reached_by(time) <= volume as i128 * i128::from(self.length);
        let (mut least, mut step) = (self.guess(volume), 1);
        let mut past = least + 1;
        // Searches down to a time that is within, or up to one that is not; the beginning is, and the end is not.
        while !is_within(least) {
            (past, least) = (least, least.saturating_sub(step));
            step *= 2;
        }
        while is_within(past) {
            (least, past) = (past, past.saturating_add(step).min(self.length));
            step *= 2;
        }
        while past - least > 1 {
            let middle = least + (past - least) / 2;
            *(if is_within(middle) { &mut least } else { &mut past }) = middle;
        }
        least
    }

    /// The integral up to `time`, which is within the piece, rounded down.
    fn volume_at(&self, time: Nanos) -> Volume {
        match self.from == self.to {
            true => Volume::from(2 * self.from) * Volume::from(time),
            // Neither the rate nor its integral is ever negative.
            false => (self.reached_by(time) / i128::from(self.length)) as Volume,
        }
    }

    /// The integral up to `time`, times the length. Within 128 bits: 2 · 10⁹ · (8.64 · 10¹³)² is less than 2¹²⁷.
    fn reached_by(&self, time: Nanos) -> i128 {
        let (time, length) = (i128::from(time), i128::from(self.length));
        let (from, to) = (i128::from(self.from), i128::from(self.to));
        (2 * from * length + (to - from) * time) * time
    }

    fn guess(&self, volume: Volume) -> Nanos {
        let (volume, length) = (volume as f64, self.length as f64);
        let (from, slope) = (self.from as f64, self.to as f64 - self.from as f64);
        let base = from * length;
        let root = (base * base + slope * length * volume).max(0.0).sqrt();
        let time = if base + root > 0.0 { volume * length / (base + root) } else { 0.0 };
        (time as Nanos).min(self.length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage(time_ns: Nanos, from: u64, to: u64) -> RateStage {
        RateStage { time: Duration::from_nanos(time_ns), from, to }
    }

    /// The integral up to `time`, piece by piece in integers, times all their lengths, so that nothing is divided.
    fn slow_integral(stages: &[RateStage], time: Nanos) -> (i128, i128) {
        let lengths: Vec<i128> = stages.iter().map(|stage| stage.time.as_nanos().max(1) as i128).collect();
        let all: i128 = lengths.iter().product();
        let (mut sum, mut begins) = (0, 0);
        for (stage, length) in stages.iter().zip(&lengths) {
            let passed = (i128::from(time) - begins).clamp(0, stage.time.as_nanos() as i128);
            let (from, to) = (i128::from(stage.from), i128::from(stage.to));
            sum += (2 * from * length + (to - from) * passed) * passed * (all / length);
            begins += stage.time.as_nanos() as i128;
        }
        (sum, all)
    }

    fn due(profile: &Profile, message: u64) -> Nanos {
        profile.time_of(Volume::from(message) * MESSAGE)
    }

    #[test]
    fn as_many_messages_are_due_as_the_integral_says() {
        let stages = [stage(SECOND, 0, 100), stage(SECOND / 2, 100, 30), stage(SECOND, 0, 0)];
        for profile in [
            Profile::constant(7),
            Profile::new(stages, Some(11)),
            Profile::new(stages, None),
            Profile::new([stage(SECOND, 20, 20)], Some(3)),
        ] {
            for time in (0..4 * SECOND).step_by(70_000_007) {
                let messages = (profile.volume_at(time) / MESSAGE) as u64;
                assert!(messages == 0 || due(&profile, messages) <= time + 1, "{profile:?} at {time}");
                assert!(due(&profile, messages + 1) >= time, "{profile:?} at {time}");
            }
        }
        assert_eq!(Profile::new(stages, None).volume_at(9 * SECOND) / MESSAGE, 50 + 65 / 2);
    }

    #[test]
    fn a_constant_rate_is_even() {
        let profile = Profile::constant(7);
        assert_eq!((due(&profile, 0), due(&profile, 7), due(&profile, 1)), (0, SECOND, SECOND / 7));
        assert_eq!(due(&profile, 7 * 1_000_000), 1_000_000 * SECOND);
        let piece = Profile::new([stage(5 * SECOND, 7, 7)], Some(7));
        assert!((0..1_000).all(|message| due(&piece, message) == due(&profile, message)));
    }

    #[test]
    fn a_ramp_from_zero_has_half_its_final_rate_and_no_drift() {
        // 0 to 1,000 per second in 10 s: message n is due at √(n / 50) s.
        let profile = Profile::new([stage(10 * SECOND, 0, 1_000)], Some(1_000));
        for message in [0, 1, 2, 49, 50, 1_234, 4_999, 5_000] {
            let exact = (message as f64 / 50.0).sqrt() * SECOND as f64;
            assert!((due(&profile, message) as f64 - exact).abs() <= 1.0, "{message}");
        }
        // After that one per millisecond, exact to the nanosecond.
        assert_eq!(due(&profile, 5_000), 10 * SECOND);
        assert_eq!(due(&profile, 5_001), 10 * SECOND + SECOND / 1_000);
        assert_eq!(due(&profile, 5_000 + 1_000 * 1_000_000), (10 + 1_000_000) * SECOND);
    }

    #[test]
    fn a_pause_has_no_messages_and_the_next_is_due_when_it_is_over() {
        let second = |rate| stage(SECOND, rate, rate);
        let profile = Profile::new([second(10), second(0), second(10)], None);
        assert_eq!(due(&profile, 9), 900_000_000);
        assert_eq!(due(&profile, 10), 2 * SECOND);
        assert_eq!(due(&profile, 19), 2_900_000_000);
        assert_eq!(due(&profile, 20), Nanos::MAX, "nothing follows the last stage");
        assert_eq!(due(&Profile::new([second(0)], None), 0), Nanos::MAX);
        assert_eq!(due(&Profile::new([], None), 0), Nanos::MAX);
    }

    #[test]
    fn the_longest_stage_at_the_highest_rate_is_still_exact() {
        let day = STAGE_TIME_MAX.as_nanos() as Nanos;
        for (from, to) in [(0, RATE_MAX), (RATE_MAX, 0), (1, RATE_MAX)] {
            let stages = [stage(day, from, to)];
            let profile = Profile::new(stages, None);
            let all = Volume::from(from + to) * Volume::from(day);
            for volume in [0, 1, MESSAGE, all / 3, all - MESSAGE, all - 1] {
                let time = profile.time_of(volume) as i128;
                let (length, rise) = (i128::from(day), i128::from(to) - i128::from(from));
                let reached = |time: i128| (2 * i128::from(from) * length + rise * time) * time;
                let wanted = volume as i128 * length;
                assert!(reached(time) <= wanted && (time + 1 > length || reached(time + 1) > wanted));
            }
        }
    }

    fn stages() -> impl Strategy<Value = Vec<RateStage>> {
        let rate = prop_oneof![Just(0_u64), 1..10_000_u64, 1..100_000_000_u64];
        let one = (0..3_000_000_u64, rate.clone(), rate, any::<bool>());
        let one = one.prop_map(|(time, from, to, even)| stage(time, from, if even { from } else { to }));
        prop::collection::vec(one, 1..4)
    }

    proptest! {
        #[test]
        fn the_time_of_a_volume_is_the_last_nanosecond_that_does_not_pass_it(
            stages in stages(), share in 0.0..1.0_f64, more in 0..1_000_u128
        ) {
            let profile = Profile::new(stages.iter().copied(), None);
            let end: Nanos = stages.iter().map(|stage| stage.time.as_nanos() as Nanos).sum();
            let (sum, all) = slow_integral(&stages, end);
            let whole = Volume::try_from(sum / all).expect("rates are not negative");
            let volume = (whole as f64 * share) as Volume + more;
            let time = profile.time_of(volume);
            if volume >= whole {
                prop_assert_eq!(time, Nanos::MAX);
            } else {
                let reached = |time| slow_integral(&stages, time).0;
                let wanted = volume as i128 * all;
                prop_assert!(reached(time) <= wanted);
                prop_assert!(reached(time + 1) > wanted, "{} is not the last", time);
            }
        }
    }
}

//! Times that are drawn at random: think times and lifetimes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::{parse_time, parse_times};
use echoring_proto::limits::Nanos;

/// A random time, drawn for each use: `10ms`, `10ms..50ms` or `exp:20ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RandomTime {
    /// Evenly distributed; equal bounds are a constant.
    Between(Duration, Duration),
    /// Exponentially distributed, with this mean.
    Exponential(Duration),
}

impl RandomTime {
    /// The time that belongs to a random number from 0 up to 1.
    pub(crate) fn draw(self, unit: f64) -> Nanos {
        match self {
            RandomTime::Between(least, most) => {
                (least.as_nanos() as f64 + unit * (most - least).as_nanos() as f64) as Nanos
            }
            RandomTime::Exponential(mean) => (-(1.0 - unit).ln() * mean.as_nanos() as f64) as Nanos,
        }
    }

    /// Whether it is never longer than nothing.
    pub(crate) fn is_zero(self) -> bool {
        match self {
            RandomTime::Between(_, most) => most.is_zero(),
            RandomTime::Exponential(mean) => mean.is_zero(),
        }
    }
}

impl FromStr for RandomTime {
    type Err = String;

    fn from_str(text: &str) -> Result<RandomTime, String> {
        if let Some(mean) = text.strip_prefix("exp:") {
            return parse_time(mean).map(RandomTime::Exponential);
        }
        parse_times(text).map(|(least, most)| RandomTime::Between(least, most))
    }
}

impl fmt::Display for RandomTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration;
        match *self {
            RandomTime::Between(least, most) if least == most => write!(f, "{}", text(least)),
            RandomTime::Between(least, most) => write!(f, "{}..{}", text(least), text(most)),
            RandomTime::Exponential(mean) => write!(f, "exp:{}", text(mean)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_constant_even_or_exponential() {
        let time = |text: &str| text.parse::<RandomTime>();
        assert_eq!(time("10ms").map(|it| (it.draw(0.0), it.draw(0.9))), Ok((10_000_000, 10_000_000)));
        assert_eq!(time("10ms..20ms").map(|it| (it.draw(0.0), it.draw(0.5))), Ok((10_000_000, 15_000_000)));
        let mean = time("exp:10ms")
            .map(|it| (0..1_000).map(|n| it.draw(f64::from(n) / 1_000.0)).sum::<u64>() / 1_000);
        assert!(mean.is_ok_and(|mean| (9_900_000..10_100_000).contains(&mean)));
        for wrong in ["", "10", "20ms..10ms", "exp:", "25h", "-1s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(time("0s").is_ok_and(RandomTime::is_zero) && !time("0s..1ms").is_ok_and(RandomTime::is_zero));
    }

    #[test]
    fn a_shown_time_reads_as_itself() {
        for text in ["10ms", "10ms..1s", "exp:1m"] {
            let time: RandomTime = text.parse().expect("a time");
            assert_eq!((time.to_string(), time.to_string().parse()), (text.to_owned(), Ok(time)));
        }
    }
}

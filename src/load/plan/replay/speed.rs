//! How much faster than recorded a recording is replayed.

use std::fmt;
use std::str::FromStr;

use echoring_proto::limits::Nanos;

/// The unit of a speed.
const THOUSAND: u32 = 1_000;
/// The slowest: a hundredth.
const SLOWEST: u32 = THOUSAND / 100;
/// The fastest: a thousand times.
const FASTEST: u32 = THOUSAND * 1_000;

/// A factor from 0.01 to 1000, in thousandths, so that times are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    thousandths: u32,
}

impl Default for Speed {
    fn default() -> Speed {
        Speed { thousandths: THOUSAND }
    }
}

impl Speed {
    /// The time of an event recorded at `at`, at this speed.
    #[inline]
    pub(crate) fn scaled(self, at: Nanos) -> Nanos {
        let scaled = u128::from(at) * u128::from(THOUSAND) / u128::from(self.thousandths);
        Nanos::try_from(scaled).unwrap_or(Nanos::MAX)
    }

    /// As a number.
    pub fn factor(self) -> f64 {
        f64::from(self.thousandths) / f64::from(THOUSAND)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.factor().fmt(f)
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        let expected = || "expected a factor from 0.01 to 1000 such as 2 or 0.5".to_owned();
        let number: f64 = text.strip_suffix('x').unwrap_or(text).parse().map_err(|_| expected())?;
        let thousandths = (number * f64::from(THOUSAND)).round();
        if !(f64::from(SLOWEST)..=f64::from(FASTEST)).contains(&thousandths) {
            return Err(expected());
        }
        Ok(Speed { thousandths: thousandths as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_divides_times() {
        let at = |speed: &str| speed.parse::<Speed>().map(|speed| speed.scaled(3_000_000_001));
        assert_eq!(at("1"), Ok(3_000_000_001));
        assert_eq!(at("2x"), Ok(1_500_000_000));
        assert_eq!(at("0.5"), Ok(6_000_000_002));
        assert_eq!("1.25".parse::<Speed>().expect("a speed").to_string(), "1.25");
        assert_eq!(Speed::default().scaled(u64::MAX), u64::MAX);
        assert_eq!(
            "0.01".parse::<Speed>().expect("a speed").scaled(u64::MAX),
            u64::MAX,
            "it does not overflow"
        );
        for wrong in ["", "0", "-1", "0.001", "1001", "fast", "NaN", "inf"] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
    }
}

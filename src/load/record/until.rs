//! How a warm-up and a run ended, and how exactly quantiles were known then, in its record.

use crate::plan::declared::part;

part! {
    /// A warm-up that lasted until the load was steady.
    #[derive(Copy)]
    WarmUp {
        /// Its length.
        seconds: f64,
        /// The longest that it could have been.
        longest_s: f64,
        /// Whether the load was steady at its end.
        steady: bool,
    }
}

part! {
    /// What was asked of a run, and what it reached.
    Until {
        /// The chance that an interval contains the true value, although the run ended because of it.
        confidence: f64,
        /// Goals that were not reached.
        unreached: u64,
        /// When the intervals were computed, in seconds from the start of the measured time.
        at_s: u64,
        /// The blocks of messages that they were computed from.
        blocks: u64,
        /// How often the results had been looked at by then.
        looks: u32,
        /// Each goal.
        goals: Vec<Reached>,
    }
}

part! {
    /// A goal, and how exactly its quantile was known.
    Reached {
        /// As given.
        expression: String,
        /// Whether the interval was as narrow as asked.
        reached: bool,
        /// The quantile; `null` with too few messages or too short a time for an interval.
        value_ns: Option<u64>,
        /// The lower end of its interval.
        low_ns: Option<u64>,
        /// The upper end.
        high_ns: Option<u64>,
        /// The larger distance of an end from the value, as a share of the value.
        width: Option<f64>,
        /// The intervals of all looks, from the first that had one.
        course: Vec<QuantileLook>,
    }
}

part! {
    /// A quantile as known at a look; all intervals of a course contain the true value together.
    #[derive(Copy, Eq)]
    QuantileLook {
        /// When, in seconds from the start of the measured time.
        at_s: u64,
        /// The quantile.
        value_ns: u64,
        /// The lower end of its interval.
        low_ns: u64,
        /// The upper end.
        high_ns: u64,
    }
}

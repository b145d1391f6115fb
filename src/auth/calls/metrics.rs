//! The metrics of calls: rows beside their counters, which `/metrics` prints.

/// A row: a metric of things of a type, such as back ends. A name that ends in `_total` is that of a counter, others are those of gauges.
#[derive(Debug)]
pub struct CallMetric<T> {
    /// The name.
    pub name: &'static str,
    /// The meaning.
    pub help: &'static str,
    /// The samples of one thing: labels, and a value.
    pub samples: fn(&T) -> CallSamples,
}

/// Labels in their order, and a value, of each sample.
pub type CallSamples = Vec<(Vec<(&'static str, String)>, u64)>;

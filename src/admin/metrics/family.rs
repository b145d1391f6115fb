//! Metrics before they are rendered.

use echoring_runtime::stats::Durations;

/// The labels of a sample, in order.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Its value is 1; the labels have the information.
    Info,
}

/// The value of a sample.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    Histogram(Box<Durations>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

/// A metric with all its samples.
#[derive(Clone, Debug)]
pub(super) struct Family {
    /// With the suffix `_total` of a counter, and `_info` of an info.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) samples: Vec<(Labels, Value)>,
}

impl Family {
    /// The name without the suffix of its type, by which OpenMetrics calls it.
    pub(super) fn stem(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

/// Collects metrics. Each method adds one.
#[derive(Debug, Default)]
pub(super) struct Families(pub(super) Vec<Family>);

impl Families {
    fn add(&mut self, kind: Kind, name: &'static str, help: &'static str, samples: Vec<(Labels, Value)>) {
        self.0.push(Family { name, help, kind, samples });
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, value: impl Into<Value>) {
        self.add(Kind::Counter, name, help, vec![(Labels::new(), value.into())]);
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Into<Value>) {
        self.add(Kind::Gauge, name, help, vec![(Labels::new(), value.into())]);
    }

    /// A counter with labels.
    pub(super) fn counters<V: Into<Value>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        let samples = samples.into_iter().map(|(labels, value)| (labels, value.into()));
        self.add(Kind::Counter, name, help, samples.collect());
    }

    /// A gauge with labels.
    pub(super) fn gauges<V: Into<Value>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        let samples = samples.into_iter().map(|(labels, value)| (labels, value.into()));
        self.add(Kind::Gauge, name, help, samples.collect());
    }

    /// A histogram without labels.
    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str, durations: Durations) {
        self.add(Kind::Histogram, name, help, vec![(Labels::new(), Value::Histogram(Box::new(durations)))]);
    }

    /// Labels whose value is 1.
    pub(super) fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(Kind::Info, name, help, vec![(labels, Value::Whole(1))]);
    }
}

/// One label.
pub(super) fn label(name: &'static str, value: impl ToString) -> Labels {
    vec![(name, value.to_string())]
}

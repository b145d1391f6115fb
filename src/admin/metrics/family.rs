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

impl From<Durations> for Value {
    fn from(durations: Durations) -> Value {
        Value::Histogram(Box::new(durations))
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
    /// Adds samples.
    pub(super) fn samples<V: Into<Value>>(
        &mut self,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> &mut Family {
        self.samples.extend(samples.into_iter().map(|(labels, value)| (labels, value.into())));
        self
    }

    /// Adds samples that differ in one label.
    pub(super) fn by<T: ToString, V: Into<Value>>(
        &mut self,
        name: &'static str,
        values: impl IntoIterator<Item = (T, V)>,
    ) -> &mut Family {
        self.samples(values.into_iter().map(|(value, figure)| (vec![(name, value.to_string())], figure)))
    }

    /// Adds samples that differ in two labels.
    pub(super) fn by_both<T: ToString, U: ToString, V: Into<Value>>(
        &mut self,
        [name, other]: [&'static str; 2],
        values: impl IntoIterator<Item = (T, U, V)>,
    ) -> &mut Family {
        self.samples(values.into_iter().map(|(value, another, figure)| {
            (vec![(name, value.to_string()), (other, another.to_string())], figure)
        }))
    }

    /// Sets the meaning.
    pub(super) fn help(&mut self, help: &'static str) {
        self.help = help;
    }

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
    fn add(&mut self, kind: Kind, name: &'static str, samples: Vec<(Labels, Value)>) -> &mut Family {
        let place = self.0.len();
        self.0.push(Family { name, help: "", kind, samples });
        &mut self.0[place]
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Family {
        self.add(Kind::Counter, name, vec![(Labels::new(), value.into())])
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Family {
        self.add(Kind::Gauge, name, vec![(Labels::new(), value.into())])
    }

    /// A counter with labels.
    pub(super) fn counters(&mut self, name: &'static str) -> &mut Family {
        self.add(Kind::Counter, name, Vec::new())
    }

    /// A gauge with labels.
    pub(super) fn gauges(&mut self, name: &'static str) -> &mut Family {
        self.add(Kind::Gauge, name, Vec::new())
    }

    /// A histogram without labels.
    pub(super) fn histogram(&mut self, name: &'static str, durations: Durations) -> &mut Family {
        self.add(Kind::Histogram, name, vec![(Labels::new(), durations.into())])
    }

    /// A histogram with labels.
    pub(super) fn histograms(&mut self, name: &'static str) -> &mut Family {
        self.add(Kind::Histogram, name, Vec::new())
    }

    /// Labels whose value is 1.
    pub(super) fn info(&mut self, name: &'static str, labels: Labels) -> &mut Family {
        self.add(Kind::Info, name, vec![(labels, Value::Whole(1))])
    }
}

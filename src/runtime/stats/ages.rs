//! Ages of messages when their subscribers got them.

use std::collections::BTreeMap;

use echoring_proto::{Merge, summed};
use serde::Serialize;

use super::Durations;

/// Ages of messages, by a label such as the pattern of their topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryAges(BTreeMap<Box<str>, DeliveryAge>);

summed! {
    /// A sample of deliveries. Each is in one of the two.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
    #[non_exhaustive]
    pub struct DeliveryAge {
        /// From the acceptance of the message until the peer's TCP had acknowledged its last byte.
        pub acknowledged: Durations,
        /// From the acceptance of the message until the socket had taken its last byte, where an acknowledgement cannot be observed.
        pub sent: Durations,
    }
}

impl DeliveryAges {
    /// The ages with this label.
    #[doc(hidden)]
    pub fn of(&mut self, label: &str) -> &mut DeliveryAge {
        if !self.0.contains_key(label) {
            self.0.insert(label.into(), DeliveryAge::default());
        }
        self.0.get_mut(label).expect("it is there now")
    }

    /// Forgets the ages of all other labels.
    #[doc(hidden)]
    pub fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        self.0.retain(|label, _| is_kept(label));
    }

    /// The ages with each label.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &DeliveryAge)> {
        self.0.iter().map(|(label, age)| (&**label, age))
    }

    /// Adds those of another shard.
    pub fn add(&mut self, other: &DeliveryAges) {
        Merge::merge(&mut self.0, &other.0);
    }
}

impl Merge for DeliveryAges {
    fn merge(&mut self, other: &DeliveryAges) {
        self.add(other);
    }
}

//! Who created the topics that exist: connections and identities, counted over all shards of a node.
//!
//! Asked when a topic is created and told when it is forgotten, never for a message to a topic that exists. Each call locks
//! one of many small tables for some tens of nanoseconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::channel::log::Origin;
use crate::limits::{CREATOR_TABLES, TOPICS_PER_CONNECTION_DEFAULT};
use crate::message::Refused;

/// The client that creates a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creator {
    /// Its connection; 0 for none.
    pub connection: Origin,
    /// The number of its identity; 0 for none.
    pub identity: u64,
}

echoring_proto::plain!(for Creator { connection, identity });

impl Creator {
    /// The operator, and predecessors: their topics count for nobody.
    pub const NOBODY: Creator = Creator { connection: 0, identity: 0 };
}

/// How many of the topics that exist one client may have created. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreationLimits {
    /// One connection.
    pub max_topics_per_connection: Option<u32>,
    /// All connections of one identity.
    pub max_topics_per_identity: Option<u32>,
}

impl Default for CreationLimits {
    fn default() -> CreationLimits {
        CreationLimits {
            max_topics_per_connection: Some(TOPICS_PER_CONNECTION_DEFAULT),
            max_topics_per_identity: None,
        }
    }
}

/// The creators of a node's topics. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Creators(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    connections: Tables,
    identities: Tables,
}

/// Topics by creator. A creator without topics is not in them, so that they do not outgrow the topics.
#[derive(Debug, Default)]
struct Tables([Mutex<HashMap<u64, u32>>; CREATOR_TABLES]);

impl Creators {
    /// `creator` creates a topic.
    ///
    /// # Errors
    /// The limit that would be exceeded.
    pub(crate) fn add(&self, creator: Creator, limits: CreationLimits) -> Result<(), Refused> {
        let Counts { connections, identities } = &*self.0;
        if !connections.add(creator.connection, limits.max_topics_per_connection) {
            return Err(Refused::TooManyByConnection);
        }
        if !identities.add(creator.identity, limits.max_topics_per_identity) {
            connections.remove(creator.connection);
            return Err(Refused::TooManyByIdentity);
        }
        Ok(())
    }

    /// A topic that `creator` created exists no longer.
    pub(crate) fn remove(&self, creator: Creator) {
        self.0.connections.remove(creator.connection);
        self.0.identities.remove(creator.identity);
    }

    /// Number of connections and identities that are counted.
    #[cfg(test)]
    fn len(&self) -> usize {
        let tables = self.0.connections.0.iter().chain(&self.0.identities.0);
        tables.map(|table| table.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl Tables {
    fn table(&self, key: u64) -> MutexGuard<'_, HashMap<u64, u32>> {
        let index = key as usize % CREATOR_TABLES;
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: u64, most: Option<u32>) -> bool {
        if key == 0 {
            return true;
        }
        let mut table = self.table(key);
        let count = table.get(&key).copied().unwrap_or(0);
        let has_room = most.is_none_or(|most| count < most);
        if has_room {
            table.insert(key, count + 1);
        }
        has_room
    }

    fn remove(&self, key: u64) {
        if key == 0 {
            return;
        }
        let mut table = self.table(key);
        if let Some(count) = table.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                table.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_identities_have_their_limits() {
        let creators = Creators::default();
        let limits = CreationLimits { max_topics_per_connection: Some(2), max_topics_per_identity: Some(3) };
        let [one, other] = [1, 2].map(|connection| Creator { connection, identity: 9 });
        assert_eq!(creators.add(one, limits), Ok(()));
        assert_eq!(creators.add(one, limits), Ok(()));
        assert_eq!(creators.add(one, limits), Err(Refused::TooManyByConnection));
        assert_eq!(creators.clone().add(other, limits), Ok(()));
        assert_eq!(creators.add(other, limits), Err(Refused::TooManyByIdentity));
        creators.remove(one);
        // What was refused has not counted.
        assert_eq!(creators.add(other, limits), Ok(()));
        assert_eq!(creators.add(Creator::NOBODY, limits), Ok(()));
        creators.remove(Creator::NOBODY);
        for creator in [one, other, other] {
            creators.remove(creator);
        }
        assert_eq!(creators.len(), 0);
    }
}

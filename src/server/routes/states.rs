//! State that handlers share: of the server, and of each shard. Extractors find a value by its type.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Makes the state of a shard, on the thread of the shard.
type MakeState = dyn Fn() -> Rc<dyn Any> + Send + Sync;

/// The state of a server, and how that of its shards is made. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct States {
    of_server: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    of_shards: HashMap<TypeId, Arc<MakeState>>,
}

impl States {
    /// Sets the state of this type.
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: T) {
        self.of_server.insert(TypeId::of::<T>(), Arc::new(state));
    }

    /// Sets how each shard makes its state of this type.
    pub(crate) fn insert_for_shards<T: 'static>(&mut self, make: impl Fn() -> T + Send + Sync + 'static) {
        self.of_shards.insert(TypeId::of::<T>(), Arc::new(move || Rc::new(make())));
    }

    /// Adds all of `others`, which replace those of the same types.
    pub(crate) fn extend(&mut self, others: States) {
        self.of_server.extend(others.of_server);
        self.of_shards.extend(others.of_shards);
    }

    /// The states of the shard that runs on this thread.
    pub(crate) fn for_shard(&self) -> ShardStates {
        ShardStates {
            of_server: self.of_server.clone(),
            of_shard: self.of_shards.iter().map(|(id, make)| (*id, make())).collect(),
        }
    }

    /// The first of `required` that is missing.
    pub(crate) fn missing(&self, required: &Requirements) -> Option<MissingState> {
        let is_missing = |need: &&MissingState| match need.is_of_shard {
            true => !self.of_shards.contains_key(&need.id),
            false => !self.of_server.contains_key(&need.id),
        };
        required.0.iter().find(is_missing).copied()
    }
}

/// The states that a shard's extractors reach.
#[derive(Default)]
pub(crate) struct ShardStates {
    of_server: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    of_shard: HashMap<TypeId, Rc<dyn Any>>,
}

impl fmt::Debug for ShardStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the server, {} of the shard", self.of_server.len(), self.of_shard.len())
    }
}

impl ShardStates {
    /// The state of the server of this type.
    pub(crate) fn of_server<T: 'static>(&self) -> Option<&T> {
        self.of_server.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// The state of the shard of this type.
    pub(crate) fn of_shard<T: 'static>(&self) -> Option<&T> {
        self.of_shard.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

/// The states that the extractors of a route need, so that a missing one is an error at the start of the server.
///
/// ```
/// use echoring::server::{FromRequest, RequestContext, Requirements, Response, State};
///
/// #[derive(Clone)]
/// struct Tokens(Vec<String>);
///
/// /// How many tokens there are.
/// struct Known(usize);
///
/// impl FromRequest for Known {
///     fn from_request(request: &RequestContext<'_>) -> Result<Known, Response> {
///         let State(Tokens(tokens)) = request.extract()?;
///         Ok(Known(tokens.len()))
///     }
///
///     fn requires(required: &mut Requirements) {
///         required.state::<Tokens>();
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Requirements(Vec<MissingState>);

impl Requirements {
    /// The server must have state of this type, see [`Builder::state`](crate::Builder::state).
    pub fn state<T: 'static>(&mut self) {
        self.0.push(MissingState::new::<T>(false));
    }

    /// Each shard must have state of this type, see [`Builder::shard_state`](crate::Builder::shard_state).
    pub fn shard_state<T: 'static>(&mut self) {
        self.0.push(MissingState::new::<T>(true));
    }
}

/// A state that a route needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MissingState {
    id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) is_of_shard: bool,
}

impl MissingState {
    fn new<T: 'static>(is_of_shard: bool) -> MissingState {
        MissingState { id: TypeId::of::<T>(), name: type_name::<T>(), is_of_shard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_by_their_type() {
        let mut states = States::default();
        states.insert(1_u8);
        states.insert("later".to_owned());
        states.insert(2_u8);
        states.insert_for_shards(|| Rc::new(3_u16));
        let (one, other) = (states.for_shard(), states.for_shard());
        assert_eq!(one.of_server::<u8>(), Some(&2), "the last one of a type");
        assert_eq!(one.of_server::<String>().map(String::as_str), Some("later"));
        assert_eq!(one.of_server::<u16>(), None);
        assert_eq!(one.of_shard::<u8>(), None, "the server and the shard have states of their own");
        let [one, other] = [one, other].map(|shard| shard.of_shard::<Rc<u16>>().cloned().expect("made"));
        assert!(one == other && !Rc::ptr_eq(&one, &other), "each shard makes its own");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut states = States::default();
        let mut required = Requirements::default();
        required.state::<u8>();
        required.shard_state::<u8>();
        let missing = |states: &States, required| {
            states.missing(required).map(|missing: MissingState| (missing.name, missing.is_of_shard))
        };
        assert_eq!(missing(&states, &required), Some(("u8", false)));
        states.insert(1_u8);
        assert_eq!(missing(&states, &required), Some(("u8", true)));
        states.insert_for_shards(|| 1_u8);
        assert_eq!(missing(&states, &required), None);
    }
}

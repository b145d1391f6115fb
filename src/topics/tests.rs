//! Topics and their owner shards: what each subscriber gets, what it is told that it missed, and that everything is accounted for.

mod accounts;
mod contexts;
mod delivery;
mod deltas;
mod filters;
mod formats;
mod history;
mod idempotency;
mod members;
mod memory;
mod no_silent_loss;
mod notices;
mod owned_topics;
mod pace;
mod placement;
mod retention;
mod slow_consumers;
mod world;

pub(crate) use world::submitted;

//! The ends of connections that have lasted for as long as they may, or had no message for too long. They are closed as in a drain, one by
//! one: each gets what it is to be sent, and none is closed in the middle of a message.
//!
//! Only connections with such a limit are known here. What happens on a path of messages is not: the messages of a connection that may
//! not be idle are counted in an account of its own, which is looked at from time to time.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use crate::driver::Token;
use crate::limits::{IDLE_LOOKS, LIFE_END_GRACE, LIFE_END_RETRY, LIFE_END_SPACING, ROUTES_WITH_TIMES_MAX};
use crate::shard::control::Goodbye;
use crate::shard::kinds::Kinds;
use crate::shard::times::{Ages, Lifetime, RouteTimes, TimesConfig};
use echoring_proto::connection::Cause;
use echoring_proto::limits::Nanos;

/// The connections of a shard with a limit of their life.
#[derive(Debug, Default)]
pub(in crate::shard) struct Lifetimes {
    /// Routes keep their places.
    config: TimesConfig,
    limited: BTreeMap<Token, Life>,
    /// When each is looked at.
    due: BTreeSet<(Nanos, Token)>,
    /// When the next connection may be closed.
    close_at: Nanos,
}

#[derive(Clone, Debug)]
struct Life {
    began_at: Nanos,
    ends_at: Nanos,
    /// Longest time without a message; 0 for no limit.
    idle: Nanos,
    /// Its messages, and when their number was first seen.
    messages: u64,
    messages_at: Nanos,
    look_at: Nanos,
    /// Since when it would be closed if it were not in the middle of a message.
    over_since: Option<Nanos>,
    /// Why it is being closed.
    end: Option<Cause>,
}

impl Lifetimes {
    /// When a connection must be looked at next.
    #[inline]
    pub(in crate::shard) fn look_at(&self) -> Option<Nanos> {
        let (look_at, _) = self.due.first()?;
        Some(*look_at.max(&self.close_at))
    }

    /// Why a connection is closed, if its life is over.
    pub(in crate::shard) fn cause(&self, token: Token) -> Option<&Cause> {
        self.limited.get(&token)?.end.as_ref()
    }

    pub(super) fn forget(&mut self, token: Token) {
        if !self.limited.is_empty()
            && let Some(life) = self.limited.remove(&token)
        {
            self.due.remove(&(life.look_at, token));
        }
    }

    /// Whether any route sets times.
    #[inline]
    pub(super) fn has_routes(&self) -> bool {
        !self.config.routes.is_empty()
    }

    /// The name of the route at a place.
    pub(in crate::shard) fn route(&self, place: usize) -> Option<&str> {
        self.config.routes.get(place).map(|(name, _)| &**name)
    }

    /// Looks at a connection again then, or no more.
    fn schedule(&mut self, token: Token, look_at: Option<Nanos>) {
        if let Some(life) = self.limited.get_mut(&token) {
            self.due.remove(&(life.look_at, token));
            if let Some(look_at) = look_at {
                life.look_at = look_at;
                self.due.insert((look_at, token));
            }
        }
    }
}

impl<K: Kinds> Core<K> {
    /// Uses these times from now on, also for connections that are open.
    pub(in crate::shard) fn set_times(&mut self, config: TimesConfig) {
        let TimesConfig { lifetime, routes } = config;
        let known = &mut self.lifetimes.config;
        let is_changed = known.lifetime != lifetime || known.routes != routes;
        known.lifetime = lifetime;
        known.routes.iter_mut().for_each(|(_, times)| *times = RouteTimes::default());
        for (name, times) in routes {
            match known.routes.iter().position(|(other, _)| *other == name) {
                Some(place) => known.routes[place].1 = times,
                None if known.routes.len() < ROUTES_WITH_TIMES_MAX => known.routes.push((name, times)),
                None => {
                    tracing::error!(
                        "more than {ROUTES_WITH_TIMES_MAX} routes have times of their own; the server's times are used"
                    );
                    break;
                }
            }
        }
        let shared = self.env.config.times();
        self.env.config.own_times = known.routes.iter().map(|(_, times)| times.over(shared)).collect();
        if is_changed {
            for token in self.slots.tokens() {
                let is_open = self.slots.get(token).is_some_and(|slot| slot.connection.is_open());
                if is_open && self.lifetimes.cause(token).is_none() {
                    let ages = self.ages(token).unwrap_or_default();
                    self.limit_life(token, ages);
                }
            }
        }
    }

    /// Gives the connection the times of its route, if that sets any.
    pub(in crate::shard) fn set_route(&mut self, token: Token, name: &str) {
        let place = self.lifetimes.config.routes.iter().position(|(known, _)| **known == *name);
        let place = place.and_then(|place| u8::try_from(place).ok());
        if let (Some(place), Some(slot)) = (place, self.slots.get_mut(token)) {
            slot.connection.set_times(place);
        }
    }

    /// The connection is open: limits its life as its route says.
    pub(super) fn limit_life(&mut self, token: Token, ages: Ages) {
        let config = &self.lifetimes.config;
        // Most servers have no such limit.
        if config.routes.is_empty()
            && config.lifetime == Lifetime::default()
            && self.lifetimes.limited.is_empty()
        {
            return;
        }
        let Some(slot) = self.slots.get(token) else { return };
        let route = slot.connection.own_times().and_then(|place| config.routes.get(place));
        let Lifetime { max_lifetime: max, idle_timeout: idle } =
            route.map_or(config.lifetime, |(_, times)| times.lifetime_over(config.lifetime));
        self.lifetimes.forget(token);
        if max == 0 && idle == 0 {
            return;
        }
        if idle > 0 {
            self.count_apart(token);
        }
        let now = self.env.now;
        let (began_at, messages_at) = (now.saturating_sub(ages.began), now.saturating_sub(ages.message));
        let jitter = self.env.entropy.below(max / 10);
        let ends_at = if max == 0 { Nanos::MAX } else { began_at.saturating_add(max - jitter) };
        let messages = self.messages(token);
        let life = Life {
            began_at,
            ends_at,
            idle,
            messages,
            messages_at,
            look_at: now,
            over_since: None,
            end: None,
        };
        let look_at = life.next_look(now);
        self.lifetimes.limited.insert(token, life);
        self.lifetimes.schedule(token, Some(look_at));
    }

    /// How old a connection with a limited life is.
    pub(super) fn ages(&mut self, token: Token) -> Option<Ages> {
        let (now, messages) = (self.env.now, self.messages(token));
        let life = self.lifetimes.limited.get_mut(&token)?;
        life.note_messages(messages, now);
        Some(Ages { began: now.saturating_sub(life.began_at), message: now.saturating_sub(life.messages_at) })
    }

    /// Messages in both directions, of a connection with an account of its own.
    fn messages(&self, token: Token) -> u64 {
        let account = self.slots.get(token).map(|slot| slot.account);
        let own = account.and_then(|account| self.counters.traffic.own(account));
        own.map_or(0, |traffic| traffic.messages_in.wrapping_add(traffic.messages_out))
    }

    /// The next connection whose life is over, and that can be closed now.
    pub(in crate::shard) fn next_life_end(&mut self) -> Option<Token> {
        // A drain closes everyone.
        if self.drain_ends_at().is_some() {
            self.lifetimes.due.clear();
            return None;
        }
        let now = self.env.now;
        while self.lifetimes.look_at().is_some_and(|at| at <= now)
            && let Some(&(_, token)) = self.lifetimes.due.first()
        {
            if self.look_at_life(token) {
                self.lifetimes.close_at = now + LIFE_END_SPACING;
                return Some(token);
            }
        }
        None
    }

    /// Whether the connection is to be closed now.
    fn look_at_life(&mut self, token: Token) -> bool {
        let (now, messages) = (self.env.now, self.messages(token));
        let is_held = self.leaving.holds(token);
        let Some(slot) = self.slots.get(token).filter(|slot| slot.connection.is_open()) else {
            // What is left of it has a deadline of its own.
            self.lifetimes.schedule(token, None);
            return false;
        };
        let connection = &slot.connection;
        // Nothing is read of the client of an event stream.
        let is_between = connection.is_event_stream() || connection.is_between_messages();
        let is_amid = !is_between || connection.sends_fragments();
        let Some(life) = self.lifetimes.limited.get_mut(&token) else { return false };
        if life.end.is_some() {
            // It has not taken what it was to be sent.
            self.lifetimes.schedule(token, None);
            self.say_goodbye(token, true);
            self.touch(token);
            return false;
        }
        life.note_messages(messages, now);
        let end = life.end_by(now);
        life.over_since = end.as_ref().map(|_| life.over_since.unwrap_or(now));
        // A message that never ends does not make its connection last.
        let is_patient = life.over_since.is_some_and(|since| now < since + LIFE_END_GRACE);
        let waits = is_held || (is_amid && is_patient);
        let look_at = match end {
            Some(_) if waits => now + LIFE_END_RETRY,
            Some(_) => now + LIFE_END_GRACE,
            None => life.next_look(now),
        };
        if !waits {
            life.end = end;
        }
        let is_over = life.end.is_some();
        self.lifetimes.schedule(token, Some(look_at));
        is_over
    }

    /// What a connection is told that is closed by the server.
    pub(in crate::shard) fn goodbye_to(&self, token: Token) -> Goodbye {
        match self.lifetimes.cause(token) {
            Some(Cause::Idle) => Goodbye::IDLE,
            Some(_) => Goodbye::LIFE_OVER,
            None => self.goodbye,
        }
    }
}

impl Life {
    fn note_messages(&mut self, messages: u64, now: Nanos) {
        if messages != self.messages {
            (self.messages, self.messages_at) = (messages, now);
        }
    }

    fn end_by(&self, now: Nanos) -> Option<Cause> {
        if self.ends_at <= now {
            return Some(Cause::LifeOver);
        }
        (self.idle > 0 && self.messages_at.saturating_add(self.idle) <= now).then_some(Cause::Idle)
    }

    fn next_look(&self, now: Nanos) -> Nanos {
        if self.idle == 0 {
            return self.ends_at;
        }
        let idle_at = self.messages_at.saturating_add(self.idle);
        self.ends_at.min(idle_at).min(now + self.idle / IDLE_LOOKS)
    }
}

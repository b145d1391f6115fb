//! The frame of the property tests: the steps of a [`World`], which is a server with one topic and a client with a subscription to
//! it, and the [`Reader`] of its events.

use std::time::Duration;

use proptest::prelude::*;

use crate::{Event, GapReason, Missed, Payload, Position};

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<S> {
    /// So many messages are published.
    Publish(u8),
    /// The server receives what the client sends.
    Send,
    /// The client receives so many messages of the connection.
    Receive(u8),
    /// The reader takes so many events.
    Read(u8),
    /// The connection is lost, with what is on its way, and a new one is open.
    Reconnect,
    /// The server forgets the topic, and all connections are lost.
    Restart,
    /// A step of one of the worlds.
    Special(S),
}

/// Steps, of which some are `special`.
pub(super) fn steps<S: Clone + std::fmt::Debug + 'static>(
    special: impl Strategy<Value = S> + 'static,
) -> impl Strategy<Value = Vec<Step<S>>> {
    let step = prop_oneof![
        8 => (1..6_u8).prop_map(Step::Publish),
        8 => Just(Step::Send),
        8 => (1..8_u8).prop_map(Step::Receive),
        8 => (1..8_u8).prop_map(Step::Read),
        3 => Just(Step::Reconnect),
        2 => Just(Step::Restart),
        4 => special.prop_map(Step::Special),
    ];
    prop::collection::vec(step, 0..80)
}

/// A server with one topic, and one client.
pub(super) trait World {
    type Special;

    /// Longer than whatever the client waits for between two attempts.
    const PAUSE: Duration;

    fn publish(&mut self, messages: u8);

    /// The server receives what the client sends.
    fn send(&mut self);

    /// The client receives so many messages of the connection.
    fn receive(&mut self, messages: usize);

    /// The reader takes so many events.
    fn read(&mut self, events: usize) -> Result<(), TestCaseError>;

    fn reconnect(&mut self);

    fn restart(&mut self);

    fn wait(&mut self, time: Duration);

    fn run_special(&mut self, step: Self::Special);

    fn run(&mut self, step: Step<Self::Special>) -> Result<(), TestCaseError> {
        match step {
            Step::Publish(messages) => self.publish(messages),
            Step::Send => self.send(),
            Step::Receive(messages) => self.receive(messages.into()),
            Step::Read(events) => self.read(events.into())?,
            Step::Reconnect => self.reconnect(),
            Step::Restart => self.restart(),
            Step::Special(step) => self.run_special(step),
        }
        Ok(())
    }

    /// Everything that is on its way arrives, and is read.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..50 {
            self.wait(Self::PAUSE);
            self.send();
            self.receive(usize::MAX);
            self.read(usize::MAX)?;
        }
        Ok(())
    }

    /// Runs the steps, and lets everything arrive. One last message shows that the subscription is live, and what was missed at the
    /// tail.
    fn run_all(&mut self, steps: Vec<Step<Self::Special>>) -> Result<(), TestCaseError> {
        for step in steps {
            self.run(step)?;
        }
        self.settle()?;
        self.publish(1);
        self.settle()
    }
}

/// Checks that the events of a subscription have no hole and no repetition, and counts them.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) position: Option<Position>,
    pub(super) messages: u64,
    pub(super) missed: u64,
    /// A subscription with another position was announced, and an unknown gap must follow.
    jump: Option<Position>,
}

impl Reader {
    pub(super) fn handle(&mut self, event: Event<Payload>) -> Result<(), TestCaseError> {
        match event {
            Event::Subscribed(subscribed) => match &self.position {
                Some(position) if *position != subscribed.position => self.jump = Some(subscribed.position),
                _ => self.position = Some(subscribed.position),
            },
            Event::Gap(gap) => match gap.missed {
                Missed::Unknown => {
                    prop_assert_eq!(gap.reason, GapReason::Epoch);
                    prop_assert!(self.jump.is_some(), "an unknown gap without a jump");
                    self.position = self.jump.take();
                }
                Missed::Range { from, to } => {
                    self.advance(from, to)?;
                    self.missed += to - from + 1;
                }
            },
            Event::Message(message) => {
                prop_assert_eq!(message.data.parse::<u64>().ok(), Some(message.offset));
                self.advance(message.offset, message.offset)?;
                self.messages += 1;
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    }

    fn advance(&mut self, from: u64, to: u64) -> Result<(), TestCaseError> {
        prop_assert!(self.jump.is_none(), "a jump that nobody was told of");
        let position = self.position.as_mut().expect("a subscription first");
        prop_assert_eq!(from, position.offset + 1);
        prop_assert!(to >= from);
        position.offset = to;
        Ok(())
    }
}

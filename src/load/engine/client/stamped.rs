//! Answers whose kernel times are to be found when the tick ends.
//!
//! A receive may end several messages. Its time is when its last byte arrived, so it is the time of the message that ends there, with the
//! record of TLS that it came in, and those before had arrived by then. It is unknown where that byte may have waited for earlier ones. A
//! send has one time, too: for all of its messages if it fits into
//! one segment, otherwise only for the message that fills it.

use super::{Client, Link};
use crate::measure::KernelTimes;
use crate::measure::tally::Answered;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::{SendTimes, Token};
use echoring_runtime::shard::Context;

/// A send of so many bytes is one segment on every usual network.
const SEGMENT_BYTES: u32 = 1_200;
/// Maximum bytes of a masked frame's header.
const HEADER_BYTES_MAX: usize = 14;

#[derive(Debug)]
struct Answer {
    token: Token,
    answered: Answered,
    /// When the last byte of its receive arrived, if that is known.
    arrived: Option<Nanos>,
    /// Whether it ends with that byte.
    is_last: bool,
}

/// A receive whose messages are being read.
#[derive(Clone, Copy, Debug)]
struct Receive {
    token: Token,
    at: Option<Nanos>,
    /// Number of answers of earlier receives.
    begin: usize,
}

/// The answers of a tick.
#[derive(Debug, Default)]
pub(super) struct StampedAnswers {
    answers: Vec<Answer>,
    receive: Option<Receive>,
}

impl Client {
    /// Some answers were read from a connection.
    #[inline]
    pub(super) fn note_answers(&mut self, link: &Link<'_>) {
        let Client { shared, tally, stamped, .. } = self;
        if let Some(answered) = &mut tally.answered {
            let token = link.token;
            // Receives of sampled connections have a time.
            if shared.stamping.every > 1 && stamped.receive.is_none_or(|receive| receive.token != token) {
                return answered.clear();
            }
            stamped.answers.extend(answered.drain(..).map(|answered| Answer {
                token,
                answered,
                arrived: None,
                is_last: false,
            }));
        }
    }

    /// Bytes of a receive follow, the last of which arrived at `at`, if that is known.
    pub(super) fn begin_receive(&mut self, cx: &Context<'_, Client>, token: Token, at: Option<Nanos>) {
        self.end_receive(cx);
        self.stamped.receive = Some(Receive { token, at, begin: self.stamped.answers.len() });
    }

    fn end_receive(&mut self, cx: &Context<'_, Client>) {
        let StampedAnswers { answers, receive } = &mut self.stamped;
        let Some(Receive { token, at, begin }) = receive.take() else { return };
        let ended = &mut answers[begin..];
        for answer in ended.iter_mut().filter(|answer| answer.token == token) {
            answer.arrived = at;
        }
        if let Some(last) = ended.last_mut() {
            last.is_last = last.token == token && cx.is_between_messages(token);
        }
    }

    /// Finds the kernel's times of the answers of this tick.
    pub(super) fn find_kernel_times(&mut self, cx: &mut Context<'_, Client>) {
        self.end_receive(cx);
        let Client { shared, tally, stamped, .. } = self;
        for Answer { token, answered: Answered { times, read, payload_bytes }, arrived, is_last } in
            stamped.answers.drain(..)
        {
            let of_receive = KernelTimes { arrived, is_last, ..KernelTimes::default() };
            match cx.send_times(token, times.sent) {
                Some(send) => {
                    let message_bytes_max = cx.sent_bytes_max(token, payload_bytes + HEADER_BYTES_MAX);
                    tally.stamped(times, with_send(of_receive, send, message_bytes_max), read);
                }
                None if shared.stamping.every == 1 => tally.stamped(times, of_receive, read),
                None => {}
            }
        }
    }
}

/// Adds the times of the send of a message, which is of so many bytes at most.
fn with_send(of_receive: KernelTimes, send: SendTimes, message_bytes_max: usize) -> KernelTimes {
    let SendTimes { accepted, left, acknowledged, bytes } = send;
    let is_alone = bytes as usize <= message_bytes_max;
    if bytes > SEGMENT_BYTES && !is_alone {
        return of_receive;
    }
    KernelTimes { accepted, left, acknowledged, ..of_receive }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_may_be_in_another_segment_than_its_sends_end_has_no_times_of_it() {
        let send = |bytes| SendTimes { accepted: Some(1), left: Some(2), acknowledged: Some(3), bytes };
        let of_receive = KernelTimes { arrived: Some(4), ..KernelTimes::default() };
        let left = |bytes, message_bytes_max| with_send(of_receive, send(bytes), message_bytes_max).left;
        // The only message of its send, several in a segment, and several in a longer send.
        assert_eq!(left(50_014, 50_014), Some(2));
        assert_eq!(left(1_200, 16), Some(2));
        assert_eq!(left(1_201, 16), None);
        assert_eq!(with_send(of_receive, send(1_201), 16), of_receive);
    }
}

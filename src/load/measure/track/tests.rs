//! Every order in which replies may arrive, against a model that stores everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn times(sequence: u64) -> Times {
    Times { intended: 10 * sequence, sent: 10 * sequence + 1 }
}

fn awaiting(messages: u64) -> Awaited {
    let mut awaited = Awaited::new(4);
    for sequence in 0..messages {
        awaited.sent(times(sequence));
    }
    awaited
}

fn never() -> Times {
    unreachable!("nothing is missing")
}

#[test]
fn a_message_whose_place_another_took_is_answered_once() {
    let mut awaited = awaiting(4);
    // Two that nobody asked for come before the answers.
    assert_eq!([awaited.replace(0, 10), awaited.replace(1, 11)], [(true, None); 2]);
    assert_eq!(awaited.replace(0, 12), (false, None), "its place is taken");
    assert_eq!((awaited.in_flight(), awaited.expected()), (2, 2));
    assert_eq!(awaited.arrived(0), Arrival::InOrder(times(0)));
    assert_eq!(awaited.arrived(1), Arrival::InOrder(times(1)));
    assert_eq!([awaited.arrived(0), awaited.arrived(1)], [Arrival::Again; 2]);
    assert_eq!((awaited.in_flight(), awaited.missing()), (2, 2));
    // One that was damaged has no other answer.
    assert_eq!(awaited.replace(2, 13), (true, None));
    assert_eq!(awaited.arrived(3), Arrival::InOrder(times(3)));
    assert_eq!(awaited.take_replaced(), [Replaced { sequence: 2, times: times(2), at: 13 }]);
    assert!(awaited.is_settled());
    assert_eq!(awaited.replace(9, 14), (false, None), "nothing is awaited");
}

#[test]
fn the_own_answer_behind_that_of_a_later_message_is_late() {
    let mut awaited = awaiting(3);
    assert_eq!(awaited.replace(0, 10), (true, None));
    assert_eq!(awaited.arrived(1), Arrival::InOrder(times(1)));
    assert_eq!(awaited.arrived(0), Arrival::Late(times(0)));
    assert_eq!(awaited.arrived(2), Arrival::InOrder(times(2)));
}

#[test]
fn only_so_many_replaced_messages_are_kept() {
    let last = REPLACED_MAX as u64;
    let mut awaited = awaiting(last + 1);
    for sequence in 0..=last {
        let over = (sequence == last).then(|| Replaced { sequence: 0, times: times(0), at: 7 });
        assert_eq!(awaited.replace(sequence, 7), (true, over));
    }
    assert_eq!((awaited.arrived(0), awaited.arrived(last)), (Arrival::Again, Arrival::InOrder(times(last))));
}

#[test]
fn in_order_arrivals_give_their_times() {
    let mut awaited = awaiting(3);
    for sequence in 0..3 {
        assert_eq!(awaited.unanswered_from(0).next(), Some((sequence, times(sequence))));
        assert_eq!(awaited.arrived(sequence), Arrival::InOrder(times(sequence)));
    }
    assert_eq!((awaited.in_flight(), awaited.missing(), awaited.is_settled()), (0, 0, true));
}

#[test]
fn an_overtaken_message_is_still_awaited() {
    let mut awaited = awaiting(3);
    assert_eq!(awaited.arrived(0), Arrival::InOrder(times(0)));
    assert_eq!(awaited.arrived(2), Arrival::InOrder(times(2)));
    assert_eq!((awaited.in_flight(), awaited.missing(), awaited.is_settled()), (1, 1, false));
    assert_eq!(awaited.arrived(1), Arrival::Late(times(1)));
    assert_eq!(awaited.arrived(1), Arrival::Again);
    assert_eq!((awaited.in_flight(), awaited.missing()), (0, 0));
}

#[test]
fn a_message_that_was_never_sent_is_unknown() {
    let mut awaited = awaiting(3);
    assert_eq!(awaited.arrived(3), Arrival::Unknown);
    assert_eq!(awaited.arrived(u64::MAX), Arrival::Unknown);
    assert_eq!(awaited.arrived(0), Arrival::InOrder(times(0)));
}

#[test]
fn a_long_flight_grows_the_ring_and_keeps_every_time() {
    let mut awaited = awaiting(1_000);
    for sequence in (0..1_000).filter(|sequence| sequence % 10 != 3) {
        assert_eq!(awaited.arrived(sequence), Arrival::InOrder(times(sequence)));
    }
    assert_eq!((awaited.missing(), awaited.in_flight()), (100, 100));
}

#[test]
fn a_reply_is_recognised_however_many_were_answered_before() {
    let mut awaited = Awaited::new(1);
    const MESSAGES: u64 = 5 * OUTSTANDING_MAX as u64;
    for sequence in 0..MESSAGES {
        assert_eq!(awaited.sent(times(sequence)), None);
        if sequence % 10 != 0 {
            assert_eq!(awaited.arrived(sequence), Arrival::InOrder(times(sequence)));
        }
    }
    assert_eq!(awaited.missing(), MESSAGES / 10);
    for sequence in (0..MESSAGES / 10).rev().map(|tenth| 10 * tenth) {
        assert_eq!(awaited.arrived(sequence), Arrival::Late(times(sequence)));
    }
    assert!(awaited.is_settled());
}

#[test]
fn a_given_up_message_leaves_the_flight_and_may_still_arrive() {
    let mut awaited = awaiting(4);
    awaited.arrived(2);
    assert_eq!(awaited.give_up(times(0).sent, false), 1, "only old enough messages");
    assert_eq!(awaited.in_flight(), 2);
    assert_eq!(awaited.give_up(times(9).sent, true), 1, "only overtaken messages");
    assert_eq!(awaited.give_up(times(9).sent, false), 1);
    assert_eq!((awaited.in_flight(), awaited.missing()), (0, 3));
    awaited.sent(times(4));
    assert_eq!(awaited.arrived(1), Arrival::Late(times(1)));
    assert_eq!((awaited.in_flight(), awaited.missing()), (1, 3));
    assert_eq!(awaited.arrived(4), Arrival::InOrder(times(4)));
    assert_eq!((awaited.in_flight(), awaited.missing()), (0, 2));
}

#[test]
fn only_given_up_messages_are_forgotten_and_all_are_reported() {
    let mut awaited = Awaited::new(1);
    let (mut sequence, mut forgotten) = (0, Vec::new());
    // Every second message is never answered.
    while !awaited.is_full() {
        forgotten.extend(awaited.sent(times(sequence)));
        if sequence % 2 == 1 {
            awaited.arrived(sequence);
        }
        sequence += 1;
    }
    assert_eq!(forgotten, [], "all of them are awaited");
    assert!(sequence >= 2 * OVERTAKEN_MAX as u64);
    awaited.give_up(times(100).sent, true);
    assert!(!awaited.is_full());
    for _ in 0..20 {
        forgotten.extend(awaited.sent(times(sequence)));
        awaited.arrived(sequence);
        sequence += 1;
    }
    assert!(!forgotten.is_empty());
    assert!(forgotten.iter().zip((0..).step_by(2)).all(|(text, oldest)| *text == times(oldest)));
    assert_eq!(awaited.missing(), awaited.unanswered_from(0).count() as u64 + forgotten.len() as u64);
    assert_eq!(awaited.arrived(0), Arrival::Again);
}

#[test]
fn an_unidentified_reply_counts_for_the_oldest_message() {
    let mut awaited = awaiting(2);
    assert!(!awaited.has_unmatched());
    assert!(awaited.arrived_unmatched() && awaited.has_unmatched());
    assert_eq!(awaited.unanswered_from(0).map(|(sequence, _)| sequence).collect::<Vec<_>>(), [1]);
    assert!(awaited.arrived_unmatched());
    assert!(!awaited.arrived_unmatched(), "one more than was sent");
    assert_eq!((awaited.in_flight(), awaited.missing()), (0, 0));
}

proptest! {
    /// Compared with a map that stores everything.
    #[test]
    fn answers_in_any_order_are_matched(steps in prop::collection::vec((any::<bool>(), 0..600_u64), 1..2_000)) {
        let mut awaited = Awaited::new(2);
        let mut model = BTreeMap::new();
        let mut highest = None;
        for (sends, back) in steps {
            let next = awaited.next();
            if sends {
                prop_assert_eq!(awaited.sent(times(next)), None);
                model.insert(next, times(next));
                continue;
            }
            let sequence = next.saturating_sub(back);
            let expected = match model.remove(&sequence) {
                _ if sequence >= next => Arrival::Unknown,
                None => Arrival::Again,
                Some(times) if highest > Some(sequence) => Arrival::Late(times),
                Some(times) => Arrival::InOrder(times),
            };
            if let Arrival::InOrder(_) = expected {
                highest = Some(sequence);
            }
            prop_assert_eq!(awaited.arrived(sequence), expected);
            prop_assert_eq!(awaited.in_flight(), model.len() as u64);
            let before: Vec<u64> = awaited.unanswered_before(sequence, 5).collect();
            prop_assert_eq!(before, model.range(..sequence).rev().take(5).map(|(at, _)| *at).collect::<Vec<_>>());
        }
        prop_assert!(awaited.unanswered_from(0).eq(model));
    }

    #[test]
    fn a_stream_tracks_arrivals_in_any_order(sequences in prop::collection::vec(0..300_u64, 1..600)) {
        let mut stream = Stream::default();
        let mut seen = std::collections::BTreeSet::new();
        for sequence in sequences {
            let expected = match seen.last() {
                _ if seen.contains(&sequence) => StreamArrival::Again,
                Some(&latest) if sequence < latest => StreamArrival::Late,
                _ => StreamArrival::InOrder,
            };
            prop_assert_eq!(stream.arrived(sequence, || times(sequence)), expected);
            seen.insert(sequence);
            let skipped = stream.expected() - seen.len() as u64;
            prop_assert_eq!((stream.received, stream.skipped()), (seen.len() as u64, skipped));
            prop_assert_eq!(stream.missed().map(|(_, count)| count).sum::<u64>(), skipped);
        }
    }
}

#[test]
fn a_stream_reports_gaps_late_messages_and_duplicates() {
    let mut stream = Stream::default();
    assert_eq!(stream.arrived(0, never), StreamArrival::InOrder);
    assert_eq!(stream.arrived(3, || times(2)), StreamArrival::InOrder);
    assert_eq!((stream.gaps, stream.skipped()), (1, 2));
    assert_eq!(stream.arrived(1, never), StreamArrival::Late);
    assert_eq!(stream.arrived(1, never), StreamArrival::Again);
    assert_eq!(stream.arrived(3, never), StreamArrival::Again);
    assert_eq!((stream.gaps, stream.skipped(), stream.missing(10)), (1, 1, 7));
    assert_eq!(stream.missed().collect::<Vec<_>>(), [(times(2), 1)]);
}

#[test]
fn a_stream_forgets_its_oldest_gap_and_reports_it() {
    let mut stream = Stream::default();
    for sequence in (1..).step_by(2).take(GAPS_MAX) {
        stream.arrived(sequence, || times(sequence));
        assert_eq!(stream.forget_excess(), None);
    }
    stream.arrived(stream.expected() + 3, || times(0));
    assert_eq!(stream.forget_excess(), Some((times(1), 1)));
    assert_eq!(stream.arrived(0, never), StreamArrival::Again);
    assert_eq!(stream.arrived(2, never), StreamArrival::Late);
}

#[test]
fn what_was_published_while_a_subscriber_was_away_is_not_owed_to_it() {
    let mut stream = Stream::default();
    stream.returned(0);
    stream.arrived(0, never);
    stream.arrived(1, never);
    stream.returned(5);
    assert_eq!((stream.expected(), stream.skipped(), stream.missing(7), stream.away()), (5, 0, 2, (3, 0)));
    // The server sends the last two again, and goes on.
    assert_eq!(stream.arrived(3, never), StreamArrival::Recovered);
    assert_eq!(stream.arrived(4, never), StreamArrival::Recovered);
    assert_eq!(stream.arrived(4, never), StreamArrival::Again);
    assert_eq!(stream.arrived(5, never), StreamArrival::InOrder);
    assert_eq!((stream.received, stream.gaps, stream.away()), (3, 0, (3, 2)));
    assert_eq!(stream.arrived(2, never), StreamArrival::Late, "behind later ones");
    assert_eq!((stream.skipped(), stream.missing(6), stream.away()), (0, 0, (3, 3)));
    // Another gap is owed.
    assert_eq!(stream.arrived(8, || times(8)), StreamArrival::InOrder);
    stream.returned(12);
    assert_eq!(stream.missed().collect::<Vec<_>>(), [(times(8), 2)]);
    assert_eq!((stream.skipped(), stream.missing(12), stream.away()), (2, 2, (6, 3)));
}

#[test]
fn nothing_is_awaited_of_a_connection_that_ended() {
    let mut awaited = awaiting(5);
    awaited.arrived(0);
    awaited.arrived(3);
    awaited.give_up(times(1).sent, true);
    let mut told = Vec::new();
    assert_eq!(awaited.abandon(|_, times| told.push(times)), 3);
    assert_eq!(told, [times(1), times(2), times(4)]);
    assert_eq!((awaited.next(), awaited.expected(), awaited.in_flight(), awaited.missing()), (5, 5, 0, 0));
    assert_eq!(awaited.arrived(4), Arrival::Again);
    awaited.skip_to(1_000);
    awaited.sent(times(1_000));
    assert_eq!((awaited.oldest(), awaited.in_flight()), (1_000, 1));
    assert_eq!(awaited.arrived(1_000), Arrival::InOrder(times(1_000)));
    assert!(awaited.is_settled());
}

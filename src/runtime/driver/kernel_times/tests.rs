//! Sends and their times, and what the kernel says of them.

use proptest::prelude::*;

use super::*;

#[test]
fn a_message_has_the_times_of_the_first_send_after_it() {
    let mut stream = Stream::default();
    // When it was carried out, its bytes, and whether it was stamped.
    for (at, bytes, is_stamped) in [(10, 100, true), (20, 5, false), (30, 7, true), (40, 1, true)] {
        stream.carry(at, bytes, is_stamped, SENDS_MAX);
    }
    stream.stamp(Stage::Left, 99, 12);
    stream.stamp(Stage::Left, 111, 33);
    stream.stamp(Stage::Acknowledged, 111, 37);
    stream.stamp(Stage::Accepted, 50, 11);
    let left_and_bytes =
        |handed_at| stream.of(handed_at).map(|times| (times.left, times.acknowledged, times.bytes));
    for (handed_at, expected) in [
        (1, Some((Some(12), None, 100))),
        (10, Some((Some(12), None, 100))),
        (11, None),
        (20, None),
        (21, Some((Some(33), Some(37), 7))),
        (30, Some((Some(33), Some(37), 7))),
        (31, Some((None, None, 1))),
        (40, Some((None, None, 1))),
        (41, None),
    ] {
        assert_eq!(left_and_bytes(handed_at), expected, "handed over at {handed_at}");
    }
}

#[test]
fn a_short_send_has_no_times_and_its_bytes_count() {
    let mut stream = Stream::default();
    stream.carry(10, 100, true, SENDS_MAX);
    stream.void();
    stream.carry(20, 10, true, SENDS_MAX);
    // Of the byte at which the short send ended, and of the last one of its rest.
    stream.stamp(Stage::Left, 40, 11);
    stream.stamp(Stage::Left, 99, 15);
    stream.stamp(Stage::Left, 109, 22);
    // Of a retransmission.
    stream.stamp(Stage::Left, 109, 99);
    assert_eq!(stream.of(5), Some(SendTimes::default()));
    assert_eq!(stream.of(15).and_then(|times| times.left), Some(22));
    // One that was not stamped leaves the one before alone.
    stream.carry(30, 10, false, SENDS_MAX);
    stream.void();
    assert_eq!(stream.of(15).and_then(|times| times.left), Some(22));
}

#[test]
fn the_latest_sends_are_kept() {
    let mut stream = Stream::default();
    (1..=SENDS_MAX as u64 + 1).for_each(|at| stream.carry(at * 10, 1, true, SENDS_MAX));
    assert_eq!(stream.of(10), None);
    assert!(stream.of(20).is_some());
}

proptest! {
    #[test]
    fn times_are_those_of_the_message_or_none(
        sends in prop::collection::vec((1..5_u64, 2..100_000_u32, any::<bool>(), any::<bool>()), 1..SENDS_MAX),
        told in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..200),
    ) {
        // The numbers of bytes overflow in between.
        let mut bytes = u32::MAX - 100_000;
        let mut stream = Stream { bytes, ..Stream::default() };
        let (mut at, mut keys, mut handed_at) = (0, Vec::new(), Vec::new());
        for &(pause, length, is_stamped, is_short) in &sends {
            handed_at.push(at + 1..=at + pause);
            at += pause;
            bytes = bytes.wrapping_add(length);
            stream.carry(at, length, is_stamped, SENDS_MAX);
            if is_short {
                stream.void();
            }
            // The stamp of a short send is of the byte at which it ended.
            keys.push(bytes.wrapping_sub(if is_short { 1 + length / 2 } else { 1 }));
        }
        let mut expected = vec![[None; 3]; sends.len()];
        // Stamps may come in any order, be missing, and be repeated.
        for (time, (send, stage)) in told.into_iter().enumerate() {
            let (send, stage) = (send.index(sends.len()), usize::from(stage % 3));
            if !sends[send].2 {
                continue;
            }
            let time = time as Nanos;
            stream.stamp([Stage::Accepted, Stage::Left, Stage::Acknowledged][stage], keys[send], time);
            expected[send][stage].get_or_insert(time);
        }
        for (send, &(_, bytes, is_stamped, is_short)) in sends.iter().enumerate() {
            let [accepted, left, acknowledged] = expected[send];
            let times = match is_short {
                true => SendTimes::default(),
                false => SendTimes { accepted, left, acknowledged, bytes },
            };
            for handed_at in handed_at[send].clone() {
                prop_assert_eq!(stream.of(handed_at), is_stamped.then_some(times));
            }
        }
        prop_assert_eq!(stream.of(at + 1), None);
    }
}

#[test]
fn what_may_have_waited_for_earlier_bytes_has_no_time() {
    const MS: Nanos = MILLISECOND;
    let mut stream = Stream::default();
    // When the last byte of a receive arrived and when it is read, the segments out of order by then, and the result.
    for (at, now, out_of_order, is_in_order) in [
        (10 * MS, 10 * MS + WAIT_UNASKED, 5, true),
        (20 * MS, 25 * MS, 0, true),
        // The first receive of those that waited, and the others.
        (30 * MS, 38 * MS, 2, false),
        (31 * MS, 39 * MS, 2, false),
        (36 * MS, 36 * MS + WAIT_UNASKED, 2, false),
        // In order again, read at once and late.
        (40 * MS, 40 * MS, 2, true),
        (50 * MS, 59 * MS, 2, true),
        // One came too early while the program did not read.
        (60 * MS, 90 * MS, 3, false),
        (92 * MS, 95 * MS, 3, true),
    ] {
        let found = stream.arrived_in_order(at, now, || (out_of_order, now));
        assert_eq!(found, is_in_order, "arrived at {} ms", at / MS);
    }
}

#[test]
fn the_kernel_is_asked_once_for_what_arrived_before() {
    let mut stream = Stream::default();
    let mut asked = 0;
    for at in 1..=100 {
        let count = || {
            asked += 1;
            (0, 2 * MILLISECOND)
        };
        assert!(stream.arrived_in_order(at, 2 * MILLISECOND, count));
    }
    assert_eq!(asked, 1);
}

#[test]
fn control_messages_tell_the_byte_and_the_stage() {
    let head = |bytes: u64, level: i32, kind: i32| {
        let [a, b, c, d] = level.to_ne_bytes();
        let [e, f, g, h] = kind.to_ne_bytes();
        [bytes, u64::from_ne_bytes([a, b, c, d, e, f, g, h])]
    };
    let pair = |first: u32, second: u32| {
        let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
    for (level, kind) in [(libc::SOL_IP, libc::IP_RECVERR), (libc::SOL_IPV6, libc::IPV6_RECVERR)] {
        for (info, stage) in
            [(0, Some(Stage::Left)), (1, Some(Stage::Accepted)), (2, Some(Stage::Acknowledged)), (3, None)]
        {
            let mut control = Vec::new();
            control.extend(head(64, libc::SOL_SOCKET, libc::SCM_TIMESTAMPING));
            control.extend([2, 7, 0, 0, 0, 0]);
            control.extend(head(16 + 32, level, kind));
            control.extend([0, pair(info, 41), 0, 0]);
            assert_eq!(time(&control), Some(2_000_000_007));
            assert_eq!(reason(&control), stage.map(|stage| (stage, 41)));
        }
    }
    assert_eq!((time(&[]), reason(&[])), (None, None));
}

#[test]
fn the_wall_clock_is_converted() {
    let mut wall = WallClock::default();
    let (before, at, after) = (clock::now(), since_epoch(), clock::now());
    let found = wall.monotonic(at, clock::now());
    // A step of the clock in between would be far larger than the slack.
    assert!((before.saturating_sub(MILLISECOND)..after + MILLISECOND).contains(&found));
}

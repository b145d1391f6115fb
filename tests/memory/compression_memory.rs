//! A compression context takes no more memory than it states, allocates all of it at once or with the window, and nothing per
//! message.

use crate::support::counting::{allocations, held_bytes};
use echoring_proto::deflate::{Deflater, Direction, Inflater, Window};

/// Bytes that `work` allocated on this thread and that its result, still alive, holds.
fn held_by<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = held_bytes();
    let value = work();
    (value, usize::try_from(held_bytes() - before).expect("more than before"))
}

fn directions(bits: std::ops::RangeInclusive<u8>) -> impl Iterator<Item = Direction> {
    bits.flat_map(|window_bits| {
        [false, true].map(|context_takeover| Direction { context_takeover, window_bits })
    })
}

/// Repetitive text, which fills the window and refers to it.
fn message() -> Vec<u8> {
    (0..100_000u32).map(|n| b'a' + (n.wrapping_mul(n) / 97 % 26) as u8).collect()
}

fn assert_close(published: usize, held: usize, what: &str) {
    assert!(held <= published, "{what}: {held} bytes held, {published} published");
    assert!(published <= held + held / 10, "{what}: {held} bytes held, {published} published");
}

#[test]
fn contexts_hold_what_they_publish() {
    let message = message();
    for direction in directions(9..=15) {
        for level in [1, 6, 9] {
            let mut out = vec![0; message.len() * 2];
            let (mut deflater, made) = held_by(|| Deflater::new(direction, level));
            let (bytes, used) = held_by(|| deflater.deflate(&message, &mut out));
            assert_eq!(used, 0, "a deflater grows by messages");
            assert_close(
                Deflater::memory_bytes(direction),
                made,
                &format!("deflater, {direction:?}, {level}"),
            );

            let mut inflated = vec![0; message.len()];
            let (mut inflater, made) = held_by(|| Inflater::new(direction));
            let (result, used) = held_by(|| inflater.inflate(&out[..bytes], &mut inflated, message.len()));
            assert_eq!(result, Ok(message.len()));
            assert_close(Inflater::memory_bytes(direction), made + used, &format!("inflater, {direction:?}"));

            let mut window = Window::new(direction.window_bits);
            inflater.reset();
            let (result, held) =
                held_by(|| inflater.inflate_after(&mut window, &out[..bytes], &mut inflated, message.len()));
            assert_eq!(result, Ok(message.len()));
            assert_close(
                Window::memory_bytes(direction.window_bits),
                held,
                &format!("window, {direction:?}"),
            );
        }
    }
}

#[test]
fn messages_cost_no_allocation_once_scratch_and_window_are_there() {
    let message = message();
    for direction in directions(9..=15) {
        let (mut deflater, mut inflater) = (Deflater::new(direction, 1), Inflater::new(direction));
        let (mut deflated, mut inflated) = (Vec::new(), Vec::new());
        let mut window = Window::new(direction.window_bits);
        let mut echo = |bytes: usize| {
            let deflated_bytes = deflater.deflate(&message[..bytes], &mut deflated);
            let payload = &deflated[..deflated_bytes];
            assert_eq!(inflater.inflate_after(&mut window, payload, &mut inflated, message.len()), Ok(bytes));
            let inflated_bytes = inflater.inflate(&deflated[..deflated_bytes], &mut inflated, message.len());
            assert_eq!(inflated_bytes, Ok(bytes));
        };
        echo(message.len());
        let before = allocations();
        for bytes in [0, 1, 100, 1024, 65_536, message.len()] {
            echo(bytes);
        }
        assert_eq!(allocations() - before, 0, "{direction:?}");
    }
}

//! The content of messages, and the detection of damaged ones.

use proptest::prelude::*;

use super::*;
use echoring_proto::deflate::{Deflater, Direction};

const STYLES: [Style; 3] = [Style::Text, Style::Binary, Style::Json];

fn id(form: Form) -> Id {
    let id = Id { connection: 70_001, sequence: 123_456_789_012, ..Id::default() };
    match form {
        Form::Echo => id,
        Form::Broadcast => Id { intended: 987_654_321_098_765, sent: 987_654_321_198_765, ..id },
    }
}

#[test]
fn a_message_names_itself_and_matches_only_itself() {
    for style in STYLES {
        for form in [Form::Echo, Form::Broadcast] {
            let least = Payloads::min_bytes(style, form);
            for bytes in [least, least + 1, 200, 70_000] {
                let payloads = Payloads::new(7, style, form, (bytes, bytes), Spread::Even);
                let (id, mut out) = (id(form), Vec::new());
                payloads.write(&id, &mut out);
                assert_eq!(out.len(), bytes);
                assert_eq!(payloads.identify(&out), Some(id));
                assert!(payloads.matches(&id, &out));
                let next = Id { sequence: id.sequence + 1, ..id };
                assert!(!payloads.matches(&next, &out));
                let other = Id { connection: id.connection + 1, ..id };
                assert!(!payloads.matches(&other, &out));
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    for style in STYLES {
        for form in [Form::Echo, Form::Broadcast] {
            let least = Payloads::min_bytes(style, form);
            for bytes in [least, 96, 400] {
                let payloads = Payloads::new(11, style, form, (bytes, bytes), Spread::Even);
                let mut out = Vec::new();
                payloads.write(&id(form), &mut out);
                for bit in 0..out.len() * 8 {
                    out[bit / 8] ^= 1 << (bit % 8);
                    // Neither the message that the header names now nor the sent one must match.
                    assert!(!payloads.matches(&id(form), &out), "{style:?} {form:?} bit {bit}");
                    if let Some(claimed) = payloads.identify(&out) {
                        let body_tells = form == Form::Broadcast || bytes > least;
                        assert!(
                            !body_tells || !payloads.matches(&claimed, &out),
                            "{style:?} {form:?} bit {bit}"
                        );
                    }
                    out[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }
}

#[test]
fn a_damaged_sequence_names_a_message_far_away() {
    for style in [Style::Text, Style::Json] {
        for form in [Form::Echo, Form::Broadcast] {
            let payloads = Payloads::new(12, style, form, (96, 96), Spread::Even);
            let at = payloads.fields[1];
            for sequence in [0, 1, 31, 32, 1_000_000, 1 << 34] {
                let mut out = Vec::new();
                payloads.write(&Id { sequence, ..id(form) }, &mut out);
                for (place, digit) in (at..at + SEQUENCE_DIGITS)
                    .flat_map(|place| (b'0'..=b'O').map(move |digit| (place, digit)))
                {
                    let sent = std::mem::replace(&mut out[place], digit);
                    let named = payloads.identify(&out).expect("digits").sequence;
                    assert!(digit == sent || named.abs_diff(sequence) > 1 << 34, "{sequence}: {named}");
                    out[place] = sent;
                }
            }
        }
    }
}

#[test]
fn the_minimum_sizes_are_as_documented() {
    assert_eq!(Payloads::min_bytes(Style::Text, Form::Echo), 12);
    assert_eq!(Payloads::min_bytes(Style::Binary, Form::Echo), 12);
    assert_eq!(Payloads::min_bytes(Style::Json, Form::Echo), 34);
    assert_eq!(Payloads::min_bytes(Style::Text, Form::Broadcast), 40);
    assert_eq!(Payloads::min_bytes(Style::Json, Form::Broadcast), 76);
    assert!(Payloads::usage(Style::Text, Form::Echo, 0).is_ok());
    assert!(Payloads::usage(Style::Json, Form::Echo, 33).unwrap_err().contains("34"));
    assert!(Payloads::usage(Style::Binary, Form::Broadcast, 39).unwrap_err().contains("40"));
}

#[test]
fn a_bare_message_is_still_compared_completely() {
    for bytes in 0..12 {
        let payloads = Payloads::new(3, Style::Binary, Form::Echo, (bytes, bytes), Spread::Even);
        assert!(payloads.bare);
        let (id, mut out) = (id(Form::Echo), Vec::new());
        payloads.write(&id, &mut out);
        assert_eq!(out.len(), bytes);
        assert!(payloads.matches(&id, &out));
        assert_eq!(payloads.identify(&out), None);
        if bytes > 0 {
            out[bytes - 1] ^= 1;
            assert!(!payloads.matches(&id, &out));
        }
    }
}

#[test]
fn text_is_ascii_and_json_parses() {
    for (style, form) in
        [(Style::Text, Form::Echo), (Style::Json, Form::Echo), (Style::Json, Form::Broadcast)]
    {
        let payloads = Payloads::new(5, style, form, (300, 300), Spread::Even);
        let mut out = Vec::new();
        for sequence in 0..500 {
            payloads.write(&Id { sequence, ..id(form) }, &mut out);
            assert!(out.is_ascii());
            if style == Style::Json {
                let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
                assert_eq!(value["c"].as_str().map(str::len), Some(4));
            }
        }
    }
}

#[test]
fn json_of_every_size_parses_and_fills_with_records() {
    let sizes = (Payloads::min_bytes(Style::Json, Form::Echo), 1_500);
    let payloads = Payloads::new(6, Style::Json, Form::Echo, sizes, Spread::Even);
    let mut out = Vec::new();
    for sequence in 0..5_000 {
        let id = Id { sequence, ..Id::default() };
        payloads.write(&id, &mut out);
        assert!(payloads.matches(&id, &out));
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let records = value["d"].as_array().map_or(0, Vec::len);
        assert!(records >= out.len() / RECORD_BYTES_MAX - usize::from(out.len() >= RECORD_BYTES_MAX));
    }
}

#[test]
fn json_compresses_like_real_json_and_text_does_not() {
    let mut deflated = Vec::new();
    let mut share = |style, bytes: usize, level| {
        let payloads = Payloads::new(8, style, Form::Echo, (bytes, bytes), Spread::Even);
        let direction = Direction { context_takeover: false, window_bits: 15 };
        let (mut deflater, mut out, mut sum) = (Deflater::new(direction, level), Vec::new(), 0);
        for sequence in 0..500 {
            payloads.write(&Id { sequence, ..Id::default() }, &mut out);
            sum += deflater.deflate(&out, &mut deflated);
        }
        sum as f64 / (500 * bytes) as f64
    };
    for (bytes, dense, fast) in
        [(256, 0.8..0.95, 0.8..1.0), (1_024, 0.36..0.46, 0.4..0.6), (16_384, 0.15..0.25, 0.2..0.4)]
    {
        let shares = (share(Style::Json, bytes, 6), share(Style::Json, bytes, 1));
        println!("{bytes} bytes: {shares:.3?} of them at levels 6 and 1");
        assert!(dense.contains(&shares.0) && fast.contains(&shares.1), "{bytes}: {shares:?}");
    }
    let text = share(Style::Text, 1_024, 6);
    assert!((0.7..0.9).contains(&text), "six random bits of eight: {text}");
}

#[test]
fn sizes_cover_their_range_and_repeat() {
    let payloads = Payloads::new(9, Style::Binary, Form::Echo, (12, 20), Spread::Even);
    let mut seen = [0; 21];
    for sequence in 0..9_000 {
        let id = Id { sequence, ..Id::default() };
        let bytes = payloads.bytes(&id);
        assert_eq!(bytes, payloads.bytes(&id));
        seen[bytes] += 1;
    }
    assert!(seen[..12].iter().all(|&count| count == 0));
    assert!(seen[12..].iter().all(|&count| (800..1_200).contains(&count)), "{seen:?}");
}

#[test]
fn text_of_every_size_is_ascii() {
    // From bare messages, which have only a body, to a kilobyte.
    for sizes in [(0, 11), (12, 40), (500, 1_000)] {
        let payloads = Payloads::new(13, Style::Text, Form::Echo, sizes, Spread::Even);
        assert_eq!(payloads.kind(), MessageKind::Text);
        let mut out = Vec::new();
        for sequence in 0..3_000 {
            let id = Id { sequence, ..Id::default() };
            payloads.write(&id, &mut out);
            assert_eq!(out.len(), payloads.bytes(&id));
            assert!(payloads.matches(&id, &out));
            assert!(out.is_ascii(), "{sizes:?}: {out:x?}");
        }
    }
}

#[test]
fn lines_of_a_file_are_sent_unchanged_and_compared_completely() {
    let file = std::env::temp_dir().join(format!("echoring-lines-{}", std::process::id()));
    std::fs::write(&file, "{\"n\":1}\n{\"n\":22}\n{\"n\":333}\n").expect("a temporary file");
    let lines = Lines::read(&file, Style::Json).expect("JSON");
    std::fs::remove_file(&file).expect("our own file");
    let payloads = Payloads::of_lines(3, Style::Json, lines);
    assert!(payloads.bare);
    assert_eq!((payloads.bytes_max, payloads.kind()), (9, MessageKind::Text));
    let mut out = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for sequence in 0..3 {
        let id = Id { connection: 4, sequence, ..Id::default() };
        payloads.write(&id, &mut out);
        assert_eq!(out.len(), payloads.bytes(&id));
        assert!(payloads.matches(&id, &out));
        assert!(!payloads.matches(&Id { sequence: sequence + 1, ..id }, &out));
        assert_eq!(payloads.identify(&out), None);
        seen.insert(out.clone());
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn writing_does_not_grow_a_buffer_that_fits() {
    for (style, spread) in STYLES.into_iter().flat_map(|style| [(style, Spread::Even), (style, Spread::Zipf)])
    {
        let payloads = Payloads::new(1, style, Form::Echo, (34, 4_096), spread);
        let mut out = Vec::with_capacity(payloads.bytes_max);
        let address = out.as_ptr();
        for sequence in 0..1_000 {
            payloads.write(&Id { sequence, ..Id::default() }, &mut out);
        }
        assert_eq!(out.as_ptr(), address);
    }
}

proptest! {
    #[test]
    fn times_in_messages_are_read_back_on_any_clock(
        now in 1_000_000_000_000_u64..1 << 62,
        age in 0..3_600_000_000_000_u64,
        ahead in -900_000_000_000_i64..1 << 60,
    ) {
        // A machine that is up for more than 13 days has times that do not fit.
        let at = now.saturating_sub(age);
        let written = written_time(at, ahead);
        prop_assert!(written <= TIME_MASK);
        prop_assert_eq!(read_time(written, now, ahead), at);
        prop_assert_eq!(read_time(written_time(now + 5, ahead), now, ahead), now, "by two clocks it is in the future");
    }
}

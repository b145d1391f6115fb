//! W3C Trace Context: the header field `traceparent`.

/// The identity of a span within its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
}

impl TraceContext {
    /// Reads a `traceparent`, and whether its sender samples the trace. `None` if it is malformed; a new trace then
    /// begins.
    pub fn parse(field: &str) -> Option<(TraceContext, bool)> {
        let mut parts = field.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may have more parts.
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let version = hex(version, 2)?;
        let (trace_id, span_id, flags) = (hex(trace, 32)?, hex(span, 16)?, hex(flags, 2)?);
        let is_valid = version != 0xff && trace_id != 0 && span_id != 0;
        let context = TraceContext { trace_id, span_id: u64::try_from(span_id).ok()? };
        is_valid.then_some((context, flags & 1 == 1))
    }
}

/// A number of this many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let context = TraceContext {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
        };
        for (field, expected) in [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), Some((context, true))),
            (format!("00-{TRACE}-00f067aa0ba902b7-00"), Some((context, false))),
            (format!("00-{TRACE}-00f067aa0ba902b7-03"), Some((context, true))),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes"), Some((context, true))),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-more"), None),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()), None),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-0000000000000000-01"), None),
            (format!("00-{TRACE}-00f067aa0ba902b-01"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7"), None),
            (format!("00-{TRACE}-+0f067aa0ba902b7-01"), None),
            (String::new(), None),
        ] {
            assert_eq!(TraceContext::parse(&field), expected, "{field}");
        }
    }
}

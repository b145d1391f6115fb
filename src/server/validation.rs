//! Validation of publications, the same for every way in: the raw route, `echoring.v1.json`, the admin address, and a
//! program's own [`Handle`](super::Handle).
//!
//! Never: a second opinion elsewhere. A name or a value that one way refuses no other way accepts.

pub use crate::hub::is_topic_name;
use crate::limits::JSON_DEPTH_MAX;

/// Whether arrays and objects of a value that is known to be JSON are nested deeper than [`JSON_DEPTH_MAX`].
pub fn is_too_deep(json: &[u8]) -> bool {
    // Each takes two bytes at least.
    if json.len() <= 2 * JSON_DEPTH_MAX {
        return false;
    }
    let (mut depth, mut at) = (0, 0);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth -= 1,
            b'"' => at = string_end(json, at),
            _ => {}
        }
        at += 1;
    }
    false
}

/// Where the string that begins at `start` has its closing quotation mark.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_arrays_and_objects_but_no_brackets_in_strings() {
        let nested =
            |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"]\"":"#, "}]")] {
            let each = open.bytes().filter(|byte| b"[{".contains(byte)).count();
            let most = JSON_DEPTH_MAX / each;
            assert!(!is_too_deep(nested(open, close, most).as_bytes()), "{open}");
            assert!(is_too_deep(nested(open, close, most + 1).as_bytes()), "{open}");
        }
        let wide = format!(r#"["\\\"{}",{}1]"#, "[".repeat(1_000), "[],{},".repeat(1_000));
        assert!(!is_too_deep(wide.as_bytes()));
    }
}

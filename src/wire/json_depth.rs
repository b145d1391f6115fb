//! The depth of JSON values: what is published must be readable by the JSON parsers of all subscribers.

use crate::limits::JSON_DEPTH_MAX;

/// Whether a JSON value nests arrays and objects deeper than [`JSON_DEPTH_MAX`]. The value is known to be valid JSON.
pub fn is_too_deep(json: &[u8]) -> bool {
    // Each level takes at least two bytes.
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

/// The position of the closing quotation mark of the string that begins at `start`.
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

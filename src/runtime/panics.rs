//! The messages of panics.
#![forbid(unsafe_code)]

use std::any::Any;

/// The message of a panic, from its payload.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (_, Some(message)) => message,
        _ => "a payload that is not text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_its_text() {
        let payloads: [(Box<dyn Any + Send>, &str); 4] = [
            (Box::new("a literal"), "a literal"),
            (Box::new(format!("a format of {}", 1)), "a format of 1"),
            (Box::new(String::new()), ""),
            (Box::new(7_u32), "a payload that is not text"),
        ];
        for (payload, message) in &payloads {
            assert_eq!(panic_message(&**payload), *message);
        }
    }
}

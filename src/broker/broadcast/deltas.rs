//! The data of publications for subscriptions with delta compression.

use echoring_topics::{Content, Publication, entries};
use echoring_wire::centrifuge::delta::Creator;
use echoring_wire::centrifuge::{Body, Encoding, Payload};
use echoring_wire::limits::DELTA_MARK_BYTES_MAX;

/// The data of a message.
pub fn payload<'a>(message: &Publication<'a>) -> Payload<'a> {
    let Publication { content, payload, .. } = *message;
    match content {
        Content::Json => Payload::Json(payload),
        Content::Text => Payload::Text(payload),
        Content::Binary => Payload::Bytes(payload),
    }
}

/// Writes data whole or as deltas, in memory that is used again.
#[derive(Debug, Default)]
pub(super) struct DeltaWriter {
    base: Vec<u8>,
    target: Vec<u8>,
    creator: Creator,
}

impl DeltaWriter {
    /// The data of a message: a delta from that of the previous message, if the subscriber has it and the delta is shorter.
    pub(super) fn body(
        &mut self,
        encoding: Encoding,
        message: &Publication<'_>,
        previous: Option<&Publication<'_>>,
    ) -> Body<'_> {
        let DeltaWriter { base, target, creator } = self;
        target.clear();
        payload(message).write(encoding, target);
        if let Some(previous) = previous {
            base.clear();
            payload(previous).write(encoding, base);
            let delta = creator.create(base, target);
            if delta.len() + DELTA_MARK_BYTES_MAX <= target.len() {
                return Body::Delta(delta);
            }
        }
        Body::Whole(target)
    }
}

/// The data of the messages of a page: the first whole, each other one as a delta from the one before it where that is shorter.
#[derive(Debug, Default)]
pub(super) struct Written(Vec<(bool, Vec<u8>)>);

impl Written {
    pub(super) fn new(encoding: Encoding, page: &[u8]) -> Written {
        let mut writer = DeltaWriter::default();
        let mut previous = None;
        let messages = entries(page).map(|(_, message)| {
            let body = writer.body(encoding, &message, previous.replace(message).as_ref());
            match body {
                Body::Delta(delta) => (true, delta.to_vec()),
                Body::Whole(_) | Body::Plain(_) => (false, writer.target.clone()),
            }
        });
        Written(messages.collect())
    }

    /// The data of a message by its index; `None` if it was not written.
    pub(super) fn body(&self, index: usize) -> Option<Body<'_>> {
        let (is_delta, data) = self.0.get(index)?;
        Some(if *is_delta { Body::Delta(data) } else { Body::Whole(data) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_wire::centrifuge::delta::apply;
    use proptest::prelude::*;

    /// A client's data after each message.
    fn restored(encoding: Encoding, messages: &[Publication<'_>]) -> Vec<Vec<u8>> {
        let mut writer = DeltaWriter::default();
        let mut restored: Vec<Vec<u8>> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let previous = index.checked_sub(1).map(|previous| &messages[previous]);
            let data = match writer.body(encoding, message, previous) {
                Body::Delta(delta) => {
                    apply(restored.last().expect("a base"), delta, 1 << 20).expect("it fits")
                }
                Body::Whole(whole) => whole.to_vec(),
                Body::Plain(_) => panic!("not for these subscriptions"),
            };
            restored.push(data);
        }
        restored
    }

    proptest! {
        #[test]
        fn every_message_is_restored(
            words in prop::collection::vec(("[a-c é\n\"]{0,120}", 0..3u8), 1..12),
            protobuf: bool,
        ) {
            let encoding = if protobuf { Encoding::Protobuf } else { Encoding::Json };
            let values: Vec<(Vec<u8>, Content)> = words
                .into_iter()
                .map(|(word, content)| match Content::from_number(content) {
                    Some(Content::Json) => (serde_json::to_vec_pretty(&[word]).unwrap(), Content::Json),
                    content => (word.into_bytes(), content.unwrap()),
                })
                .collect();
            let messages: Vec<_> = values
                .iter()
                .map(|(payload, content)| Publication::new(*content, "", payload))
                .collect();
            let expected: Vec<_> = messages
                .iter()
                .map(|message| {
                    let mut whole = Vec::new();
                    payload(message).write(encoding, &mut whole);
                    whole
                })
                .collect();
            prop_assert_eq!(restored(encoding, &messages), expected);
        }
    }

    #[test]
    fn a_delta_that_is_not_shorter_is_no_delta() {
        let mut writer = DeltaWriter::default();
        let message = |payload| Publication::new(Content::Text, "", payload);
        let long = "the same words again and again, ".repeat(20);
        let changed = long.replacen("same", "very", 1);
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let previous = message(long.as_bytes());
            assert!(matches!(writer.body(encoding, &message(b"short"), Some(&previous)), Body::Whole(_)));
            assert!(matches!(writer.body(encoding, &previous, None), Body::Whole(_)));
            let Body::Delta(delta) = writer.body(encoding, &message(changed.as_bytes()), Some(&previous))
            else {
                panic!("it is shorter");
            };
            assert!(delta.len() < 60);
        }
    }
}

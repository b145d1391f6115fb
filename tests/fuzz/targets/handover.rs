//! What a process in a takeover reads from the other: mail, offers, and the records of topics. Whatever is accepted is written again
//! as it came, and topics made of it export what they imported.
//!
//! Input: a byte that selects the format, and bytes of that format.

use echoring_broker::broadcast::mail_codec;
use echoring_proto::Plain as _;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_server::handover::reread_offer;
use echoring_topics::{
    ExportCursor, Importer, OwnedTopics, Record, Rules, SlowConsumerPolicy, TopicSettings,
};

/// A time later than the age of any key.
const NOW: u64 = 1 << 50;
/// The type of the records of a history. Which of them are kept depends on where segments end.
const HISTORY: u8 = 1;

pub fn run(data: &[u8]) {
    let Some((format, rest)) = data.split_first() else { return };
    match format % 4 {
        0 => {
            if let Some((mail, bytes)) = mail_codec::decode(rest) {
                let mut written = Vec::new();
                if mail_codec::encode(&mail, bytes, &mut written) {
                    assert_eq!(written, rest);
                }
            }
        }
        1 => {
            if let Some(written) = reread_offer(rest) {
                assert_eq!(reread_offer(&written).as_deref(), Some(&written[..]));
            }
        }
        2 => import(rest, SlowConsumerPolicy::DropOldest),
        _ => import(rest, SlowConsumerPolicy::Conflate),
    }
}

fn import(data: &[u8], slow: SlowConsumerPolicy) {
    let mut pool = Pool::standalone();
    let mut topics = imported(data, slow, 3, &mut pool);
    let exported = export(&mut topics, &mut pool);
    let mut again = imported(&exported, slow, usize::from(u16::MAX), &mut pool);
    assert_eq!(without_history(&exported), without_history(&export(&mut again, &mut pool)));
    topics.release_all(&mut pool);
    again.release_all(&mut pool);
    assert_eq!(pool.used_bytes(), 0);
}

/// The topics of as many records as are well formed.
fn imported(mut data: &[u8], slow: SlowConsumerPolicy, shards: usize, pool: &mut Pool) -> OwnedTopics {
    let settings = TopicSettings { slow, ..TopicSettings::default() };
    let mut topics = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(100), 1), 1);
    let mut importer = Importer::default();
    while let Some(record) = Record::take(&mut data)
        && importer.import(&mut topics, record, 0..shards, NOW, pool).is_ok()
    {}
    topics.finish_import(NOW, pool);
    topics
}

fn export(topics: &mut OwnedTopics, pool: &mut Pool) -> Vec<u8> {
    let (mut cursor, mut bytes) = (Some(ExportCursor::default()), Vec::new());
    while let Some(next) = cursor {
        let bytes_max = bytes.len() + 100;
        cursor = topics.export(next, bytes_max, NOW, pool, &mut bytes);
    }
    bytes
}

fn without_history(mut bytes: &[u8]) -> Vec<u8> {
    let mut others = Vec::new();
    while let Some(record) = Record::take(&mut bytes) {
        let start = others.len();
        record.put(&mut others);
        if others[start] == HISTORY {
            others.truncate(start);
        }
    }
    others
}

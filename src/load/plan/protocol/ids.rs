//! Ids of requests: numbers from a first one on, which may repeat.

use super::definition;

/// How the requests of a connection are numbered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdSequence {
    first: u64,
    count: u64,
}

impl IdSequence {
    pub(super) fn new(ids: definition::Ids) -> Result<IdSequence, String> {
        let count = ids.count.unwrap_or(u64::MAX);
        if count == 0 {
            return Err("id.count: expected at least 1".to_owned());
        }
        Ok(IdSequence { first: ids.first, count })
    }

    /// The id of the request with this sequence.
    #[inline]
    pub(crate) fn id(&self, sequence: u64) -> u64 {
        self.first.wrapping_add(if self.count == u64::MAX { sequence } else { sequence % self.count })
    }

    /// The latest request before `next` with this id.
    #[inline]
    pub(crate) fn sequence(&self, id: u64, next: u64) -> Option<u64> {
        let offset = id.checked_sub(self.first).filter(|offset| *offset < self.count)?;
        if offset >= next {
            return None;
        }
        if self.count == u64::MAX {
            return Some(offset);
        }
        let latest = next - 1;
        Some(latest - (latest - offset) % self.count)
    }

    /// Whether `in_flight` requests are distinguishable.
    #[inline]
    pub(crate) fn distinguish(&self, in_flight: u64) -> bool {
        in_flight <= self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_the_latest_request_that_has_it() {
        let ids = IdSequence::new(definition::Ids { first: 5, count: Some(3) }).expect("valid");
        let all: Vec<u64> = (0..7).map(|sequence| ids.id(sequence)).collect();
        assert_eq!(all, [5, 6, 7, 5, 6, 7, 5]);
        for next in 1..20_u64 {
            for sequence in next.saturating_sub(3)..next {
                assert_eq!(ids.sequence(ids.id(sequence), next), Some(sequence), "of {next}");
            }
        }
        assert_eq!((ids.sequence(4, 9), ids.sequence(8, 9), ids.sequence(6, 1)), (None, None, None));
        let endless = IdSequence::new(definition::Ids::default()).expect("valid");
        assert_eq!(
            (endless.id(41), endless.sequence(42, 42), endless.sequence(43, 42)),
            (42, Some(41), None)
        );
        assert_eq!(endless.sequence(0, 42), None);
        assert!(IdSequence::new(definition::Ids { first: 1, count: Some(0) }).is_err());
    }
}

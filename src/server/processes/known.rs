//! What a predecessor knows of clients that are not connected, as bytes: bans of addresses, and blocks.

use crate::node::config::KnownClients;
use echoring_auth::Block;
use echoring_broker::gate::unix_now;
use echoring_proto::Plain as _;
use echoring_runtime::admission::Ban;
use echoring_runtime::driver::monotonic_now;

impl KnownClients {
    /// Appends the bans and blocks that have not ended.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        self.admission.banned(monotonic_now()).put(out);
        self.blocks.list(unix_now()).put(out);
    }

    /// Adds those of the predecessor. `None` if the bytes are malformed.
    pub(crate) fn add(&self, from: &[u8]) -> Option<()> {
        let (bans, blocks) = <(Vec<Ban>, Vec<Block>)>::decode(from)?;
        self.ban(bans);
        self.blocks.extend(blocks);
        Some(())
    }

    /// Bans addresses as the predecessor has.
    pub(crate) fn ban(&self, bans: Vec<Ban>) {
        let now = monotonic_now();
        bans.into_iter().for_each(|ban| self.admission.ban(ban, now));
    }
}

#[cfg(test)]
mod tests {
    use echoring_auth::Blocked;
    use echoring_proto::AddressKey;
    use echoring_proto::limits::SECOND;

    use super::*;

    #[test]
    fn bans_and_blocks_are_known_to_the_successor() {
        let (before, after) = (KnownClients::default(), KnownClients::default());
        let bans = [AddressKey::V4(7), AddressKey::V6(u64::MAX)]
            .map(|address| Ban { address, time_left: 100 * SECOND });
        before.ban(bans.into());
        let blocks = [
            Block { who: Blocked::subject("gr\u{fc}n").expect("short"), until: None },
            Block { who: Blocked::token_id(&"t".repeat(255)).expect("short"), until: Some(u64::MAX - 1) },
        ];
        before.blocks.extend(blocks.to_vec());
        let mut written = Vec::new();
        before.write(&mut written);
        for end in 0..written.len() {
            assert_eq!(KnownClients::default().add(&written[..end]), None, "{end}");
        }
        assert_eq!(after.add(&[&written[..], b"more"].concat()), None);
        // Those that were made elsewhere, and are shorter, stay.
        let longer = Ban { time_left: 200 * SECOND, ..bans[0] };
        after.ban(vec![longer, Ban { address: AddressKey::V4(8), time_left: SECOND }]);
        assert_eq!(after.add(&written), Some(()));
        let now = monotonic_now();
        let mut banned = after.admission.banned(now);
        banned.sort_by_key(|ban| ban.address);
        let left: Vec<_> = banned.iter().map(|ban| (ban.address, ban.time_left.div_ceil(SECOND))).collect();
        assert_eq!(left[0], (AddressKey::V4(7), 200));
        assert_eq!(left.last(), Some(&(AddressKey::V6(u64::MAX), 100)));
        assert_eq!(after.blocks.list(0), blocks);
        // A ban without an end of its own.
        let ban = Ban { time_left: u64::MAX, ..longer };
        after.ban(vec![ban]);
        assert!(after.admission.banned(now).contains(&Ban { time_left: u64::MAX - now, ..longer }));
    }
}

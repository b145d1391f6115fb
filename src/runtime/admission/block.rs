//! Blocks of addresses (CIDR), and the proxies that are trusted by them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A block of addresses such as `10.0.0.0/8`, `2001:db8::/32` or `192.0.2.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock(IpNet);

impl echoring_proto::Plain<'_> for AddressBlock {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<AddressBlock> {
        AddressBlock::around(echoring_proto::Plain::take(from)?).ok()
    }
}

/// Text that is no block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock;

impl fmt::Display for BadBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an address or a block such as 10.0.0.0/8 or 2001:db8::/32, with no bits set after its prefix")
    }
}

impl FromStr for AddressBlock {
    type Err = BadBlock;

    fn from_str(text: &str) -> Result<AddressBlock, BadBlock> {
        let block = AddressBlock::around(text)?;
        (block.0.addr() == block.0.network()).then_some(block).ok_or(BadBlock)
    }
}

impl From<IpAddr> for AddressBlock {
    fn from(address: IpAddr) -> AddressBlock {
        AddressBlock(address.into())
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AddressBlock {
    /// The block around the address in `text`, which may have bits behind the prefix.
    ///
    /// # Errors
    /// If it is neither an address nor a block.
    pub fn around(text: &str) -> Result<AddressBlock, BadBlock> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(address.into()),
            Err(_) => text.parse().map(AddressBlock).map_err(|_| BadBlock),
        }
    }

    /// Whether `address`, which is canonical, is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

/// The proxies whose word about their clients is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Their addresses.
    pub blocks: Vec<AddressBlock>,
    /// All that connect through Unix sockets.
    pub unix: bool,
    /// They send a header of the PROXY protocol on every connection.
    pub proxy_protocol: bool,
}

impl TrustedProxies {
    /// Whether nobody is trusted.
    pub fn is_none(&self) -> bool {
        self.blocks.is_empty() && !self.unix
    }

    /// Whether an address is that of a proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.blocks.iter().any(|block| block.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_the_addresses_with_its_prefix() {
        for (block, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
        ] {
            let trusted =
                TrustedProxies { blocks: vec![block.parse().expect("a block")], ..TrustedProxies::default() };
            assert_eq!(trusted.contains(address.parse().expect("an address")), expected, "{block} {address}");
        }
    }

    #[test]
    fn text_that_is_no_block_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.1/8", "10/8", "::/129", "::1/64", "a", "10.0.0.0/", "10.0.0.0/+8"]
        {
            assert_eq!(text.parse::<AddressBlock>(), Err(BadBlock), "{text}");
        }
        assert_eq!("192.0.2.7".parse::<AddressBlock>().expect("valid").to_string(), "192.0.2.7/32");
    }
}

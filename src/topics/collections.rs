//! Collections that know no topics: tables with reusable indices, counts by pattern, an order by size, and values that expire.

pub(crate) mod by_pattern;
pub(crate) mod by_size;
pub(crate) mod retained;
pub(crate) mod slab;
pub(crate) mod slot_map;

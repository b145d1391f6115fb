//! Statistics of mimalloc, the program's allocator.

use echoring_admin::AllocatorFigures;
use mimalloc::MiMalloc;
use serde::Deserialize;

/// The part of mimalloc's statistics that is reported.
#[derive(Deserialize)]
struct Statistics {
    reserved: Gauge,
    committed: Gauge,
    pages: Gauge,
    mmap_calls: u64,
}

#[derive(Deserialize)]
struct Gauge {
    current: i64,
    peak: i64,
}

/// The figures now; none if the allocator cannot tell.
pub(super) fn figures() -> Option<AllocatorFigures> {
    let json = MiMalloc::stats_json().ok()?;
    let Statistics { reserved, committed, pages, mmap_calls } =
        serde_json::from_slice(json.to_bytes()).ok()?;
    // The statistics of threads are added with a delay, so a sum may be negative for a moment.
    let figure = |value: i64| u64::try_from(value).unwrap_or(0);
    Some(AllocatorFigures {
        reserved_bytes: figure(reserved.current),
        committed_bytes: figure(committed.current),
        committed_peak_bytes: figure(committed.peak),
        pages: figure(pages.current),
        mmap_calls,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn mimalloc_says_what_it_has() {
        let figures = super::figures().expect("statistics that can be read");
        assert!(figures.reserved_bytes >= figures.committed_bytes);
    }
}

//! A share of a load that this process makes alone, for `echoring merge`.

use echoring_load::record::SegmentPart;
use echoring_load::record::segment::{SegmentRun, to_text};
use echoring_load::{Measures, Outcome, Part, Refused, RunProgress, Segment, TargetSession, Workload};

/// A target under one share of each load.
pub(in super::super) struct SegmentSession {
    pub(in super::super) session: TargetSession,
    pub(in super::super) segment: Segment,
}

impl Measures for SegmentSession {
    fn measure(&self, load: Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused> {
        let part = Part { segment: self.segment, coordination: None };
        let result = self.session.measure_part(load.clone(), part, show)?;
        let target = self.session.target();
        let run = SegmentRun::new(&load, target.clone(), &result);
        let mut outcome = Outcome::of(&load, &target, result);
        outcome.record.segment = Some(SegmentPart {
            number: self.segment.index() + 1,
            of: self.segment.of(),
            results: to_text(&run),
        });
        Ok(outcome)
    }

    fn is_stopped(&self) -> bool {
        self.session.is_stopped()
    }
}

//! Frees memory when the node is short of it.

use super::Shard;
use crate::driver::Driver;
use crate::shard::application::Application;

impl<D: Driver, A: Application> Shard<D, A> {
    /// Frees memory when the node is short of it: free buffers first, then histories, then the connections that hold
    /// most beyond their share, and finally the backlogs of slow consumers.
    #[cold]
    #[inline(never)]
    pub(super) fn relieve(&mut self) {
        let called = self.core.begin_relief();
        self.shed(false);
        if self.core.is_relief_due() && self.core.end_over_share(called) {
            self.shed(true);
        }
        self.core.end_relief();
    }

    /// Has the application free memory until there is enough, or it has none to free.
    fn shed(&mut self, owed: bool) {
        while self.core.is_short() && self.application.shed(&mut self.core.env.pool, owed) {}
    }
}

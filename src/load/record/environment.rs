//! Where a run took place, and the generators that shared it, in its record.

use crate::measure::host;
use crate::plan::declared::part;
use echoring_runtime::driver::Description;

part! {
    /// Where a run took place.
    #[derive(Default)]
    Environment of(used: Description) {
        /// Commit of the source, if the build was given one (`ECHORING_COMMIT`).
        commit: Option<String> = option_env!("ECHORING_COMMIT").map(str::to_owned),
        /// Version of this program.
        version: String = env!("CARGO_PKG_VERSION").to_owned(),
        /// Model name of the processor.
        cpu: String = host::cpu_model(),
        /// CPUs that this process may use.
        cpus: usize = host::allowed_cpus().len(),
        /// Kernel release.
        kernel: String = host::kernel(),
        /// The generator's driver.
        driver: String = used.name.to_owned(),
        /// Kernel features that it uses.
        features: Vec<String> = used.features.names().map(str::to_owned).collect(),
        /// Kernel features that are unavailable.
        degraded: Vec<String> = used.degraded.names().map(str::to_owned).collect(),
        /// Whether this program was built with optimisations.
        optimized: bool = !cfg!(debug_assertions),
    }
}

part! {
    /// One of the generators that shared a run.
    Agent {
        /// Its name.
        name: String,
        /// Connections assigned to it.
        connections: u32,
        /// Those that opened.
        opened: u64,
        /// Messages that arrived at it in the measured time; the reported ones, if it was lost.
        messages: u64,
        /// How far its clock was behind the common clock in the end, in nanoseconds; `null` if they were not compared.
        clock_behind_ns: Option<i64>,
        /// Half the shortest round trip of those comparisons, which bounds the error of `clock_behind_ns`.
        clock_uncertainty_ns: Option<u64>,
        /// Why its results are missing, if they are.
        lost: Option<String>,
        /// Where it ran; `null` if it was lost.
        environment: Option<Environment>,
    }
}

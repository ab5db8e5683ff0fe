//! What is launched on a GPU, by name: how often, and how long it took.

use std::{collections::BTreeMap, sync::Mutex};

use cubecl::{
    config::{TypeNameFormatLevel, type_name_format},
    logging::{Duration, LaunchObserver, TimingMethod, TimingRequest},
};

/// An observer of all launches of the program.
#[derive(Default)]
pub struct Launches {
    /// How often, and how long.
    pub kernels: Mutex<BTreeMap<String, (usize, Duration)>>,
    /// Whether they are timed, each alone.
    pub times: bool,
}

impl Launches {
    fn add(&self, kernel: &'static str, count: usize, time: Duration) {
        let name = type_name_format(kernel, TypeNameFormatLevel::Short);
        let mut kernels = self.kernels.lock().expect("no launch panics");
        let (counted, taken) = kernels.entry(name).or_default();
        *counted += count;
        *taken += time;
    }

    /// How often each was launched.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let kernels = self.kernels.lock().expect("no launch panics");
        kernels.iter().map(|(name, (count, _))| (name.clone(), *count)).collect()
    }
}

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        self.add(kernel, 1, Duration::ZERO);
    }

    fn timing(&self) -> TimingRequest {
        if self.times { TimingRequest::Resolved } else { TimingRequest::None }
    }

    fn timed(&self, kernel: &'static str, time: Duration, _: TimingMethod) {
        self.add(kernel, 0, time);
    }
}

//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

pub mod metrics;
#[cfg(feature = "cli")]
pub mod plot;
pub mod run_config;
pub mod schedule;
pub mod session;
pub mod step;
pub mod tensorboard;

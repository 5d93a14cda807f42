//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

pub mod metrics;
#[cfg(feature = "cli")]
pub mod plot;
pub mod pretrain;
pub mod run_config;
pub mod run_plan;
pub mod schedule;
pub mod session;
pub mod step;
pub mod tensorboard;

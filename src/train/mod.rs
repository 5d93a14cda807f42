//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

pub mod checkpoint;
pub mod init;
pub mod load;
pub mod metrics;
#[cfg(feature = "cli")]
pub mod plot;
pub mod pretrain;
pub mod ranks;
pub mod run_config;
pub mod run_plan;
pub mod schedule;
pub mod session;
mod start;
pub mod state;
pub mod step;
pub mod tensorboard;

//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

mod archive;
pub mod checkpoint;
pub mod export;
pub mod import;
pub mod init;
pub mod load;
pub mod metrics;
pub mod moments;
#[cfg(feature = "cli")]
pub mod plot;
pub mod pretrain;
pub mod run_config;
pub mod run_plan;
pub mod schedule;
pub mod session;
mod start;
pub mod state;
pub mod step;
pub mod tensorboard;

//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

mod append_file;
pub mod checkpoint;
mod held_out;
pub mod init;
pub mod load;
pub mod lock;
pub mod metrics;
#[cfg(feature = "cli")]
pub mod plot;
pub mod pretrain;
pub mod run_config;
pub mod run_plan;
pub mod schedule;
pub mod session;
pub mod snapshot;
mod start;
pub mod state;
pub mod step;
pub mod tensorboard;

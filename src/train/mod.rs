//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

mod append_file;
mod archive;
pub mod checkpoint;
pub mod disk;
pub mod export;
pub mod fit;
pub mod guard;
mod held_out;
pub mod import;
pub mod init;
pub mod keys;
pub mod load;
pub mod lock;
pub mod loss_scale;
pub mod metrics;
pub mod moments;
#[cfg(feature = "cli")]
pub mod plot;
pub mod pretrain;
pub mod ranks;
pub mod run_config;
pub mod run_plan;
pub(crate) mod saving;
pub mod schedule;
pub mod session;
pub mod snapshot;
mod start;
pub mod state;
pub mod step;
pub mod tensorboard;

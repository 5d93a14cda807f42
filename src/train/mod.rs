//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

pub mod checkpoint;
pub mod init;
pub mod load;
pub mod schedule;
pub mod session;
pub mod state;
pub mod step;

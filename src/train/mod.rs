//! Training: programs for whole steps, the loop's state, schedules, checkpoints.

pub mod schedule;
pub mod session;
pub mod step;

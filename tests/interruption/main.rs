//! Training that nothing interrupts: kills, signals, full disks, damaged checkpoints, a second run in the same directory.
//! Whatever happened, the run that goes on has the losses, bit for bit, of one that never stopped.
#![cfg(unix)]

mod common;
mod disk;
mod finetuning;
mod kills;
#[path = "../common/program.rs"]
mod program;
mod runs;

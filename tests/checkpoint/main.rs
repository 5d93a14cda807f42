//! Parameters on disk.

mod checkpoints;
mod commands;
mod common;
mod damage;
mod hugging_face;
mod original;
mod torch;

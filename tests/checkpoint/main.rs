//! Parameters on disk.

mod checkpoints;
mod common;
mod hugging_face;

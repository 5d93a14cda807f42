//! From text to batches.

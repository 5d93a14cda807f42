//! From text to batches.
//!
//! Pretraining data passes through these modules in order: [`corpus`] reads text files and cuts them into rows of one
//! long token stream, [`segment`] pairs segments A and B, [`ngram_mask`] chooses what is predicted, [`record`] and
//! [`example`] put the result into [`tfrecord`] files, [`record_info`] finds those files again, and [`loader`] draws
//! [`permutation`]s and fills [`batch`]es from them.

mod atomic;
pub mod batch;
pub mod corpus;
pub mod encode;
pub mod example;
pub mod loader;
pub mod ngram_mask;
pub mod permutation;
pub mod record;
pub mod record_info;
pub mod segment;
pub mod special;
pub mod tfrecord;
mod token_stream;

//! From text to batches.
//!
//! [`text`] cleans lines, [`tokenizer`] turns them into ids by a model that [`vocab`] trains.
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
mod piece_table;
pub mod record;
pub mod record_info;
pub mod segment;
pub mod special;
pub mod text;
pub mod tfrecord;
mod token_stream;
pub mod tokenizer;
pub mod vocab;

//! From text to batches.
//!
//! Pretraining data passes through these modules in order: [`corpus`] reads text files, [`text`] and [`tokenizer`] turn
//! their lines into ids of a vocabulary that [`vocab`] trained, [`segment`] cuts the stream into rows and pairs segments
//! A and B, [`ngram_mask`] chooses what is predicted, [`record`] and [`example`] put the result into [`tfrecord`] files,
//! [`record_info`] finds those files again, and [`loader`] draws [`permutation`]s and fills [`batch`]es from them.
//! [`inspect`] shows a record to a person.

pub mod batch;
pub mod corpus;
pub mod encode;
pub mod example;
pub mod inspect;
pub mod loader;
pub mod ngram_mask;
pub mod permutation;
pub mod record;
pub mod record_info;
pub mod row_layout;
pub mod segment;
pub mod share;
pub mod special;
pub mod text;
pub mod tfrecord;
pub mod tokenizer;
pub mod vocab;

mod piece_table;
mod stamp;
mod token_file;
mod token_stream;

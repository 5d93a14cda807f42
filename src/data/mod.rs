//! From text to batches.
pub mod text;
pub mod tokenizer;
pub mod vocab;

mod piece_table;

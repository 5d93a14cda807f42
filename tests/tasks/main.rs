//! Tasks end to end: a small model learns a few examples of each by heart, is saved, answers again, and says what is
//! wrong with bad input. All data are made up here; a vocabulary is trained on them.

mod common;
mod conversion;
mod errors;
mod formats;
mod overfit;
mod serving;
mod windows;

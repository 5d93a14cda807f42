//! Spans of paragraphs: SQuAD 1.1 and 2.0, CMRC 2018, DRCD.

pub mod align;
pub mod chinese;
pub mod convert;
pub mod decode;
pub mod english;
pub mod read;
mod words;

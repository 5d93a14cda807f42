//! Text to token ids, with a task's cleaning.

use crate::Result;
use crate::data::text::{TextOptions, preprocess_text};
use crate::data::tokenizer::{Token, Tokenizer};

/// A vocabulary with the cleaning that a task does before it; shared between threads.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    /// The vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// The cleaning.
    pub text: TextOptions,
}

impl Encoder<'_> {
    /// Cleaned and tokenised.
    ///
    /// # Errors
    /// Text of 2 GiB or more.
    pub fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        self.tokenizer.encode_with_offsets(&preprocess_text(text, &self.text))
    }
    /// Ids of [`Self::tokens`].
    ///
    /// # Errors
    /// Text of 2 GiB or more.
    pub fn ids(&self, text: &str) -> Result<Vec<i32>> {
        // Model files are far too small for 2^31 pieces.
        Ok(self.tokens(text)?.into_iter().map(|token| token.id as i32).collect())
    }
}

//! What the corpus builder needs from a tokenizer.

use super::text::{TextOptions, preprocess_text};
use super::tokenizer::Tokenizer;
use crate::Result;

/// A vocabulary that turns lines into ids; the corpus builder calls it from many threads at once.
pub trait Encode: Sync {
    /// Cleans `line`, tokenises it and appends its ids to `ids`.
    ///
    /// `line` has no surrounding white space and is not empty.
    ///
    /// # Errors
    /// When the line cannot be encoded; the caller adds file and line number.
    fn encode_line(&self, line: &str, cleaning: &TextOptions, ids: &mut Vec<i32>) -> Result<()>;

    /// Number of pieces; every id is below it.
    fn vocab_size(&self) -> usize;

    /// For every id, whether its piece can start a word; see [`is_start_piece`].
    fn start_pieces(&self) -> Vec<bool>; // [vocab_size]

    /// SHA-256 of the model file in hexadecimal, or `None` when there is no such file.
    fn vocabulary_hash(&self) -> Option<String>;
}

/// Whether a predicted span may begin at `piece`: it starts a word (`▁`), is a control symbol (`<`), or is one ASCII
/// punctuation character, except the apostrophe, `=` and `>`.
pub fn is_start_piece(piece: &str) -> bool {
    let punctuation = |p: &str| matches!(p.as_bytes(), [c] if c.is_ascii_punctuation() && !b"'<=>".contains(c));
    piece.starts_with(['▁', '<']) || punctuation(piece)
}

impl Encode for Tokenizer {
    fn encode_line(&self, line: &str, cleaning: &TextOptions, ids: &mut Vec<i32>) -> Result<()> {
        // Model files are far too small for 2^31 pieces.
        ids.extend(self.encode_ids(&preprocess_text(line, cleaning))?.into_iter().map(|id| id as i32));
        Ok(())
    }
    fn vocab_size(&self) -> usize {
        Self::vocab_size(self)
    }
    fn start_pieces(&self) -> Vec<bool> {
        (0..Self::vocab_size(self) as u32).map(|id| self.piece(id).is_some_and(is_start_piece)).collect()
    }
    fn vocabulary_hash(&self) -> Option<String> {
        Some(Self::vocabulary_hash(self).to_owned())
    }
}

/// A vocabulary without pieces, for corpora that already are ids: every id counts as the start of a word.
#[derive(Clone, Copy, Debug)]
pub struct IdVocabulary {
    /// Number of ids; larger ones in a corpus are an error.
    pub vocab_size: usize,
}

impl Encode for IdVocabulary {
    fn encode_line(&self, _: &str, _: &TextOptions, _: &mut Vec<i32>) -> Result<()> {
        Err(crate::Error::config(
            "raw text needs a vocabulary; name a SentencePiece model, or set from_raw_text = false",
        ))
    }
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
    fn start_pieces(&self) -> Vec<bool> {
        vec![true; self.vocab_size]
    }
    fn vocabulary_hash(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocab::{VocabOptions, train_vocab};
    use super::*;

    /// A vocabulary trained on the spot: ids and starts are those of the tokenizer.
    #[test]
    fn tokenizer_encodes_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (input, model) = (dir.path().join("a.txt"), dir.path().join("a.model"));
        let line = |i: usize| format!("the cat {} saw {} small dogs, and then some", i % 7, i % 13);
        std::fs::write(&input, (0..300).map(|i| line(i) + "\n").collect::<String>()).unwrap();
        let options = VocabOptions {
            inputs: vec![input],
            vocab_size: 80,
            hard_vocab_limit: false,
            threads: 1,
            ..VocabOptions::default()
        };
        train_vocab(&options, &model).unwrap();
        let tokenizer = Tokenizer::open(&model).unwrap();
        let mut ids = vec![9];
        let lower = TextOptions { lower: true, ..TextOptions::default() };
        Encode::encode_line(&tokenizer, "The  CAT saw\u{3000}dogs", &lower, &mut ids).unwrap();
        let expected = tokenizer.encode_ids("the cat saw dogs").unwrap();
        assert_eq!(ids[0], 9);
        assert_eq!(ids[1..], expected.iter().map(|&id| id as i32).collect::<Vec<_>>());
        let starts = Encode::start_pieces(&tokenizer);
        assert_eq!(starts.len(), Encode::vocab_size(&tokenizer));
        assert!(starts[3] && starts[4] && starts[7] && starts[expected[0] as usize]);
        assert!(starts.iter().any(|s| !s));
    }

    #[test]
    fn start_pieces() {
        for piece in ["▁", "▁the", "<sep>", "<", "!", "\"", "#", "-", ".", "@", "`", "~", "\\"] {
            assert!(is_start_piece(piece), "{piece}");
        }
        for piece in ["", "ing", "'", "=", ">", "...", "!!", "7", "\u{2013}", "é"] {
            assert!(!is_start_piece(piece), "{piece}");
        }
    }
}

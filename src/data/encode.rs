//! What the corpus builder needs from a tokenizer.

use crate::Result;

/// How lines are cleaned before they are tokenised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaning {
    /// Lower-case.
    pub uncased: bool,
    /// Skip the decomposition (NFKD) that strips accents, and harms Japanese and Korean.
    pub keep_accents: bool,
}

/// A vocabulary that turns lines into ids; the corpus builder calls it from many threads at once.
pub trait Encode: Sync {
    /// Cleans `line`, tokenises it and appends its ids to `ids`.
    ///
    /// `line` has no surrounding white space and is not empty.
    ///
    /// # Errors
    /// When the line cannot be encoded; the caller adds file and line number.
    fn encode_line(&self, line: &str, cleaning: Cleaning, ids: &mut Vec<i32>) -> Result<()>;

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

/// A vocabulary without pieces, for corpora that already are ids: every id counts as the start of a word.
#[derive(Clone, Copy, Debug)]
pub struct IdVocabulary {
    /// Number of ids; larger ones in a corpus are an error.
    pub vocab_size: usize,
}

impl Encode for IdVocabulary {
    fn encode_line(&self, _: &str, _: Cleaning, _: &mut Vec<i32>) -> Result<()> {
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
    use super::is_start_piece;

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

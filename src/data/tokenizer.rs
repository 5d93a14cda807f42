//! Text to SentencePiece ids and back.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sentencepiece::{PieceWithId, SentencePieceProcessor};
use sentencepiece_train::IdEncoder;
use sha2::{Digest, Sha256};

use super::piece_table::PieceTable;
use super::special;
use super::text::is_digit;
use crate::{Error, Result};

/// The mark that SentencePiece puts in the place of a space.
pub const SPACE_MARK: char = '▁';

/// Largest model file that is read, in bytes. Published models have less than one hundredth of it.
const MAX_FILE: u64 = 256 << 20;

/// A token with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The piece, with [`SPACE_MARK`] for spaces.
    pub piece: String,
    /// Its id, less than [`Tokenizer::vocab_size`].
    pub id: u32,
    /// The bytes of the encoded text that it stands for, on character boundaries; includes the space before a word.
    /// Normalisation may make several tokens of one character; the first of them has its bytes.
    pub span: Range<usize>,
}

/// A SentencePiece model with XLNet's treatment of numbers.
///
/// Shared freely between threads: encoding needs no lock.
///
/// ```no_run
/// # fn main() -> xlnet::Result<()> {
/// use xlnet::data::text::{TextOptions, preprocess_text};
/// use xlnet::data::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::open("spiece.model")?;
/// let ids = tokenizer.encode_ids(&preprocess_text("build xlnet", &TextOptions::default()))?;
/// assert_eq!(tokenizer.decode(&ids)?, "build xlnet");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    processor: SentencePieceProcessor,
    encoder: IdEncoder,
    table: PieceTable,
    /// Pieces that end in a digit and a comma, and the unknown one, whose text ids do not tell.
    again: Vec<bool>, // [vocab_size]
    path: PathBuf,
    hash: String,
    bytes: Vec<u8>,
}

impl Tokenizer {
    /// Opens a model file such as the released `spiece.model`.
    ///
    /// # Errors
    /// A file that cannot be read, or is not an intact unigram or BPE model of SentencePiece.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
        Self::from_bytes(bytes, path)
    }

    /// The model whose file has these `bytes`; `path` is for messages.
    ///
    /// # Errors
    /// When they are not an intact unigram or BPE model of SentencePiece.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        let refuse = |why: &str| {
            Error::data(path, format!("expected an intact SentencePiece model, but {why}; copy or train it again"))
        };
        if bytes.is_empty() {
            return Err(refuse("the file is empty"));
        }
        if bytes.len() as u64 > MAX_FILE {
            return Err(refuse("the file is larger than 256 MiB"));
        }
        let table = PieceTable::parse(&bytes).map_err(|why| refuse(&why))?;
        let processor = SentencePieceProcessor::from_serialized_proto(&bytes)
            .map_err(|error| refuse(&format!("the library refuses it ({error})")))?;
        if processor.len() != table.len() {
            return Err(refuse("the library reads another number of pieces from it"));
        }
        let encoder = IdEncoder::new(&bytes).ok_or_else(|| refuse("the library refuses it"))?;
        let again = |id| id == table.unknown() || table.piece(id).and_then(number_before_comma).is_some();
        let again = (0..table.len() as u32).map(again).collect();
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { processor, encoder, table, again, path: path.to_owned(), hash, bytes })
    }

    /// Splits text into pieces.
    ///
    /// A piece that ends in a digit and a comma is split again without the comma, so that `2000,` and `2000` begin
    /// with the same pieces. The text is not [preprocessed](super::text::preprocess_text).
    ///
    /// # Errors
    /// Text of 2 GiB or more.
    pub fn encode_pieces(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.encode_with_offsets(text)?.into_iter().map(|token| token.piece).collect())
    }

    /// The ids of [`encode_pieces`](Self::encode_pieces); pieces that are not in the vocabulary get `<unk>`.
    ///
    /// # Errors
    /// Text of 2 GiB or more.
    pub fn encode_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.check_length(text)?;
        if !self.encoder.encode(text, &mut ids) {
            return Err(Error::data(&self.path, format!("this model cannot encode {:?}", head(text))));
        }
        if ids.iter().any(|&id| self.again.get(id as usize).is_none_or(|again| *again)) {
            return Ok(self.encode_with_offsets(text)?.into_iter().map(|token| token.id).collect());
        }
        Ok(ids)
    }

    /// Pieces, ids and places in the text at once.
    ///
    /// # Errors
    /// Text of 2 GiB or more.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<Token>> {
        let pieces = split_digit_commas(self.segment(text)?, text, |number| self.segment(number))?;
        let unknown = self.table.unknown();
        let token = |Spanned { piece, span }| {
            let id = self.table.id(&piece).unwrap_or(unknown);
            Token { piece, id, span }
        };
        Ok(pieces.into_iter().map(token).collect())
    }

    /// SentencePiece's own segmentation.
    fn segment(&self, text: &str) -> Result<Vec<Spanned>> {
        let spanned =
            |piece: PieceWithId| Spanned { piece: piece.piece, span: piece.span.0 as usize..piece.span.1 as usize };
        Ok(self.library_pieces(text)?.into_iter().map(spanned).collect())
    }

    /// C++ counts in `int`.
    fn check_length(&self, text: &str) -> Result<()> {
        if text.len() > i32::MAX as usize {
            return Err(Error::config(format!(
                "encode: the text must be shorter than 2 GiB, but has {} bytes; encode it line by line",
                text.len()
            )));
        }
        Ok(())
    }

    fn library_pieces(&self, text: &str) -> Result<Vec<PieceWithId>> {
        // The library reports errors as empty output, which is also what empty text gives.
        if text.is_empty() {
            return Ok(Vec::new());
        }
        self.check_length(text)?;
        self.processor
            .encode(text)
            .map_err(|error| Error::data(&self.path, format!("this model cannot encode {:?}: {error}", head(text))))
    }

    /// Text of ids; control symbols vanish, unknown pieces become ` ⁇ `.
    ///
    /// # Errors
    /// An id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some((at, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= self.vocab_size()) {
            return Err(Error::config(format!(
                "decode: id {at} must be less than the vocabulary size {}, but is {id}; use the vocabulary that the \
                 ids were made with",
                self.vocab_size()
            )));
        }
        if ids.is_empty() {
            return Ok(String::new());
        }
        self.processor
            .decode_piece_ids(ids)
            .map_err(|error| Error::data(&self.path, format!("this model cannot decode {} ids: {error}", ids.len())))
    }

    /// Number of pieces.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }
    /// The piece with an id; `None` beyond the vocabulary.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.table.piece(id)
    }
    /// The id of a piece, control symbols included; `None` if it is not in the vocabulary.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.table.id(piece)
    }
    /// SHA-256 of the model file in hexadecimal, 64 characters. Equal hashes mean equal ids.
    pub fn vocabulary_hash(&self) -> &str {
        &self.hash
    }
    /// The bytes of the model's file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the symbols XLNet relies on have their ids, [`special::ALL`].
    ///
    /// # Errors
    /// The first symbol that is missing or elsewhere.
    pub fn check_special_symbols(&self) -> Result<()> {
        for (symbol, id) in special::ALL.map(|(symbol, id)| (symbol, id as u32)) {
            if self.piece(id) != Some(symbol) {
                let got = self.piece(id).map_or("nothing".into(), |piece| format!("{piece:?}"));
                return Err(Error::data(
                    &self.path,
                    format!(
                        "XLNet expects the symbol {symbol:?} at id {id}, but found {got}; use a released spiece.model \
                         or train a vocabulary with this program"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// A piece and the bytes it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spanned {
    piece: String,
    span: Range<usize>,
}

/// Splits the comma off every piece that ends in digit and comma, and segments the rest of it again.
///
/// `segment` is given the piece without comma and [`SPACE_MARK`]. It puts a mark of its own in front, which goes
/// unless the piece had one. `pieces` lie in `text`.
fn split_digit_commas(
    pieces: Vec<Spanned>,
    text: &str,
    mut segment: impl FnMut(&str) -> Result<Vec<Spanned>>,
) -> Result<Vec<Spanned>> {
    let mut result = Vec::with_capacity(pieces.len());
    for whole in pieces {
        let Some(stem) = number_before_comma(&whole.piece) else {
            result.push(whole);
            continue;
        };
        let number = stem.replace(SPACE_MARK, "");
        let mut parts = segment(&number)?;
        if !stem.starts_with(SPACE_MARK)
            && let Some(first) = parts.first_mut()
            && let Some(rest) = first.piece.strip_prefix(SPACE_MARK)
        {
            if rest.is_empty() {
                parts.remove(0);
            } else {
                first.piece = rest.to_owned();
            }
        }
        // The last character is the comma, or one that normalisation made a comma of.
        let slice = text.get(whole.span.clone()).unwrap_or_default();
        let comma = whole.span.end - slice.chars().next_back().map_or(0, char::len_utf8);
        // Spans of `parts` count from the start of the number, wherever that stands verbatim in the text.
        let verbatim = slice.strip_suffix(',').is_some_and(|stem| stem.ends_with(&number));
        let start = comma.saturating_sub(number.len());
        for (n, mut part) in parts.into_iter().enumerate() {
            part.span = match (verbatim, n) {
                (true, 0) => whole.span.start..start + part.span.end,
                (true, _) => start + part.span.start..start + part.span.end,
                (false, _) => whole.span.start..comma,
            };
            result.push(part);
        }
        result.push(Spanned { piece: ",".into(), span: comma..whole.span.end });
    }
    Ok(result)
}

/// What stands before the comma of a piece that ends in a digit and a comma.
fn number_before_comma(piece: &str) -> Option<&str> {
    piece.strip_suffix(',').filter(|stem| stem.ends_with(is_digit))
}

/// The beginning of a text, for messages.
fn head(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;

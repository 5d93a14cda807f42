//! Training of vocabularies: the published `spm_train` command as a function.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sentencepiece_train::quote_list;

use super::piece_table::PieceTable;
use super::text::{TextOptions, preprocess_text};
use crate::atomic::temporary_beside;
use crate::{Error, Result};

/// Symbols that text cannot contain, in the order of their ids 3 to 7.
pub const CONTROL_SYMBOLS: [&str; 5] = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"];

/// Symbols that are one piece wherever they stand in text, in the order of their ids 8 to 16.
pub const USER_DEFINED_SYMBOLS: [&str; 9] = ["<eop>", ".", "(", ")", "\"", "-", "–", "£", "€"];

/// What a vocabulary is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelType {
    /// Unigram language model; what XLNet uses.
    #[default]
    Unigram,
    /// Byte-pair encoding.
    Bpe,
}

/// How to train a vocabulary. The default is the published recipe, but for [`inputs`](Self::inputs).
#[derive(Debug, Clone, PartialEq)]
pub struct VocabOptions {
    /// Text files, one sentence a line; `<eop>` at the end of a line is no part of the statistics.
    pub inputs: Vec<PathBuf>,
    /// Number of pieces, the 17 fixed ones included.
    pub vocab_size: usize,
    /// Share of the characters of the text, counted with repetition, that must not become `<unk>`; 0.98 to 1.
    pub character_coverage: f64,
    /// What the vocabulary is made of.
    pub model_type: ModelType,
    /// Lines to train on at most; 0 means all.
    pub input_sentence_size: usize,
    /// Draw those lines at random rather than take the first ones.
    pub shuffle: bool,
    /// Seed of the drawing. `None` leaves it to SentencePiece, which always draws the same lines.
    pub seed: Option<u64>,
    /// Longer lines are left out; bytes.
    pub max_sentence_length: usize,
    /// Threads. Sums depend on their number in the last bits, so the default is the same on every machine.
    pub threads: usize,
    /// Fail rather than make a smaller vocabulary when the text does not yield [`vocab_size`](Self::vocab_size)
    /// pieces.
    pub hard_vocab_limit: bool,
    /// Clean each line as it will be cleaned before tokenisation. The published command did not.
    pub preprocess: Option<TextOptions>,
    /// Let SentencePiece write its progress to standard error.
    pub verbose: bool,
}

impl Default for VocabOptions {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            vocab_size: 32_000,
            character_coverage: 0.99995,
            model_type: ModelType::Unigram,
            input_sentence_size: 10_000_000,
            shuffle: true,
            seed: None,
            max_sentence_length: 4192,
            threads: 16,
            hard_vocab_limit: true,
            preprocess: None,
            verbose: false,
        }
    }
}

impl VocabOptions {
    /// Checks the ranges that need no look at the text.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn validate(&self) -> Result<()> {
        let fixed = 3 + CONTROL_SYMBOLS.len() + USER_DEFINED_SYMBOLS.len();
        let check = |good: bool, what: &str, expected: String, got: String| {
            if good {
                return Ok(());
            }
            Err(Error::config(format!("training a vocabulary: {what} must be {expected}, but is {got}")))
        };
        check(!self.inputs.is_empty(), "the list of input files", "given".into(), "empty".into())?;
        let sizes = fixed + 1..=i32::MAX as usize;
        check(
            sizes.contains(&self.vocab_size),
            "vocab_size",
            format!("more than {fixed}"),
            self.vocab_size.to_string(),
        )?;
        let coverage = self.character_coverage;
        check((0.98..=1.0).contains(&coverage), "character_coverage", "from 0.98 to 1".into(), coverage.to_string())?;
        let lines = self.input_sentence_size;
        check(lines == 0 || lines > 100, "input_sentence_size", "0 (all) or more than 100".into(), lines.to_string())?;
        let length = self.max_sentence_length;
        let lengths = 10..=1 << 30;
        check(lengths.contains(&length), "max_sentence_length", "from 10 to 2^30 bytes".into(), length.to_string())?;
        check((1..=1024).contains(&self.threads), "threads", "from 1 to 1024".into(), self.threads.to_string())
    }

    /// The flags of `spm_train`.
    fn flags(&self, bytes: u64, draws: bool) -> Vec<(&'static str, String)> {
        let model_type = match self.model_type {
            ModelType::Unigram => "UNIGRAM",
            ModelType::Bpe => "BPE",
        };
        // The suffix array counts characters and line ends in 31 bits, and the process ends where they do not
        // suffice. One byte makes 1.5 of them at most (a line of one letter: mark, letter, end).
        let lines = if self.input_sentence_size == 0 { u64::MAX } else { self.input_sentence_size as u64 };
        let large = bytes.min(lines.saturating_mul(self.max_sentence_length as u64)) > 1 << 30;
        vec![
            ("model_type", model_type.into()),
            ("vocab_size", self.vocab_size.to_string()),
            ("character_coverage", self.character_coverage.to_string()),
            ("input_sentence_size", if draws { 0 } else { self.input_sentence_size }.to_string()),
            ("shuffle_input_sentence", self.shuffle.to_string()),
            ("max_sentence_length", self.max_sentence_length.to_string()),
            ("num_threads", self.threads.to_string()),
            ("hard_vocab_limit", self.hard_vocab_limit.to_string()),
            ("train_extremely_large_corpus", large.to_string()),
            ("control_symbols", quote_list(CONTROL_SYMBOLS)),
            ("user_defined_symbols", quote_list(USER_DEFINED_SYMBOLS)),
            ("minloglevel", if self.verbose { 0 } else { 2 }.to_string()),
        ]
    }
}

/// What a training read and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VocabSummary {
    /// Pieces in the vocabulary.
    pub vocab_size: usize,
    /// Lines that could be trained on, before any drawing: those with a letter or digit.
    pub lines: u64,
    /// Lines left out because they were longer than [`VocabOptions::max_sentence_length`].
    pub too_long: u64,
    /// Lines that were not UTF-8; their bad bytes were replaced by U+FFFD.
    pub not_utf8: u64,
}

/// Trains a vocabulary and writes it to `out_path`, in one step when it is complete.
///
/// Ids: 0 `<unk>`, 1 `<s>`, 2 `</s>`, then [`CONTROL_SYMBOLS`], then [`USER_DEFINED_SYMBOLS`], then what was learnt,
/// the frequent first. The same text and options give the same bytes. Pieces and scores are those of `spm_train`, except
/// that lines without a letter or digit, which it counts for their punctuation, are left out.
///
/// # Errors
/// Options out of range; files that cannot be read or written; text that does not yield the vocabulary size asked
/// for (the message names the largest that it yields).
pub fn train_vocab(options: &VocabOptions, out_path: impl AsRef<Path>) -> Result<VocabSummary> {
    options.validate()?;
    let out_path = out_path.as_ref();
    // Training takes long: see first whether its result can be written.
    let mut out = temporary_beside(out_path)?;
    let mut bytes = 0;
    for path in &options.inputs {
        bytes += std::fs::metadata(path).map_err(|source| Error::io("read", path, source))?.len();
    }

    let mut lines =
        Lines { options, paths: options.inputs.iter(), open: None, raw: Vec::new(), summary: Default::default() };
    let draws = options.shuffle && options.input_sentence_size > 0 && options.seed.is_some();
    let drawn = match options.seed {
        Some(seed) if draws => Some(draw(&mut lines, options.input_sentence_size, seed)?),
        _ => None,
    };

    let mut failed = None;
    let mut drawn = drawn.map(Vec::into_iter);
    let result = sentencepiece_train::train(&options.flags(bytes, draws), &mut |line| {
        let next = match &mut drawn {
            Some(drawn) => drawn.next().map(Ok),
            None => lines.next(),
        };
        match next {
            Some(Ok(text)) => *line = text,
            Some(Err(error)) => return Err(failed.insert(error).to_string()),
            // Without one word SentencePiece would end the process.
            None if lines.summary.lines == 0 => return Err(failed.insert(no_text(options)).to_string()),
            None => return Ok(false),
        }
        Ok(true)
    });
    let mut summary = lines.summary;
    let model = match (result, failed) {
        (Ok(model), None) => model,
        (_, Some(error)) => return Err(error),
        (Err(error), None) => {
            return Err(Error::config(format!(
                "training a vocabulary of {} pieces on {} lines: {}",
                options.vocab_size,
                summary.lines,
                plain(&error.0)
            )));
        }
    };
    let table = PieceTable::parse(&model)
        .map_err(|why| Error::config(format!("training a vocabulary: the model is not usable, {why}")))?;
    summary.vocab_size = table.len();

    out.write_all(&model).map_err(|source| Error::io("write", out_path, source))?;
    out.persist(out_path).map_err(|error| Error::io("write", out_path, error.error))?;
    if summary.too_long + summary.not_utf8 > 0 {
        tracing::warn!(summary.too_long, summary.not_utf8, "some lines were left out or repaired");
    }
    Ok(summary)
}

/// The lines worth training on, over all files.
struct Lines<'a> {
    options: &'a VocabOptions,
    paths: std::slice::Iter<'a, PathBuf>,
    open: Option<(&'a Path, BufReader<File>)>,
    raw: Vec<u8>,
    summary: VocabSummary,
}

impl Iterator for Lines<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        loop {
            let (path, file) = match &mut self.open {
                Some(open) => open,
                None => {
                    let path = self.paths.next()?;
                    match File::open(path) {
                        Ok(file) => self.open.insert((path, BufReader::new(file))),
                        Err(source) => return Some(Err(Error::io("open", path, source))),
                    }
                }
            };
            self.raw.clear();
            match file.read_until(b'\n', &mut self.raw) {
                Ok(0) => self.open = None,
                Ok(_) => {
                    if let Some(line) = self.line() {
                        return Some(Ok(line));
                    }
                }
                Err(source) => return Some(Err(Error::io("read", *path, source))),
            }
        }
    }
}

impl Lines<'_> {
    /// The line in `raw`, if it can be trained on.
    fn line(&mut self) -> Option<String> {
        /// SentencePiece's stand-in for rare characters; it skips lines that contain it.
        const RESERVED: char = '\u{2585}';
        let text = match std::str::from_utf8(&self.raw) {
            Ok(text) => text.into(),
            Err(_) => {
                self.summary.not_utf8 += 1;
                String::from_utf8_lossy(&self.raw)
            }
        };
        let text = text.trim_end_matches(['\n', '\r']);
        let text = self.options.preprocess.as_ref().map_or_else(|| text.to_owned(), |how| preprocess_text(text, how));
        if text.len() > self.options.max_sentence_length {
            self.summary.too_long += 1;
            return None;
        }
        // Symbols are cut out of the text. Where nothing else is left there is nothing to learn, and nothing but
        // such lines would end the process.
        let all = || CONTROL_SYMBOLS.iter().chain(&["<unk>", "<s>", "</s>", "<eop>"]);
        let without_symbols = |text: &str| all().fold(text.to_owned(), |text, symbol| text.replace(symbol, ""));
        let has_word = |text: &str| text.contains(char::is_alphanumeric);
        let learnable = has_word(&text) && (!text.contains('<') || has_word(&without_symbols(&text)));
        if !learnable || text.contains(RESERVED) {
            return None;
        }
        self.summary.lines += 1;
        Some(text)
    }
}

/// `count` lines drawn uniformly, with the memory of those lines only (reservoir sampling).
fn draw(lines: &mut Lines, count: usize, seed: u64) -> Result<Vec<String>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = Vec::new();
    for (n, line) in lines.enumerate() {
        let line = line?;
        if n < count {
            drawn.push(line);
        } else if let Some(slot) = drawn.get_mut(rng.random_range(0..=n)) {
            *slot = line;
        }
    }
    Ok(drawn)
}

fn no_text(options: &VocabOptions) -> Error {
    let more = match options.inputs.len() {
        0 | 1 => String::new(),
        n => format!(" and the {} other inputs", n - 1),
    };
    Error::data(
        options.inputs.first().map_or(Path::new(""), PathBuf::as_path),
        format!(
            "this file{more} should hold text to train a vocabulary on, but no line of at most {} bytes with a letter \
             or digit was found; give plain text, one sentence a line",
            options.max_sentence_length
        ),
    )
}

/// SentencePiece's message without its source position and condition, `file.cc(12) [a == b] `.
fn plain(message: &str) -> &str {
    match message.split_once("] ") {
        Some((position, rest)) if position.contains(".cc(") && !rest.is_empty() => rest,
        _ => message,
    }
}

#[cfg(test)]
#[path = "vocab_tests.rs"]
pub(crate) mod tests;

//! Text files as streams of tokens with sentence boundaries.
//!
//! The original keeps one boolean per token, flipped from sentence to sentence. Only the places where it changes are
//! ever looked at, so they are what is kept here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::encode::Encode;
use super::special::EOD;
use super::text::{TextOptions, is_space};
use crate::{Error, Result};

const BLOCK: usize = 1 << 17; // bytes of text one thread encodes at a time
const GROUP: usize = 1 << 23; // bytes of text held at once
const BLANK: u32 = u32::MAX; // token count of a blank line

/// Tokens and the places where a sentence ends.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TokenStream {
    pub ids: Vec<i32>,
    /// Ascending positions `p > 0` whose token is of another sentence than token `p - 1`.
    pub boundaries: Vec<usize>,
}

impl TokenStream {
    /// Joins `parts` in the given order; a join always is a boundary.
    pub(crate) fn concatenate(parts: impl Iterator<Item = TokenStream>) -> Self {
        let mut whole = Self::default();
        for part in parts.filter(|p| !p.ids.is_empty()) {
            let offset = whole.ids.len();
            if offset > 0 {
                whole.boundaries.push(offset);
            }
            whole.boundaries.extend(part.boundaries.iter().map(|b| b + offset));
            whole.ids.extend_from_slice(&part.ids);
        }
        whole
    }
}

/// One file, encoded.
#[derive(Debug, Default)]
pub(crate) struct TextFile {
    pub stream: TokenStream,
    pub lines: u64,
    /// Parity of the next line's sentence, and of the last token.
    parity: bool,
    last_parity: Option<bool>,
}

impl TextFile {
    fn push_line(&mut self, ids: &[i32]) {
        if !ids.is_empty() {
            if self.last_parity.is_some_and(|last| last != self.parity) {
                self.stream.boundaries.push(self.stream.ids.len());
            }
            self.last_parity = Some(self.parity);
            self.stream.ids.extend_from_slice(ids);
        }
        // A line without tokens flips too, so its neighbours count as one sentence; the original does the same.
        self.parity = !self.parity;
    }

    fn push_block(&mut self, block: &Encoded, use_eod: bool) {
        let mut ids = &block.ids[..];
        for &count in &block.lines {
            if count != BLANK {
                let (line, rest) = ids.split_at(count as usize);
                self.push_line(line);
                ids = rest;
            } else if use_eod {
                self.parity = !self.parity; // the mark belongs to the sentence before it
                self.push_line(&[EOD]);
            }
        }
        self.lines += block.lines.len() as u64;
    }
}

/// How lines become ids.
pub(crate) struct Reading<'a> {
    pub encode: &'a dyn Encode,
    pub cleaning: TextOptions,
    pub from_raw_text: bool,
    pub use_eod: bool,
    pub lossy: bool,
}

struct Block {
    file: usize,
    text: Vec<u8>,
}

#[derive(Default)]
struct Encoded {
    ids: Vec<i32>,
    lines: Vec<u32>, // token count of each line, or BLANK
}

impl Reading<'_> {
    /// Encodes `files` in parallel; the result does not depend on the number of threads. `progress` hears the number
    /// of finished files and of tokens.
    pub(crate) fn read(&self, files: &[PathBuf], mut progress: impl FnMut(usize, u64)) -> Result<Vec<TextFile>> {
        let mut read: Vec<TextFile> = files.iter().map(|_| TextFile { parity: true, ..TextFile::default() }).collect();
        let (mut blocks, mut held, mut tokens) = (Vec::new(), 0, 0u64);
        for (file, path) in files.iter().enumerate() {
            let mut source = open(path)?;
            while let Some(text) = next_block(&mut source).map_err(|e| Error::io("read", path, e))? {
                held += text.len();
                blocks.push(Block { file, text });
                if held >= GROUP {
                    tokens += self.flush(&mut blocks, files, &mut read)?;
                    held = 0;
                    progress(file, tokens);
                }
            }
        }
        tokens += self.flush(&mut blocks, files, &mut read)?;
        progress(files.len(), tokens);
        Ok(read)
    }

    /// Encodes the collected blocks and appends them to their files in order.
    fn flush(&self, blocks: &mut Vec<Block>, files: &[PathBuf], read: &mut [TextFile]) -> Result<u64> {
        let encoded: Vec<_> = blocks.par_iter().map(|b| self.encode_block(&b.text)).collect();
        let mut tokens = 0;
        for (block, encoded) in blocks.drain(..).zip(encoded) {
            let file = &mut read[block.file];
            let encoded = encoded.map_err(|(line, what)| {
                Error::data(&files[block.file], format!("line {}: {what}", file.lines + line + 1))
            })?;
            tokens += encoded.ids.len() as u64;
            file.push_block(&encoded, self.use_eod);
        }
        Ok(tokens)
    }

    /// Ids of whole lines of text; an error carries the line within the block, counted from 0.
    fn encode_block(&self, text: &[u8]) -> Result<Encoded, (u64, String)> {
        let text = if self.lossy {
            String::from_utf8_lossy(text)
        } else {
            std::str::from_utf8(text).map(Into::into).map_err(|e| {
                let line = text[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
                (line as u64, "the text is not UTF-8; convert the file, or read it with lossy = true".to_string())
            })?
        };
        let mut encoded = Encoded::default();
        for (number, line) in text.strip_suffix('\n').unwrap_or(&text).split('\n').enumerate() {
            let line = line.trim_matches(is_space);
            if line.is_empty() {
                encoded.lines.push(BLANK);
                continue;
            }
            let before = encoded.ids.len();
            if self.from_raw_text {
                let result = self.encode.encode_line(line, &self.cleaning, &mut encoded.ids);
                result.map_err(|e| (number as u64, e.to_string()))?;
            } else {
                parse_ids(line, &mut encoded.ids).map_err(|e| (number as u64, e))?;
            }
            self.check(&encoded.ids[before..]).map_err(|e| (number as u64, e))?;
            encoded.lines.push((encoded.ids.len() - before) as u32);
        }
        Ok(encoded)
    }

    fn check(&self, ids: &[i32]) -> Result<(), String> {
        let size = self.encode.vocab_size();
        match ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= size)) {
            Some(id) => Err(format!("token id {id} is outside the vocabulary of {size} pieces")),
            None if ids.len() >= BLANK as usize => Err("the line is longer than 4 billion tokens; split it".into()),
            None => Ok(()),
        }
    }
}

fn parse_ids(line: &str, ids: &mut Vec<i32>) -> Result<(), String> {
    for word in line.split(is_space).filter(|w| !w.is_empty()) {
        let id = word.parse().map_err(|_| {
            let word: String = word.chars().take(40).collect();
            format!("expected token ids separated by spaces, got {word:?}; for text set from_raw_text = true")
        })?;
        ids.push(id);
    }
    Ok(())
}

struct Source {
    file: File,
    /// The beginning of a line whose end was not read yet.
    carry: Vec<u8>,
}

fn open(path: &Path) -> Result<Source> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if metadata.is_dir() {
        return Err(Error::data(path, "expected a text file, got a directory; name the files in it"));
    }
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    Ok(Source { file, carry: Vec::new() })
}

/// The next whole lines, about [`BLOCK`] bytes of them, or `None` at the end of the file.
fn next_block(source: &mut Source) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = std::mem::take(&mut source.carry);
    loop {
        let before = text.len();
        let read = source.file.by_ref().take(BLOCK as u64).read_to_end(&mut text)?;
        if read == 0 {
            return Ok(Some(text).filter(|t| !t.is_empty()));
        }
        if let Some(end) = text[before..].iter().rposition(|&b| b == b'\n') {
            source.carry = text.split_off(before + end + 1);
            return Ok(Some(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::IdVocabulary;
    use super::*;

    fn reading(encode: &dyn Encode) -> Reading<'_> {
        Reading { encode, cleaning: TextOptions::default(), from_raw_text: false, use_eod: true, lossy: false }
    }

    fn read_text(text: &[u8], change: impl Fn(&mut Reading)) -> Result<TextFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, text).unwrap();
        let vocabulary = IdVocabulary { vocab_size: 100 };
        let mut reading = reading(&vocabulary);
        change(&mut reading);
        Ok(reading.read(&[path], |_, _| ())?.remove(0))
    }

    /// Parity by hand: sentences 10 11 (T), 12 (F), then a blank line (EOD, F like 12), 13 (T), two blanks (T, T),
    /// 14 15 (F).
    #[test]
    fn end_of_document_joins_the_sentence_before() {
        let file = read_text(b"10 11\n12\n \t\n13\n\n\n14 15", |_| ()).unwrap();
        assert_eq!(file.stream.ids, [10, 11, 12, 7, 13, 7, 7, 14, 15]);
        //                           T   T   F   F  T   T  T  F   F
        assert_eq!(file.stream.boundaries, [2, 4, 7]);
        assert_eq!(file.lines, 7);
    }

    /// A leading blank line: parity T flips to F for the mark and back to T for the sentence.
    #[test]
    fn leading_blank_line() {
        let file = read_text(b"\n10\n11\n", |_| ()).unwrap();
        assert_eq!(file.stream.ids, [7, 10, 11]);
        assert_eq!(file.stream.boundaries, [1, 2]);
    }

    #[test]
    fn without_marks_blank_lines_leave_no_trace() {
        let file = read_text(b"10 11\n\n12\r\n\n\n13\n", |r| r.use_eod = false).unwrap();
        assert_eq!(file.stream.ids, [10, 11, 12, 13]);
        assert_eq!(file.stream.boundaries, [2, 3]);
        assert_eq!(file.lines, 6);
    }

    /// Encodes every line to its length, and lines of `~` to nothing.
    struct Lengths;
    impl Encode for Lengths {
        fn encode_line(&self, line: &str, _: &TextOptions, ids: &mut Vec<i32>) -> Result<()> {
            ids.extend((line != "~").then_some(line.len() as i32));
            Ok(())
        }
        fn vocab_size(&self) -> usize {
            100
        }
        fn start_pieces(&self) -> Vec<bool> {
            vec![true; 100]
        }
        fn vocabulary_hash(&self) -> Option<String> {
            None
        }
    }

    /// A line that encodes to nothing flips the parity: T, (F), T, F.
    #[test]
    fn lines_without_tokens_flip_the_parity() {
        let mut file = TextFile { parity: true, ..TextFile::default() };
        let raw = Reading { from_raw_text: true, ..reading(&Lengths) };
        file.push_block(&raw.encode_block(b"a\n~\nbb\nccc\n").unwrap(), true);
        assert_eq!(file.stream, TokenStream { ids: vec![1, 2, 3], boundaries: vec![2] });
    }

    #[test]
    fn files_join_at_a_boundary() {
        let part = |ids: &[i32], boundaries: &[usize]| TokenStream { ids: ids.into(), boundaries: boundaries.into() };
        let parts = [part(&[1, 2, 3], &[1]), part(&[], &[]), part(&[4, 5], &[]), part(&[6, 7], &[1])];
        assert_eq!(
            TokenStream::concatenate(parts.into_iter()),
            part(&[1, 2, 3, 4, 5, 6, 7], &[1, 3, 5, 6]) // 1, joins at 3 and 5, 5 + 1
        );
    }

    #[test]
    fn bad_lines_are_named() {
        let says = |text: &[u8], change: fn(&mut Reading)| read_text(text, change).unwrap_err().to_string();
        assert!(says(b"1\n2\nx y\n", |_| ()).contains("a.txt: line 3: expected token ids"));
        assert!(says(b"1\n\n100\n", |_| ()).contains("line 3: token id 100 is outside the vocabulary of 100 pieces"));
        assert!(says(b"-1", |_| ()).contains("line 1: token id -1"));
        assert!(says(b"1\n2\n\xff\n", |_| ()).contains("line 3: the text is not UTF-8"));
        assert!(says(b"1\n\xff\n", |r| r.lossy = true).contains("line 2: expected token ids"));
        assert!(reading(&Lengths).read(&["absent".into()], |_, _| ()).is_err());
    }

    /// Blocks are cut at line ends only, so a file of many blocks equals the same lines read one by one.
    #[test]
    fn blocks_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.txt");
        let lines: Vec<String> = (0..60_000).map(|i| "abcdefghijklmnopqrstuvwxyz"[..i * 7 % 26].into()).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let raw = Reading { from_raw_text: true, ..reading(&Lengths) };
        let read = raw.read(std::slice::from_ref(&path), |_, _| ()).unwrap().remove(0);
        assert!(std::fs::metadata(&path).unwrap().len() > 2 * BLOCK as u64);
        let expected: Vec<i32> = lines.iter().map(|l| if l.is_empty() { EOD } else { l.len() as i32 }).collect();
        assert_eq!(read.stream.ids, expected);
        assert_eq!(read.lines, 60_000);
    }
}

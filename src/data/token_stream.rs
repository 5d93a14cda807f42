//! Text files as one stream of tokens with sentence boundaries.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::encode::Encode;
use super::special::{EOD, UNK};
use super::stamp::{Stamp, stamp_of};
use super::text::{TextOptions, is_space};
use super::token_file::{Extent, TokenWriter};
use crate::{Error, Result};

const BLOCK: usize = 1 << 17; // bytes of text one thread encodes at a time
const BLANK: u32 = u32::MAX; // token count of a blank line

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileSummary {
    pub stamp: Stamp,
    pub lines: u64,
    pub tokens: u64,
    pub unknown: u64,
    /// Where in the stream the last sentence begins, once the file is in it.
    sentence: u64,
}

/// A place in a file, always at the end of a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    offset: u64, // bytes
    lines: u64,
    tokens: u64,
    unknown: u64,
    /// Parity of the next line's sentence, and of the last token.
    parity: bool,
    last_parity: Option<bool>,
}

impl Default for Place {
    fn default() -> Self {
        Self { offset: 0, lines: 0, tokens: 0, unknown: 0, parity: true, last_parity: None }
    }
}

/// How far reading came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReadState {
    /// Files read to their ends, in order.
    pub finished: Vec<FileSummary>,
    /// Place in the file after them, and its stamp.
    place: Place,
    stamp: Stamp,
    /// The stream so far.
    pub extent: Extent,
}

impl ReadState {
    /// Bytes of text that were read.
    pub(crate) fn bytes(&self) -> u64 {
        let finished = self.finished.iter().filter_map(|f| f.stamp).map(|(bytes, ..)| bytes);
        finished.fold(self.place.offset, u64::saturating_add)
    }

    /// What happened since the state was `before`: only the part of the lists that is new.
    pub(crate) fn since(&self, before: &ReadState) -> ReadState {
        let Self { finished, place, stamp, extent } = self;
        ReadState {
            finished: finished[before.finished.len()..].to_vec(),
            place: place.clone(),
            stamp: *stamp,
            extent: Extent { long: extent.long[before.extent.long.len()..].to_vec(), ..*extent },
        }
    }

    /// The opposite of [`ReadState::since`].
    pub(crate) fn advance(&mut self, news: ReadState) {
        self.finished.extend(news.finished);
        let mut long = std::mem::take(&mut self.extent.long);
        long.extend(news.extent.long);
        (self.place, self.stamp) = (news.place, news.stamp);
        self.extent = Extent { long, ..news.extent };
    }

    /// Goes back to the end of the last file before those that changed since they were read.
    pub(crate) fn forget_changed(&mut self, files: &[PathBuf]) {
        let same = |file: usize, stamp: Stamp| {
            let now = files.get(file).and_then(|path| std::fs::metadata(path).ok()).map(|m| stamp_of(&m));
            stamp.is_some() && now == Some(stamp)
        };
        let read = self.finished.len();
        let kept = (0..read).take_while(|&i| same(i, self.finished[i].stamp)).count();
        if kept == read && (self.place == Place::default() || same(read, self.stamp)) {
            return;
        }
        self.finished.truncate(kept);
        (self.place, self.stamp) = (Place::default(), None);
        let tokens = self.finished.iter().map(|f| f.tokens).sum();
        self.extent.cut(tokens, self.finished.last().map_or(0, |f| f.sentence));
    }

    fn push_line(&mut self, ids: &[i32], writer: &mut TokenWriter) -> Result<()> {
        let place = &mut self.place;
        if !ids.is_empty() {
            // A file's first token always begins a sentence.
            writer.push(ids, place.last_parity != Some(place.parity))?;
            place.last_parity = Some(place.parity);
        }
        // A line without tokens flips too, so its neighbours count as one sentence; the original does the same.
        place.parity = !place.parity;
        Ok(())
    }

    fn push_block(&mut self, block: &Encoded, use_eod: bool, writer: &mut TokenWriter) -> Result<()> {
        let mut ids = &block.ids[..];
        let before = writer.extent.tokens;
        for &count in &block.lines {
            if count != BLANK {
                let (line, rest) = ids.split_at(count as usize);
                self.push_line(line, writer)?;
                ids = rest;
            } else if use_eod {
                self.place.parity = !self.place.parity; // the mark belongs to the sentence before it
                self.push_line(&[EOD], writer)?;
            }
        }
        self.place.lines += block.lines.len() as u64;
        self.place.tokens += writer.extent.tokens - before;
        self.place.unknown += block.ids.iter().filter(|&&id| id == UNK).count() as u64;
        Ok(())
    }

    fn finish_file(&mut self, writer: &TokenWriter) {
        let Place { lines, tokens, unknown, .. } = std::mem::take(&mut self.place);
        let sentence = writer.extent.sentence;
        self.finished.push(FileSummary { stamp: self.stamp.take(), lines, tokens, unknown, sentence });
    }
}

/// How lines become ids.
pub(crate) struct Reading<'a> {
    pub encode: &'a dyn Encode,
    pub cleaning: TextOptions,
    pub from_raw_text: bool,
    pub use_eod: bool,
    pub lossy: bool,
    /// Bytes of text held at once.
    pub group: usize,
}

/// What the system tells of a text file, before it is read.
pub(crate) fn check_text_file(path: &Path) -> Result<Metadata> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if metadata.is_dir() {
        return Err(Error::data(path, "expected a text file, got a directory; name the files in it"));
    }
    Ok(metadata)
}

struct Block {
    file: usize,
    stamp: Stamp,
    text: Vec<u8>,
    /// Bytes of the file up to the end of this block.
    end: u64,
    /// Whether the file ends here; such blocks hold no text.
    last: bool,
}

#[derive(Default)]
struct Encoded {
    ids: Vec<i32>,
    lines: Vec<u32>, // token count of each line, or BLANK
}

impl Reading<'_> {
    /// Appends the tokens of `files` to `writer`, from `state` on; the result does not depend on the number of threads.
    ///
    /// Files are read and encoded in groups of blocks; `after` hears of the state after each group.
    pub(crate) fn read(
        &self,
        files: &[PathBuf],
        state: &mut ReadState,
        writer: &mut TokenWriter,
        mut after: impl FnMut(&ReadState, &mut TokenWriter) -> Result<()>,
    ) -> Result<()> {
        let mut source = Source { files, file: state.finished.len(), start: state.place.offset, open: None };
        let mut group = source.group(self.group)?;
        while !group.is_empty() {
            let encode = || group.par_iter().map(|block| self.encode_block(&block.text)).collect::<Vec<_>>();
            let (encoded, next) = rayon::join(encode, || source.group(self.group));
            for (block, encoded) in group.iter().zip(encoded) {
                let encoded = encoded.map_err(|(line, what)| {
                    Error::data(&files[block.file], format!("line {}: {what}", state.place.lines + line + 1))
                })?;
                state.push_block(&encoded, self.use_eod, writer)?;
                (state.place.offset, state.stamp) = (block.end, block.stamp);
                if block.last {
                    state.finish_file(writer);
                }
            }
            state.extent = writer.extent.clone();
            after(state, writer)?;
            group = next?;
        }
        Ok(())
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
        if text.is_empty() {
            return Ok(encoded);
        }
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

/// Blocks of text of all files, one after the other.
struct Source<'a> {
    files: &'a [PathBuf],
    file: usize,
    /// Bytes of the next file to open that were read before.
    start: u64,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    stamp: Stamp,
    /// Bytes read and given out.
    end: u64,
    /// The beginning of a line whose end was not read yet.
    carry: Vec<u8>,
}

impl Source<'_> {
    /// Blocks of about `bytes` together; none at the end of the last file.
    fn group(&mut self, bytes: usize) -> Result<Vec<Block>> {
        let (mut blocks, mut held) = (Vec::new(), 0);
        while held < bytes {
            let Some(path) = self.files.get(self.file) else { break };
            let fail = |e| Error::io("read", path, e);
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(OpenFile::new(path, std::mem::take(&mut self.start))?),
            };
            let text = open.next_block().map_err(fail)?;
            held += text.len().max(BLOCK / 64); // many empty files are work, too
            let last = text.is_empty();
            blocks.push(Block { file: self.file, stamp: open.stamp, text, end: open.end, last });
            if last {
                self.open = None;
                self.file += 1;
            }
        }
        Ok(blocks)
    }
}

impl OpenFile {
    fn new(path: &Path, start: u64) -> Result<Self> {
        let fail = |e| Error::io("read", path, e);
        let metadata = check_text_file(path)?;
        let mut file = File::open(path).map_err(fail)?;
        if start > 0 {
            file.seek(SeekFrom::Start(start)).map_err(fail)?;
        }
        Ok(Self { file, stamp: stamp_of(&metadata), end: start, carry: Vec::new() })
    }

    /// The next whole lines, about [`BLOCK`] bytes of them; nothing at the end of the file.
    fn next_block(&mut self) -> std::io::Result<Vec<u8>> {
        let mut text = std::mem::take(&mut self.carry);
        loop {
            let before = text.len();
            let read = self.file.by_ref().take(BLOCK as u64).read_to_end(&mut text)?;
            let newline = text[before..].iter().rposition(|&b| b == b'\n');
            if let Some(end) = newline {
                self.carry = text.split_off(before + end + 1);
            }
            if newline.is_some() || read == 0 {
                self.end += text.len() as u64;
                return Ok(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::IdVocabulary;
    use super::*;

    fn reading(encode: &dyn Encode) -> Reading<'_> {
        let cleaning = TextOptions::default();
        Reading { encode, cleaning, from_raw_text: false, use_eod: true, lossy: false, group: 1 << 23 }
    }

    /// Ids, boundaries and summaries of `texts` as files.
    #[derive(Debug)]
    struct Stream {
        ids: Vec<i32>,
        boundaries: Vec<u64>,
        files: Vec<FileSummary>,
    }

    fn read_texts(reading: &Reading, texts: &[&[u8]]) -> Result<Stream> {
        let dir = tempfile::tempdir().unwrap();
        let write = |(i, text): (usize, &&[u8])| {
            let path = dir.path().join(format!("{}.txt", b"abcdef"[i] as char));
            std::fs::write(&path, text).unwrap();
            path
        };
        let files: Vec<PathBuf> = texts.iter().enumerate().map(write).collect();
        read_files(reading, &files, dir.path())
    }

    fn read_files(reading: &Reading, files: &[PathBuf], dir: &Path) -> Result<Stream> {
        let mut writer = TokenWriter::open(&dir.join("tokens"), Extent::default())?;
        let mut state = ReadState::default();
        reading.read(files, &mut state, &mut writer, |_, _| Ok(()))?;
        let (ids, boundaries) = writer.finish()?.whole();
        Ok(Stream { ids, boundaries, files: state.finished })
    }

    fn read_text(text: &[u8], change: impl Fn(&mut Reading)) -> Result<Stream> {
        let vocabulary = IdVocabulary { vocab_size: 100 };
        let mut reading = reading(&vocabulary);
        change(&mut reading);
        read_texts(&reading, &[text])
    }

    /// Parity by hand: sentences 10 11 (T), 12 (F), then a blank line (EOD, F like 12), 13 (T), two blanks (T, T),
    /// 14 15 (F).
    #[test]
    fn end_of_document_joins_the_sentence_before() {
        let file = read_text(b"10 11\n12\n \t\n13\n\n\n14 15", |_| ()).unwrap();
        assert_eq!(file.ids, [10, 11, 12, 7, 13, 7, 7, 14, 15]);
        //                           T   T   F   F  T   T  T  F   F
        assert_eq!(file.boundaries, [2, 4, 7]);
        assert_eq!(file.files[0].lines, 7);
    }

    /// A leading blank line: parity T flips to F for the mark and back to T for the sentence.
    #[test]
    fn leading_blank_line() {
        let file = read_text(b"\n10\n11\n", |_| ()).unwrap();
        assert_eq!(file.ids, [7, 10, 11]);
        assert_eq!(file.boundaries, [1, 2]);
    }

    #[test]
    fn without_marks_blank_lines_leave_no_trace() {
        let file = read_text(b"10 11\n\n12\r\n\n\n13\n", |r| r.use_eod = false).unwrap();
        assert_eq!(file.ids, [10, 11, 12, 13]);
        assert_eq!(file.boundaries, [2, 3]);
        assert_eq!(file.files[0].lines, 6);
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
        let raw = Reading { from_raw_text: true, ..reading(&Lengths) };
        let stream = read_texts(&raw, &[b"a\n~\nbb\nccc\n"]).unwrap();
        assert_eq!((stream.ids, stream.boundaries), (vec![1, 2, 3], vec![2]));
    }

    #[test]
    fn files_join_at_a_boundary() {
        let vocabulary = IdVocabulary { vocab_size: 100 };
        let stream = read_texts(&reading(&vocabulary), &[b"1\n2 3", b"", b"0 5", b"6\n7\n"]).unwrap();
        assert_eq!(stream.ids, [1, 2, 3, 0, 5, 6, 7]);
        assert_eq!(stream.boundaries, [1, 3, 5, 6]); // 1, joins at 3 and 5, 5 + 1
        let told = |f: &FileSummary| (f.lines, f.tokens, f.unknown, f.sentence);
        let told: Vec<_> = stream.files.iter().map(told).collect();
        assert_eq!(told, [(2, 3, 0, 1), (0, 0, 0, 1), (1, 2, 1, 3), (2, 2, 0, 6)]);
    }

    /// Reading that stops after any group and goes on from the news of each group ends in the same stream; so does
    /// reading on after a later file was changed, which was in the stream already.
    #[test]
    fn reading_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..4).map(|i| dir.path().join(i.to_string())).collect();
        let line = |i: usize| ["1 2 3\n", "\n", "4\n", "5 6 7 8 9 0\n"][i % 4];
        for (file, path) in files.iter().enumerate() {
            std::fs::write(path, (0..[60_000, 0, 3, 50_000][file]).map(line).collect::<String>()).unwrap();
        }
        let vocabulary = IdVocabulary { vocab_size: 100 };
        let reading = Reading { group: 1, ..reading(&vocabulary) };
        let expected = read_files(&reading, &files, dir.path()).unwrap();
        let path = dir.path().join("spill");
        let stop = || Error::config("stop");
        let mut groups = 0;
        for stop_after in 1..100 {
            let (mut saved, mut left) = (ReadState::default(), stop_after);
            let mut state = ReadState::default();
            let mut writer = TokenWriter::open(&path, Extent::default()).unwrap();
            let stopped = reading.read(&files, &mut state, &mut writer, |state, writer| {
                writer.sync()?;
                saved.advance(state.since(&saved));
                assert_eq!(&saved, state);
                left -= 1;
                if left == 0 { Err(stop()) } else { Ok(()) }
            });
            if stopped.is_ok() {
                break;
            }
            groups += 1;
            drop(writer);
            saved.forget_changed(&files);
            if stop_after % 3 == 0 {
                // The second file was read before, or was not reached yet.
                std::fs::write(&files[1], "").unwrap();
                let time = std::time::SystemTime::now() + std::time::Duration::from_secs(stop_after);
                File::options().write(true).open(&files[1]).unwrap().set_modified(time).unwrap();
                saved.forget_changed(&files);
                assert!(saved.finished.len() < 2, "{:?}", saved.finished);
            }
            let mut writer = TokenWriter::open(&path, saved.extent.clone()).unwrap();
            reading.read(&files, &mut saved, &mut writer, |_, _| Ok(())).unwrap();
            let (ids, boundaries) = writer.finish().unwrap().whole();
            assert!(ids == expected.ids && boundaries == expected.boundaries, "stopped after {stop_after}");
            let tokens =
                |files: &[FileSummary]| files.iter().map(|f| (f.lines, f.tokens, f.sentence)).collect::<Vec<_>>();
            assert_eq!(tokens(&saved.finished), tokens(&expected.files));
        }
        assert!(groups > 4, "{groups}");
    }

    #[test]
    fn bad_lines_are_named() {
        let says = |text: &[u8], change: fn(&mut Reading)| read_text(text, change).unwrap_err().to_string();
        assert!(says(b"1\n2\nx y\n", |_| ()).contains("a.txt: line 3: expected token ids"));
        assert!(says(b"1\n\n100\n", |_| ()).contains("line 3: token id 100 is outside the vocabulary of 100 pieces"));
        assert!(says(b"-1", |_| ()).contains("line 1: token id -1"));
        assert!(says(b"1\n2\n\xff\n", |_| ()).contains("line 3: the text is not UTF-8"));
        assert!(says(b"1\n\xff\n", |r| r.lossy = true).contains("line 2: expected token ids"));
        assert!(read_files(&reading(&Lengths), &["absent".into()], &std::env::temp_dir()).is_err());
    }

    /// Blocks are cut at line ends only, so a file of many blocks equals the same lines read one by one.
    #[test]
    fn blocks_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.txt");
        let lines: Vec<String> = (0..60_000).map(|i| "abcdefghijklmnopqrstuvwxyz"[..i * 7 % 26].into()).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let raw = Reading { from_raw_text: true, ..reading(&Lengths) };
        let read = read_files(&raw, std::slice::from_ref(&path), dir.path()).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 2 * BLOCK as u64);
        let expected: Vec<i32> = lines.iter().map(|l| if l.is_empty() { EOD } else { l.len() as i32 }).collect();
        assert_eq!(read.ids, expected);
        assert_eq!(read.files[0].lines, 60_000);
    }
}

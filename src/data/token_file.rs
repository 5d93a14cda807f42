//! The tokens of a corpus as a file, so that memory does not grow with it.
//!
//! Four bytes a token, in the byte order of this machine: the id, and in its highest bit whether a sentence begins
//! there. The original keeps one boolean per token, flipped from sentence to sentence; only the places where it changes
//! are ever looked at.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Set in a token that is of another sentence than the token before it.
const BOUNDARY: u32 = 1 << 31;
const TOKEN: u64 = 4; // bytes
const LONG: u64 = 1 << 14; // tokens; longer sentences are remembered, so that no search reads more than that
const AROUND: u64 = 64; // tokens read on either side of what is asked for

/// What is known of a stream of tokens besides the tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Extent {
    /// Tokens in all.
    pub tokens: u64,
    /// Where the last sentence begins.
    pub sentence: u64,
    /// Begin and end of finished sentences longer than [`LONG`], ascending.
    pub long: Vec<[u64; 2]>,
}

impl Extent {
    /// Length of its file.
    pub(crate) fn bytes(&self) -> u64 {
        self.tokens.saturating_mul(TOKEN)
    }

    /// What it was when the stream had `tokens` tokens and its last sentence began at `sentence`.
    pub(crate) fn cut(&mut self, tokens: u64, sentence: u64) {
        (self.tokens, self.sentence) = (tokens, sentence);
        self.long.retain(|&[_, end]| end < tokens);
    }
}

/// Appends tokens to a file.
pub(crate) struct TokenWriter {
    out: BufWriter<File>,
    path: PathBuf,
    pub extent: Extent,
}

impl TokenWriter {
    /// Opens or creates `path` and cuts it to what `extent` tells of.
    pub(crate) fn open(path: &Path, extent: Extent) -> Result<Self> {
        let fail = |e| Error::io("write", path, e);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        let length = extent.bytes();
        if file.metadata().map_err(fail)?.len() < length {
            return Err(Error::data(path, format!("expected {} tokens; the file is shorter", extent.tokens)));
        }
        file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length))).map_err(fail)?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), extent })
    }

    /// Appends `ids`, none of which is negative; `boundary` when another sentence begins with them.
    pub(crate) fn push(&mut self, ids: &[i32], boundary: bool) -> Result<()> {
        let Some((&first, rest)) = ids.split_first() else { return Ok(()) };
        let Extent { tokens, sentence, long } = &mut self.extent;
        let boundary = boundary && *tokens > 0;
        if boundary {
            if *tokens - *sentence > LONG {
                long.push([*sentence, *tokens]);
            }
            *sentence = *tokens;
        }
        *tokens += ids.len() as u64;
        let first = first as u32 | if boundary { BOUNDARY } else { 0 };
        let written = self.out.write_all(&first.to_ne_bytes());
        written.and_then(|()| self.out.write_all(bytemuck::cast_slice(rest))).map_err(|e| self.fail(e))
    }

    /// Brings what was appended to the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        synced.map_err(|e| self.fail(e))
    }

    /// The file for reading, complete.
    pub(crate) fn finish(mut self) -> Result<TokenFile> {
        self.out.flush().map_err(|e| self.fail(e))?;
        let Extent { tokens, sentence, mut long } = self.extent.clone();
        if tokens - sentence > LONG {
            long.push([sentence, tokens]);
        }
        let file = self.out.get_ref().try_clone().map_err(|e| self.fail(e))?;
        Ok(TokenFile { file, path: self.path, tokens, long })
    }

    fn fail(&self, error: io::Error) -> Error {
        Error::io("write", &self.path, error)
    }
}

/// A finished stream of tokens, read from many threads at once.
#[derive(Debug)]
pub(crate) struct TokenFile {
    file: File,
    path: PathBuf,
    /// Tokens in all.
    pub tokens: u64,
    long: Vec<[u64; 2]>,
}

impl TokenFile {
    /// Tokens `range`, which lies within the stream.
    fn read(&self, range: Range<u64>, into: &mut Vec<u32>) -> Result<()> {
        into.resize((range.end - range.start) as usize, 0);
        read_exact_at(&self.file, bytemuck::cast_slice_mut(into), range.start * TOKEN)
            .map_err(|e| Error::io("read", &self.path, e))
    }

    /// The long sentence that position `at` lies in, its begin excluded.
    fn long_sentence(&self, at: u64) -> Option<[u64; 2]> {
        let next = self.long.partition_point(|&[_, end]| end <= at);
        self.long.get(next).copied().filter(|&[begin, _]| begin < at)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (into, offset) = (&mut into[read..], offset + read as u64),
        }
    }
    Ok(())
}

/// Tokens around one place, read at once.
pub(crate) struct Window<'a> {
    file: &'a TokenFile,
    first: u64,
    tokens: Vec<u32>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a TokenFile) -> Self {
        Self { file, first: 0, tokens: Vec::new() }
    }

    /// Tokens `range` of the stream with their marks.
    fn get(&mut self, range: Range<u64>) -> Result<&[u32]> {
        if range.start < self.first || range.end > self.first + self.tokens.len() as u64 {
            let wider = range.start.saturating_sub(AROUND)..(range.end + AROUND).min(self.file.tokens);
            self.first = wider.start;
            self.file.read(wider, &mut self.tokens)?;
        }
        Ok(&self.tokens[(range.start - self.first) as usize..(range.end - self.first) as usize])
    }

    /// Ids `range` of the stream.
    pub(crate) fn ids(&mut self, range: Range<u64>) -> Result<impl DoubleEndedIterator<Item = i32> + use<'_>> {
        Ok(self.get(range)?.iter().map(|token| (token & !BOUNDARY) as i32))
    }

    /// Positions in `range` where a sentence begins.
    pub(crate) fn boundaries(&mut self, range: Range<u64>) -> Result<impl DoubleEndedIterator<Item = u64> + use<'_>> {
        let begin = range.start;
        let marked = move |(i, token): (usize, &u32)| (token & BOUNDARY != 0).then_some(begin + i as u64);
        Ok(self.get(range)?.iter().enumerate().filter_map(marked))
    }

    /// The first boundary of `range`.
    pub(crate) fn first_boundary(&mut self, range: Range<u64>) -> Result<Option<u64>> {
        if let Some([_, end]) = self.file.long_sentence(range.start) {
            return Ok(Some(end).filter(|end| range.contains(end)));
        }
        let (mut at, mut step) = (range.start, AROUND);
        while at < range.end {
            let stop = range.end.min(at + step);
            if let Some(found) = self.boundaries(at..stop)?.next() {
                return Ok(Some(found));
            }
            (at, step) = (stop, 4 * step);
        }
        Ok(None)
    }

    /// The last boundary of `range`.
    pub(crate) fn last_boundary(&mut self, range: Range<u64>) -> Result<Option<u64>> {
        if let Some([begin, _]) = range.end.checked_sub(1).and_then(|last| self.file.long_sentence(last)) {
            return Ok(Some(begin).filter(|begin| range.contains(begin)));
        }
        let (mut at, mut step) = (range.end, AROUND);
        while at > range.start {
            let start = range.start.max(at.saturating_sub(step));
            if let Some(found) = self.boundaries(start..at)?.next_back() {
                return Ok(Some(found));
            }
            (at, step) = (start, 4 * step);
        }
        Ok(None)
    }
}

#[cfg(test)]
impl TokenFile {
    /// A stream in a temporary file.
    pub(crate) fn of(ids: &[i32], boundaries: &[usize]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = TokenWriter::open(file.path(), Extent::default()).unwrap();
        let ends = boundaries.iter().copied().chain([ids.len()]);
        ends.fold(0, |start, end| {
            writer.push(&ids[start..end], true).unwrap();
            end
        });
        writer.finish().unwrap()
    }

    /// All ids, and the positions of all boundaries.
    pub(crate) fn whole(&self) -> (Vec<i32>, Vec<u64>) {
        let mut window = Window::new(self);
        let ids = window.ids(0..self.tokens).unwrap().collect();
        (ids, window.boundaries(0..self.tokens).unwrap().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Against plain searches in a list, with sentences of 1 to 60 000 tokens.
    #[test]
    fn boundaries_are_found_near_and_far() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut boundaries = vec![];
        let mut at = 0;
        while at < 300_000 {
            at += [1, 7, 40, 300, 17_000, 60_000][rng.random_range(0..6)];
            boundaries.push(at);
        }
        let len = at + 20_000;
        let ids: Vec<i32> = (0..len as i32).collect();
        let file = TokenFile::of(&ids, &boundaries);
        assert_eq!(file.whole(), (ids, boundaries.iter().map(|&b| b as u64).collect()));
        assert!(file.long.len() > 2, "{:?}", file.long);
        assert_eq!(file.long.last(), Some(&[at as u64, len as u64]));
        let mut window = Window::new(&file);
        for case in 0..2000 {
            let mut ends = [rng.random_range(0..=len), rng.random_range(0..=len)];
            if case % 2 == 0 {
                // Close to a boundary, from both sides.
                let near = boundaries[rng.random_range(0..boundaries.len())] + 2;
                ends[case / 2 % 2] = near.saturating_sub(rng.random_range(0..4));
            }
            let (start, end) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            let inside: Vec<u64> = boundaries.iter().filter(|b| (start..end).contains(b)).map(|&b| b as u64).collect();
            let range = start as u64..end as u64;
            assert_eq!(window.first_boundary(range.clone()).unwrap(), inside.first().copied(), "{range:?}");
            assert_eq!(window.last_boundary(range.clone()).unwrap(), inside.last().copied(), "{range:?}");
        }
    }

    #[test]
    fn a_cut_stream_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let long = vec![5; LONG as usize + 1];
        let mut writer = TokenWriter::open(&path, Extent::default()).unwrap();
        writer.push(&[1, 2], true).unwrap();
        writer.push(&long, true).unwrap();
        writer.sync().unwrap();
        let kept = writer.extent.clone();
        writer.push(&[7], true).unwrap();
        assert_eq!(writer.extent.long, [[2, 2 + long.len() as u64]]);
        drop(writer);
        let mut writer = TokenWriter::open(&path, kept).unwrap();
        writer.push(&[8], true).unwrap();
        assert_eq!(writer.extent.long, [[2, 2 + long.len() as u64]]);
        writer.extent.cut(2, 0);
        let cut = writer.extent.clone();
        assert_eq!(cut.long, [[0u64; 2]; 0]);
        drop(writer);
        let mut writer = TokenWriter::open(&path, cut).unwrap();
        writer.push(&[9], false).unwrap();
        assert_eq!(writer.finish().unwrap().whole(), (vec![1, 2, 9], vec![]));
        let more = Extent { tokens: 4, ..Extent::default() };
        assert!(TokenWriter::open(&path, more).err().unwrap().to_string().contains("expected 4 tokens"));
    }
}

//! The work directory of a build: what was done so far, so that the same command goes on after a kill.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::token_stream::ReadState;
use crate::atomic::directory_of;
use crate::{Error, Result};

/// One line of the journal. What it tells of is on the disk before it is written.
#[derive(Serialize, Deserialize)]
enum Entry {
    /// First line: what is built.
    Build(String),
    /// More text was read.
    Read(ReadState),
    /// More records were written.
    Written(Written),
}

/// Reads a line, check sum and JSON; `None` when it was cut off or damaged.
fn entry(line: &[u8]) -> Option<Entry> {
    let (sum, text) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32c::crc32c(text.as_bytes())).then(|| serde_json::from_str(text).ok()).flatten()
}

/// Records on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Written {
    /// Steps, whole ones.
    pub steps: u64,
    /// Length of their file.
    pub bytes: u64,
}

/// A directory beside the records to be, with a journal, the corpus as tokens, and the records so far.
///
/// The journal is locked while a build runs, so that two of them do not write the same files; the system unlocks it when
/// a process ends in whatever way.
pub(super) struct Work {
    directory: PathBuf,
    journal: File,
    /// What the journal tells was read.
    pub read: ReadState,
    /// What it tells was written.
    pub written: Written,
}

impl Work {
    /// Opens the work directory of the record file `records`, or makes one; what lies in it counts if it was for
    /// `build`, which describes everything that the records depend on but the content of text files.
    pub(super) fn open(records: &Path, build: &str) -> Result<Self> {
        let name = records.file_stem().unwrap_or_default().to_string_lossy();
        let directory = directory_of(records).join(format!(".building-{name}"));
        std::fs::create_dir_all(&directory).map_err(|e| Error::io("create", &directory, e))?;
        let path = directory.join("journal.jsonl");
        let fail = |e| Error::io("write", &path, e);
        let journal = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = "another process builds these records now; wait for it, or use another save_dir";
                return Err(Error::data(records, what));
            }
            Err(TryLockError::Error(e)) => {
                tracing::warn!("{} cannot be locked ({e}); see to it that no other build uses it", path.display());
            }
        }
        let mut work = Self { directory, journal, read: ReadState::default(), written: Written::default() };
        let length = work.replay(build).map_err(fail)?;
        work.journal.set_len(length).and_then(|()| work.journal.seek(SeekFrom::End(0))).map_err(fail)?;
        if length == 0 {
            (work.read, work.written) = Default::default();
            work.append(&Entry::Build(build.to_owned()))?;
        }
        Ok(work)
    }

    /// Reads the journal up to the first line that a kill cut off, and tells its length; 0 when it is of another build.
    fn replay(&mut self, build: &str) -> std::io::Result<u64> {
        let mut lines = BufReader::new(&self.journal);
        let (mut length, mut line) = (0, Vec::new());
        loop {
            line.clear();
            lines.read_until(b'\n', &mut line)?;
            match entry(&line) {
                Some(Entry::Build(there)) if length == 0 && there == build => {}
                Some(Entry::Read(news)) if length > 0 => self.read.advance(news),
                Some(Entry::Written(written)) if length > 0 => self.written = written,
                _ => return Ok(length),
            }
            length += line.len() as u64;
        }
    }

    /// The corpus as tokens.
    pub(super) fn tokens(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// The records so far.
    pub(super) fn records(&self) -> PathBuf {
        self.directory.join("records")
    }

    /// Keeps that text was read up to `state`, of which `self.read` tells the last one kept.
    pub(super) fn keep_read(&mut self, state: &ReadState) -> Result<()> {
        let news = state.since(&self.read);
        self.read.advance(news.clone());
        self.append(&Entry::Read(news))
    }

    /// Keeps that records were written.
    pub(super) fn keep_written(&mut self, written: Written) -> Result<()> {
        self.written = written;
        self.append(&Entry::Written(written))
    }

    /// Forgets what was made of files that changed, or that are not whole.
    pub(super) fn forget_changed(&mut self, files: &[PathBuf], build: &str) -> Result<()> {
        let before = self.read.clone();
        self.read.forget_changed(files);
        let length = std::fs::metadata(self.tokens()).map_or(0, |metadata| metadata.len());
        if length < self.read.extent.bytes() {
            self.read = ReadState::default();
        }
        if self.read == before { Ok(()) } else { self.rewrite(build) }
    }

    /// Starts the journal anew from `self.read`, after it was cut.
    fn rewrite(&mut self, build: &str) -> Result<()> {
        let kept = std::mem::take(&mut self.read);
        self.written = Written::default();
        let fail = |e| Error::io("write", self.directory.join("journal.jsonl"), e);
        self.journal.set_len(0).and_then(|()| self.journal.rewind()).map_err(fail)?;
        self.append(&Entry::Build(build.to_owned()))?;
        self.keep_read(&kept)
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        let fail = |e| Error::io("write", self.directory.join("journal.jsonl"), e);
        let text = serde_json::to_string(entry).map_err(|e| fail(e.into()))?;
        let line = format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes()));
        self.journal.write_all(line.as_bytes()).and_then(|()| self.journal.sync_data()).map_err(fail)
    }

    /// Removes the directory with all that is in it.
    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.directory).map_err(|e| Error::io("remove", &self.directory, e))
    }

    /// Whether going on would save anything.
    pub(super) fn is_worth_keeping(&self) -> bool {
        self.read != ReadState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_tells_what_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("train-0-0.bsz-4.tfrecords");
        let mut work = Work::open(&records, "this build").unwrap();
        assert!(!work.is_worth_keeping());
        let mut state = ReadState::default();
        state.extent.tokens = 7;
        work.keep_read(&state).unwrap();
        state.extent.tokens = 9;
        state.extent.long.push([1, 8]);
        work.keep_read(&state).unwrap();
        work.keep_written(Written { steps: 3, bytes: 50 }).unwrap();
        let busy = Work::open(&records, "this build").err().unwrap().to_string();
        assert!(busy.contains("another process builds"), "{busy}");
        drop(work);
        let path = dir.path().join(".building-train-0-0.bsz-4/journal.jsonl");
        let whole = std::fs::read(&path).unwrap();

        let work = Work::open(&records, "this build").unwrap();
        assert_eq!((&work.read, work.written), (&state, Written { steps: 3, bytes: 50 }));
        drop(work);
        // A line that was cut off, at any place, is no line.
        for cut in 1..30 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut work = Work::open(&records, "this build").unwrap();
            assert_eq!((&work.read, work.written), (&state, Written::default()), "{cut}");
            work.keep_written(Written { steps: 4, bytes: 60 }).unwrap();
            drop(work);
            let work = Work::open(&records, "this build").unwrap();
            assert_eq!((&work.read, work.written.steps), (&state, 4), "{cut}");
        }
        // A bit that flipped ends the journal there.
        let intact = std::fs::read(&path).unwrap();
        for at in 0..intact.len() {
            let mut flipped = intact.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, flipped).unwrap();
            let work = Work::open(&records, "this build").unwrap();
            let states = [0, 7, 9].map(|tokens| work.read.extent.tokens == tokens);
            assert!(states.contains(&true) && [0, 4].contains(&work.written.steps), "{at}");
        }
        std::fs::write(&path, intact).unwrap();
        let mut work = Work::open(&records, "this build").unwrap();
        work.read.extent.cut(2, 0);
        work.rewrite("this build").unwrap();
        drop(work);
        let work = Work::open(&records, "this build").unwrap();
        assert_eq!((work.read.extent.tokens, work.written.steps), (2, 0));
        drop(work);
        let work = Work::open(&records, "another build").unwrap();
        assert!(!work.is_worth_keeping());
        work.remove().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

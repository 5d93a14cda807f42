//! The records of a corpus, from its tokens.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::super::ngram_mask::NgramMask;
use super::super::record::Record;
use super::super::segment::{Row, rows};
use super::super::special::{CLS, SEP};
use super::super::tfrecord::append_record;
use super::super::token_file::{TokenFile, Window};
use super::work::{Work, Written};
use super::{CorpusOptions, CorpusProgress, Pace};
use crate::{Error, Result};

/// Steps that a corpus of `tokens` tokens gives; the last one falls away where the last sentence of a row is too short
/// for its A and B.
pub(super) fn steps(options: &CorpusOptions, tokens: u64) -> u64 {
    let streams = options.bsz_per_host / if options.bi_data { 2 } else { 1 };
    let row_len = tokens / streams as u64;
    row_len.checked_sub(options.seq_len as u64).map_or(0, |rest| rest / options.reuse_len as u64 + 1)
}

/// Writes records in the order of steps, then rows, from those on that `work` tells of, and returns the steps there are.
pub(super) fn write_records(
    options: &CorpusOptions,
    corpus: &TokenFile,
    start_pieces: &[bool],
    work: &mut Work,
    pace: &Pace,
    progress: &mut dyn FnMut(CorpusProgress),
) -> Result<u64> {
    let CorpusOptions { bsz_per_host: bsz, num_core_per_host: cores, seq_len, bi_data, .. } = *options;
    let total = steps(options, corpus.tokens);
    let maker = Maker {
        options,
        corpus,
        rows: rows(corpus.tokens, bsz, cores, bi_data),
        mask: NgramMask { start_pieces, unit: options.ngram_unit, alpha: options.mask_alpha, beta: options.mask_beta },
    };
    let path = work.records();
    let mut file = RecordFile::open(&path, work.written)?;
    let chunk = (pace.tokens as u64 / (bsz * seq_len) as u64).max(1);
    let mut next = file.written.steps;
    let mut made = Vec::new();
    loop {
        progress(CorpusProgress::Writing { steps: file.written.steps, total });
        // The next steps are made while the last ones are written.
        let (written, after) =
            rayon::join(|| file.append(&made, bsz), || maker.steps(next..total.min(next.saturating_add(chunk))));
        written?;
        if file.written.bytes.saturating_sub(work.written.bytes) >= pace.keep {
            file.sync()?;
            work.keep_written(file.written)?;
        }
        made = after?;
        next += (made.len() / bsz) as u64;
        if made.is_empty() {
            break;
        }
    }
    file.sync()?;
    progress(CorpusProgress::Writing { steps: file.written.steps, total: file.written.steps });
    Ok(file.written.steps)
}

/// The record file under construction.
struct RecordFile<'a> {
    out: BufWriter<File>,
    path: &'a Path,
    written: Written,
}

impl<'a> RecordFile<'a> {
    /// Opens or creates `path` and cuts it to what was `written`; a file that is shorter starts anew.
    fn open(path: &'a Path, mut written: Written) -> Result<Self> {
        let fail = |e| Error::io("write", path, e);
        let mut file = File::options().write(true).create(true).truncate(false).open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() < written.bytes {
            written = Written::default();
        }
        file.set_len(written.bytes).and_then(|()| file.seek(SeekFrom::Start(written.bytes))).map_err(fail)?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), path, written })
    }

    /// Appends framed records of whole steps.
    fn append(&mut self, records: &[Vec<u8>], bsz: usize) -> Result<()> {
        for framed in records {
            self.out.write_all(framed).map_err(|e| Error::io("write", self.path, e))?;
            self.written.bytes += framed.len() as u64;
        }
        self.written.steps += (records.len() / bsz) as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        synced.map_err(|e| Error::io("write", self.path, e))
    }
}

/// Makes records; each draws from a random stream of its own, so their bytes do not depend on who makes them.
struct Maker<'a> {
    options: &'a CorpusOptions,
    corpus: &'a TokenFile,
    rows: Vec<Row>,
    mask: NgramMask<'a>,
}

impl Maker<'_> {
    /// Framed records of `steps`, in their order, up to the first step that lacks one.
    fn steps(&self, steps: std::ops::Range<u64>) -> Result<Vec<Vec<u8>>> {
        let bsz = self.rows.len();
        let windows = || (Window::new(self.corpus), Window::new(self.corpus));
        let made: Vec<Option<Vec<u8>>> = (steps.start * bsz as u64..steps.end.max(steps.start) * bsz as u64)
            .into_par_iter()
            .map_init(windows, |(near, far), index| self.framed(index, near, far))
            .collect::<Result<_>>()?;
        let missing = made.iter().position(Option::is_none).unwrap_or(made.len());
        Ok(made.into_iter().take(missing - missing % bsz).flatten().collect())
    }

    /// The record of number `index`, ready for its file; `None` where its row ends too early.
    fn framed<'a>(&self, index: u64, near: &mut Window<'a>, far: &mut Window<'a>) -> Result<Option<Vec<u8>>> {
        let bsz = self.rows.len() as u64;
        let (row, step) = (&self.rows[(index % bsz) as usize], (index / bsz) as usize);
        let mut rng = self.options.rng(index);
        let begin = step * self.options.reuse_len;
        let record = make_record(row, begin, self.options, &self.mask, near, far, &mut rng)?;
        Ok(record.map(|record| {
            let mut framed = Vec::new();
            append_record(&mut framed, &record.to_example().encode());
            framed
        }))
    }
}

/// The record of `row` whose first half begins at `begin`, or `None` where the row ends too early.
fn make_record<'a>(
    row: &Row,
    begin: usize,
    options: &CorpusOptions,
    mask: &NgramMask,
    near: &mut Window<'a>,
    far: &mut Window<'a>,
    rng: &mut ChaCha8Rng,
) -> Result<Option<Record>> {
    let CorpusOptions { seq_len, reuse_len, num_predict, .. } = *options;
    let middle = begin + reuse_len;
    let mut first = Vec::with_capacity(seq_len);
    row.ids(near, begin..begin + seq_len, &mut first)?; // reads ahead for A, too
    let Some(pair) = row.segment_pair(near, far, middle, seq_len - reuse_len - 3, rng)? else { return Ok(None) };
    let (a, b) = (pair.a, pair.b);
    let mut second = Vec::with_capacity(seq_len);
    row.ids(if pair.is_next { near } else { far }, b.start..b.end + 1, &mut second)?;

    let mut input = Vec::with_capacity(seq_len);
    input.extend_from_slice(&first[..reuse_len + a.len()]);
    input.push(SEP);
    input.extend_from_slice(&second[..b.len()]);
    input.extend_from_slice(&[SEP, CLS]);

    // Next tokens; B's block is one longer and so fills the place of A's separator.
    let mut target = Vec::with_capacity(seq_len);
    target.extend_from_slice(&first[1..reuse_len + a.len() + 1]);
    target.extend_from_slice(&second);
    target.extend_from_slice(&[CLS, CLS]);

    let mut segment_ids = vec![0; reuse_len + a.len() + 1];
    segment_ids.resize(seq_len - 1, 1);
    segment_ids.push(2);

    let mut is_masked = vec![false; seq_len];
    let goal = num_predict.map(|n| (n - n / 2, n / 2));
    let (head, tail) = is_masked.split_at_mut(reuse_len);
    mask.sample(&input[..reuse_len], head, goal.map(|g| g.0), row.backward, rng);
    mask.sample(&input[reuse_len..], tail, goal.map(|g| g.1), row.backward, rng);
    Ok(Some(Record { input, target, segment_ids, is_masked, is_next: pair.is_next }))
}

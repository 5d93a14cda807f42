//! Batches in order, again and again, from record files: read once from end to end and checked before training, then
//! step by step while it goes on, so that memory does not grow with the data.
//!
//! A batch is a pure function of the options and a [`Position`]: whoever restores the position after a restart goes on
//! with the very same batches.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::permutation::{BlockOrder, TokenClass, check_perm_size, sample_permutation};
use super::record::Record;
use super::record_info::{RecordFiles, RecordSet, RecordSettings};
use super::row_layout::is_backward;
use crate::{Error, Result};

mod shard;

use shard::{Cursor, Shard};

const MOST_AHEAD: usize = 64; // batches that are ever held ready

/// How a [`Loader`] reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderOptions {
    /// Positions that are permuted together; `None` is `reuse_len`. Divides both halves of the sequence.
    pub perm_size: Option<usize>,
    /// Whether blocks of `perm_size` positions share their order.
    pub block_order: BlockOrder,
    /// Shuffle the files, once for all epochs.
    pub shuffle_files: bool,
    /// Batches made ahead in a thread of their own, 64 at most; 0 makes each when it is asked for.
    pub prefetch: usize,
    /// Orders of files and permutations depend on this.
    pub seed: u64,
    /// Size of the model's vocabulary; larger ids are refused. `None` accepts all.
    pub vocab_size: Option<usize>,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            perm_size: None,
            block_order: BlockOrder::Shared,
            shuffle_files: true,
            prefetch: 2,
            seed: 0,
            vocab_size: None,
        }
    }
}

/// The next batch of a [`Loader`], to be saved with a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Times that all data were read.
    pub epoch: u64,
    /// Batches of this epoch that were read.
    pub step: u64,
}

/// Where all records are, and what it takes to make batches of them.
struct Dataset {
    settings: RecordSettings,
    reuse_len: usize,
    perm_size: usize,
    options: LoaderOptions,
    /// Rows of the whole batch that are read, in the order in which batches have them.
    rows: Vec<usize>,
    shards: Vec<Shard>,
    /// Where the last step was read to; batches are mostly asked for in order.
    cursor: Mutex<Option<Cursor>>,
    /// Steps before each shard, and the total at the end.
    first_step: Vec<u64>,
}

/// An endless iterator over batches.
pub struct Loader {
    data: Arc<Dataset>,
    position: Position,
    prefetch: Option<Prefetch>,
}

impl Loader {
    /// Reads and checks all records of `set`, keeps where each step begins, and stands at the first batch.
    ///
    /// # Errors
    /// When a record file is damaged or does not hold what its index file says, or when `perm_size` does not fit.
    pub fn open(set: &RecordSet, options: &LoaderOptions) -> Result<Self> {
        Self::open_rows(set, options, &(0..set.settings.bsz).collect::<Vec<_>>())
    }

    /// Like [`Loader::open`], but gives only `rows` of every batch, in this order; each has the text,
    /// direction and permutation that it has in the whole batch.
    ///
    /// # Errors
    /// Those of [`Loader::open`], and when there is no such row, or a row twice.
    pub fn open_rows(set: &RecordSet, options: &LoaderOptions, rows: &[usize]) -> Result<Self> {
        let mut sorted = rows.to_vec();
        sorted.sort_unstable();
        if sorted.is_empty()
            || sorted.windows(2).any(|two| two[0] == two[1])
            || sorted[sorted.len() - 1] >= set.settings.bsz
        {
            let bsz = set.settings.bsz;
            return Err(Error::config(format!("a share must be different rows of a batch of {bsz}, but is {rows:?}")));
        }
        let settings = set.settings.clone();
        let reuse_len = settings.reuse_len.unwrap_or(settings.seq_len / 2);
        if reuse_len == 0 || reuse_len >= settings.seq_len || i32::try_from(settings.seq_len).is_err() {
            let (reuse, seq) = (reuse_len, settings.seq_len);
            return Err(Error::config(format!(
                "the records have reuse_len {reuse} and seq_len {seq}; expected 0 < reuse_len < seq_len"
            )));
        }
        if let Some(n) = settings.num_predict.filter(|&n| n > settings.seq_len) {
            let seq = settings.seq_len;
            return Err(Error::config(format!(
                "the records claim num_predict {n}, more than their seq_len {seq}; see their names"
            )));
        }
        let perm_size = options.perm_size.unwrap_or(reuse_len);
        check_perm_size(perm_size, reuse_len, settings.seq_len)?;
        let mut files: Vec<&RecordFiles> = set.files.iter().filter(|f| f.num_batch > 0).collect();
        if files.is_empty() {
            return Err(Error::config("the records found name 0 steps; build the corpus from more text"));
        }
        if options.shuffle_files && files.len() > 1 {
            files.shuffle(&mut rng(options.seed, 0, u64::MAX));
        }
        // In parallel, but the first error in order is the one reported.
        let shards: Vec<Result<Shard>> =
            files.par_iter().map(|f| Shard::read(f, &settings, reuse_len, options.vocab_size)).collect();
        let shards = shards.into_iter().collect::<Result<Vec<_>>>()?;
        let mut first_step = vec![0u64];
        for file in &files {
            let total = first_step[first_step.len() - 1].saturating_add(file.num_batch);
            first_step.push(total);
        }
        let options = options.clone();
        let (rows, cursor) = (rows.to_vec(), Mutex::default());
        let data = Dataset { settings, reuse_len, perm_size, options, rows, shards, cursor, first_step };
        let mut loader = Self { data: Arc::new(data), position: Position::default(), prefetch: None };
        loader.seek(Position::default());
        Ok(loader)
    }

    /// What the records have in common.
    pub fn settings(&self) -> &RecordSettings {
        &self.data.settings
    }

    /// Batches of one epoch; at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        self.data.steps()
    }

    /// Where the batch stands that comes next, whatever was made ahead.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes on at `position`; steps beyond the end of an epoch count into the next ones.
    pub fn seek(&mut self, position: Position) {
        let steps = self.data.steps();
        let epoch = position.epoch.saturating_add(position.step / steps);
        self.position = Position { epoch, step: position.step % steps };
        self.prefetch = None; // stops the old thread first
        if self.data.options.prefetch > 0 {
            self.prefetch = Prefetch::start(self.data.clone(), self.position);
        }
    }

    /// The batch at [`Loader::position`], which moves on by one.
    ///
    /// # Errors
    /// When a record file changed, vanished or cannot be read since it was checked; the position stays then.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let ahead = self.prefetch.as_ref().and_then(|p| p.batches.as_ref()).and_then(|b| b.recv().ok());
        // Without a thread, or after it stopped, the batch is made here; it is the same one.
        let batch = ahead.unwrap_or_else(|| self.data.batch(self.position))?;
        self.position = self.data.after(self.position);
        Ok(batch)
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;
    fn next(&mut self) -> Option<Result<Batch>> {
        Some(self.next_batch())
    }
}

/// A thread that makes batches ahead, in order.
struct Prefetch {
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// `None` when the system gives no thread; batches are then made when asked for.
    fn start(data: Arc<Dataset>, mut position: Position) -> Option<Self> {
        let (sender, receiver) = sync_channel(data.options.prefetch.min(MOST_AHEAD));
        let work = move || {
            loop {
                let batch = data.batch(position);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
                position = data.after(position);
            }
        };
        let thread = std::thread::Builder::new().name("xlnet-loader".into()).spawn(work).ok()?;
        Some(Self { batches: Some(receiver), thread: Some(thread) })
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.batches = None; // ends the thread's `send`
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The random stream of one record in one epoch.
pub(crate) fn rng(seed: u64, epoch: u64, record: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    let parts = [seed, epoch, u64::from_le_bytes(*b"permute\0")];
    key.chunks_exact_mut(8).zip(parts).for_each(|(k, part)| k.copy_from_slice(&part.to_le_bytes()));
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(record);
    rng
}

impl Dataset {
    fn steps(&self) -> u64 {
        self.first_step[self.shards.len()]
    }

    fn after(&self, at: Position) -> Position {
        if at.step + 1 < self.steps() {
            Position { step: at.step + 1, ..at }
        } else {
            Position { epoch: at.epoch.saturating_add(1), step: 0 }
        }
    }

    fn batch(&self, at: Position) -> Result<Batch> {
        let RecordSettings { bsz, seq_len, bi_data, num_predict, .. } = self.settings;
        let index = self.first_step.partition_point(|&first| first <= at.step) - 1;
        let shard = &self.shards[index];
        let records = self.records(index, at.step - self.first_step[index])?;
        let mut batch = Batch::with_capacity(self.rows.len(), seq_len, num_predict.unwrap_or(seq_len));
        for (&row, record) in self.rows.iter().zip(&records) {
            let mut rng = rng(self.options.seed, at.epoch, at.step * bsz as u64 + row as u64);
            let rank = |classes: &[TokenClass], query: &mut [i32], key: &mut [i32]| {
                let order = self.options.block_order;
                sample_permutation(classes, self.reuse_len, self.perm_size, order, &mut rng, query, key);
            };
            let backward = is_backward(row, bsz, shard.num_core, bi_data);
            batch.push(&record.input, &record.segment_ids, &record.is_masked, num_predict, backward, rank);
        }
        Ok(batch)
    }

    /// The records of `rows` in a step of a shard, in their order.
    fn records(&self, shard: usize, step: u64) -> Result<Vec<Record>> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut here = match cursor.take() {
            Some(here) if here.is_at(shard, step) => here,
            _ => Cursor::at(&self.shards[shard], shard, step)?,
        };
        let records = here.next_step(&self.shards[shard], &self.settings, &self.rows, self.options.vocab_size)?;
        *cursor = Some(here); // an error leaves none, and the next one begins anew
        Ok(records)
    }
}

#[cfg(test)]
mod tests;

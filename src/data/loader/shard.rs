//! The record files of one index file: checked in one pass, then read step by step.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::batch::classes;
use super::super::permutation::TokenClass;
use super::super::record::Record;
use super::super::record_info::{RecordFiles, RecordSettings};
use super::super::row_layout::{is_at_end, shown_by_text};
use super::super::stamp::Stamp;
use super::super::tfrecord::RecordReader;
use crate::{Error, Result};

/// Where a step's first record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    record: u64,
    offset: u64, // bytes
}

/// What is kept of the records of one index file.
pub(super) struct Shard {
    /// Cores for which its rows are laid out.
    pub num_core: usize,
    files: Vec<(PathBuf, Stamp)>,
    places: Vec<Place>, // [steps]
}

impl Shard {
    /// Reads all records of the files of one index file and checks them.
    pub(super) fn read(
        files: &RecordFiles,
        settings: &RecordSettings,
        reuse_len: usize,
        vocab_size: Option<usize>,
    ) -> Result<Self> {
        let bsz = settings.bsz as u64;
        let expected = files.num_batch.saturating_mul(bsz);
        let (mut known, mut places) = (Vec::new(), Vec::new());
        let mut both_ends = Vec::new(); // tokens of all rows in the steps that show the layout of rows
        let mut records = 0;
        for path in &files.paths {
            let mut reader = RecordReader::open(path)?;
            known.push((path.clone(), reader.stamp()));
            loop {
                let first = reader.record();
                // What the index file does not count is left out, as the original drops a remainder.
                let payloads = next_payloads(&mut reader, expected - records)?;
                if payloads.is_empty() {
                    break;
                }
                for (i, (offset, _)) in payloads.iter().enumerate() {
                    if (records + i as u64).is_multiple_of(bsz) {
                        places.push(Place { file: known.len() - 1, record: first + i as u64, offset: *offset });
                    }
                }
                let decode = |(i, (_, payload)): (usize, &(u64, Vec<u8>))| {
                    let at_end = is_at_end((records + i as u64) / bsz, files.num_batch);
                    let record = decode(payload, settings, vocab_size, path, first + i as u64)?;
                    Ok(at_end.then_some(record.input))
                };
                // The first error in order is the one reported.
                let decoded: Vec<Result<Option<Vec<i32>>>> = payloads.par_iter().enumerate().map(decode).collect();
                for input in decoded {
                    both_ends.extend(input?.into_iter().flatten());
                }
                records += payloads.len() as u64;
            }
        }
        if records < expected {
            let (steps, bsz) = (files.num_batch, settings.bsz);
            let what = format!(
                "it promises {steps} steps of {bsz} records, but its record files hold {records} records; build the corpus again"
            );
            return Err(Error::data(&files.index, what));
        }
        let num_core = row_layout(files, settings, reuse_len, &both_ends)?;
        Ok(Shard { num_core, files: known, places })
    }
}

/// A place in a shard between two steps, its file open.
pub(super) struct Cursor {
    shard: usize,
    step: u64,
    file: usize,
    reader: RecordReader,
}

impl Cursor {
    /// At `step` of `shard`, which is the one of number `index`.
    pub(super) fn at(shard: &Shard, index: usize, step: u64) -> Result<Self> {
        let missing = || Error::plan("a step of records beyond the last one");
        let place = usize::try_from(step).ok().and_then(|step| shard.places.get(step)).ok_or_else(missing)?;
        let mut reader = shard.open(place.file)?;
        reader.seek(place.offset, place.record)?;
        Ok(Cursor { shard: index, step, file: place.file, reader })
    }
    pub(super) fn is_at(&self, shard: usize, step: u64) -> bool {
        (self.shard, self.step) == (shard, step)
    }
    /// The records of `rows`, in their order, of the step that comes next.
    pub(super) fn next_step(
        &mut self,
        shard: &Shard,
        settings: &RecordSettings,
        rows: &[usize],
        vocab_size: Option<usize>,
    ) -> Result<Vec<Record>> {
        let mut records: Vec<Option<Record>> = vec![None; rows.len()];
        for row in 0..settings.bsz {
            while self.reader.is_at_end() {
                self.file += 1;
                self.reader = shard.open(self.file)?;
            }
            let (number, path) = (self.reader.record(), &shard.files[self.file].0);
            let wanted = rows.iter().position(|&wanted| wanted == row);
            if let (Some(payload), Some(at)) = (self.reader.next_record()?, wanted) {
                records[at] = Some(decode(payload, settings, vocab_size, path, number)?);
            }
        }
        self.step += 1;
        let missing = || Error::plan("a row of a batch without a record");
        records.into_iter().map(|record| record.ok_or_else(missing)).collect()
    }
}

impl Shard {
    /// Opens one of its files, which must be the one that was checked.
    fn open(&self, file: usize) -> Result<RecordReader> {
        let (path, stamp) = self.files.get(file).ok_or_else(|| Error::plan("records beyond the last file"))?;
        let reader = RecordReader::open(path)?;
        if reader.stamp() != *stamp {
            let what = "changed while it was in use; leave record files alone during training, and start the run again";
            return Err(Error::data(path, what));
        }
        Ok(reader)
    }
}

fn decode(
    payload: &[u8],
    settings: &RecordSettings,
    vocab_size: Option<usize>,
    path: &Path,
    number: u64,
) -> Result<Record> {
    let record = Record::decode(payload, settings.seq_len, path, number)?;
    check_record(&record, settings, vocab_size, path, number)?;
    Ok(record)
}

/// Cores for which the rows are laid out, from what was told and what the text shows.
fn row_layout(files: &RecordFiles, settings: &RecordSettings, reuse_len: usize, input: &[i32]) -> Result<usize> {
    let told = files.num_core_per_host;
    if !settings.bi_data {
        return Ok(told.unwrap_or(1));
    }
    let what = match (told, shown_by_text(input, settings.bsz, settings.seq_len, reuse_len, told)) {
        (Some(told), Some(shown)) if told != shown => format!(
            "its text shows rows laid out for num_core_per_host = {shown}, not {told}, which would train half of some \
             rows in the wrong direction; set num_core_per_host = {shown}, or build the corpus again"
        ),
        (_, Some(shown)) => return Ok(shown),
        (Some(told), None) => return Ok(told),
        (None, None) => {
            "neither it nor ../corpus_info.json tells for how many cores its rows in both directions are laid \
                         out, and its text is too short to show it; set num_core_per_host as it was for data_utils, or \
                         1 if that ran without use_tpu"
                .to_string()
        }
    };
    Err(Error::data(&files.index, what))
}

/// Up to `most` payloads with the bytes before them, and not more than are worth decoding at once; none at the end of
/// the file.
fn next_payloads(reader: &mut RecordReader, most: u64) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut payloads = Vec::new();
    while (payloads.len() as u64) < most.min(1024) {
        let offset = reader.offset();
        let Some(payload) = reader.next_record()? else { break };
        payloads.push((offset, payload.to_vec()));
    }
    Ok(payloads)
}

fn check_record(
    record: &Record,
    settings: &RecordSettings,
    vocab_size: Option<usize>,
    path: &Path,
    number: u64,
) -> Result<()> {
    if let Some(size) = vocab_size
        && let Some(id) = record.input.iter().find(|&&id| id as usize >= size)
    {
        let what =
            format!("record {number} holds token id {id}, but the model knows {size} pieces; use its vocabulary");
        return Err(Error::data(path, what));
    }
    let targets = classes(&record.input, &record.is_masked).iter().filter(|c| **c == TokenClass::Target).count();
    match settings.num_predict.filter(|&n| targets > n) {
        Some(n) => Err(Error::data(path, format!("record {number} predicts {targets} tokens, its name allows {n}"))),
        None => Ok(()),
    }
}

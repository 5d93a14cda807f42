//! Building a pretraining corpus: text files in, record files out.
//!
//! Half of every sequence continues the stream of its row, so that memory carries over; the other half is a pair of
//! segments. The distribution is the original program's; the random numbers are our own, drawn from a stream for each
//! record, so the same seed gives the same bytes on any number of threads.
//!
//! Memory does not grow with the corpus: text becomes a file of tokens in a work directory beside the records to be, and
//! records are read from there. The directory also keeps what was done, so that a build that was killed goes on.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::encode::Encode;
use super::ngram_mask::NgramUnit;
use super::record_info::{PROGRAM, Provenance, RecordInfo, RecordSettings, Split};
use super::special::SMALLEST_VOCABULARY;
use super::text::TextOptions;
use super::token_file::{TokenFile, TokenWriter};
use super::token_stream::{FileSummary, ReadState, Reading, check_text_file};
use crate::atomic::AtomicFile;
use crate::{Error, Result};

mod records;
mod work;

use work::Work;

/// How much is held at once; independent of the corpus, not of the threads.
struct Pace {
    /// Bytes of text read and encoded at a time.
    text: usize,
    /// Tokens of records made at a time.
    tokens: usize,
    /// Bytes of records after which they are brought to the disk and noted.
    keep: u64,
}

impl Default for Pace {
    fn default() -> Self {
        let threads = rayon::current_num_threads();
        Self { text: (threads << 20).max(1 << 23), tokens: threads << 18, keep: 1 << 24 }
    }
}

/// How a corpus is made; names and defaults are those of the original's flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusOptions {
    /// Text files; sorted before use.
    pub inputs: Vec<PathBuf>,
    /// The pattern that `inputs` came from, for the record only.
    pub input_glob: String,
    /// The vocabulary's model file, for the record only.
    pub sp_path: String,
    /// Receives `corpus_info.json` and the directory `tfrecords`.
    pub save_dir: PathBuf,
    /// Which part of the data this is; part of the file names.
    pub split: Split,
    /// Rows of one step.
    pub bsz_per_host: usize,
    /// Devices whose rows are laid out separately; matters with `bi_data` only.
    pub num_core_per_host: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Tokens of its first half, which continue the row; must be half of `seq_len`.
    pub reuse_len: usize,
    /// Lower-case the text.
    pub uncased: bool,
    /// Skip the decomposition (NFKD) that strips accents, and harms Japanese and Korean; not a flag of the original.
    pub keep_accents: bool,
    /// Let half of the rows run backwards.
    pub bi_data: bool,
    /// A span of n predicted tokens comes with `n * mask_alpha / mask_beta` tokens of context.
    pub mask_alpha: u32,
    /// See `mask_alpha`.
    pub mask_beta: u32,
    /// Predicted tokens of a sequence, or `None` to leave their number free.
    pub num_predict: Option<usize>,
    /// What the length of a predicted span counts.
    pub ngram_unit: NgramUnit,
    /// Put a mark at blank lines.
    pub use_eod: bool,
    /// Whether the files hold text; otherwise token ids.
    pub from_raw_text: bool,
    /// Replace what is not UTF-8 instead of refusing the file.
    pub lossy: bool,
    /// Number of this pass over the same text; another one predicts other tokens.
    pub pass_id: usize,
    /// Parts into which the files are divided.
    pub num_task: usize,
    /// The part to make: every `num_task`-th file from this one.
    pub task: usize,
    /// Random choices depend on this, `task` and `pass_id`.
    pub seed: u64,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            input_glob: String::new(),
            sp_path: String::new(),
            save_dir: "proc_data".into(),
            split: Split::Train,
            bsz_per_host: 32,
            num_core_per_host: 1,
            seq_len: 512,
            reuse_len: 256,
            uncased: true,
            keep_accents: false,
            bi_data: true,
            mask_alpha: 6,
            mask_beta: 1,
            num_predict: Some(85),
            ngram_unit: NgramUnit::Pieces,
            use_eod: true,
            from_raw_text: true,
            lossy: false,
            pass_id: 0,
            num_task: 1,
            task: 0,
            seed: 0,
        }
    }
}

/// What [`build_corpus`] is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorpusProgress {
    /// Reading text.
    Reading {
        /// Bytes of text read.
        bytes: u64,
        /// Bytes in all, as far as files tell.
        total: u64,
        /// Tokens so far.
        tokens: u64,
    },
    /// Writing records.
    Writing {
        /// Steps written.
        steps: u64,
        /// Steps in all; the last one may fall away.
        total: u64,
    },
}

/// What [`build_corpus`] made.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusReport {
    /// The record file.
    pub records: PathBuf,
    /// Its index file.
    pub record_info: PathBuf,
    /// Files read, in sorted order.
    pub files: Vec<PathBuf>,
    /// Those of them without a single token.
    pub empty_files: Vec<PathBuf>,
    /// Lines read.
    pub lines: u64,
    /// Tokens, end-of-document marks included.
    pub tokens: u64,
    /// Those of them that are `<unk>`; many of them mean a vocabulary of another language.
    pub unknown_tokens: u64,
    /// Steps written, each of `bsz_per_host` records.
    pub steps: u64,
    /// Bytes of text and steps of an earlier build, stopped before its end, that this one went on from.
    pub resumed: (u64, u64),
}

impl CorpusOptions {
    /// Checks that the options fit together, before any work.
    ///
    /// # Errors
    /// With the first option that does not fit and what would.
    pub fn validate(&self) -> Result<()> {
        let Self { bsz_per_host, num_core_per_host: cores, seq_len, reuse_len, mask_alpha, mask_beta, .. } = self;
        let refuse = |what: String| Err(Error::config(what));
        let rows = cores.saturating_mul(if self.bi_data { 2 } else { 1 });
        if rows == 0 || *bsz_per_host == 0 || bsz_per_host % rows != 0 {
            let each = if self.bi_data { "twice num_core_per_host, as bi_data needs" } else { "num_core_per_host" };
            return refuse(format!("bsz_per_host must be a positive multiple of {rows} ({each}), got {bsz_per_host}"));
        }
        if reuse_len.checked_mul(2) != Some(*seq_len) {
            return refuse(format!("reuse_len must be half of seq_len {seq_len}, got {reuse_len}"));
        }
        if *reuse_len < 4 {
            // reuse_len < seq_len - 3: the second half holds three functional tokens and at least one of text.
            return refuse(format!("seq_len must be 8 at least, got {seq_len}"));
        }
        if i32::try_from(*seq_len).is_err() {
            return refuse(format!("seq_len must be below 2147483648, got {seq_len}"));
        }
        if *mask_beta == 0 || mask_alpha < mask_beta {
            return refuse(format!(
                "mask_alpha must be at least mask_beta and both positive, got {mask_alpha} and {mask_beta}"
            ));
        }
        if let Some(n) = self.num_predict.filter(|n| *n == 0 || n > seq_len) {
            return refuse(format!("num_predict must be from 1 to seq_len {seq_len}, got {n}; about a sixth is usual"));
        }
        if self.task >= self.num_task {
            return refuse(format!("task must be below num_task {}, got {}", self.num_task, self.task));
        }
        if self.inputs.is_empty() {
            let pattern = if self.input_glob.is_empty() { String::new() } else { format!(" by {}", self.input_glob) };
            return refuse(format!("no input file was found{pattern}; name at least one"));
        }
        if self.task >= self.inputs.len() {
            let (task, files) = (self.task, self.inputs.len());
            return refuse(format!("task {task} has no file: there are {files}; set num_task to {files} at most"));
        }
        Ok(())
    }

    /// The settings that file names carry.
    pub fn record_settings(&self) -> RecordSettings {
        RecordSettings {
            bsz: self.bsz_per_host,
            seq_len: self.seq_len,
            reuse_len: Some(self.reuse_len),
            uncased: self.uncased,
            bi_data: self.bi_data,
            mask_alpha: self.mask_alpha,
            mask_beta: self.mask_beta,
            num_predict: self.num_predict,
        }
    }

    /// The files of this task, sorted by the bytes of their names.
    pub fn task_files(&self) -> Vec<PathBuf> {
        let mut files = self.inputs.clone();
        files.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        files.into_iter().skip(self.task).step_by(self.num_task.max(1)).collect()
    }

    /// What is told of records made with these options from `files`; the number of tokens is not known yet.
    fn provenance(&self, encode: &dyn Encode, files: &[PathBuf]) -> Provenance {
        let base = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
        Provenance {
            program: PROGRAM.into(),
            settings: self.record_settings(),
            num_core_per_host: self.num_core_per_host,
            split: self.split,
            task: self.task,
            num_task: self.num_task,
            pass_id: self.pass_id,
            seed: self.seed,
            ngram_unit: self.ngram_unit,
            keep_accents: self.keep_accents,
            use_eod: self.use_eod,
            from_raw_text: self.from_raw_text,
            vocab_size: encode.vocab_size(),
            vocabulary_hash: encode.vocabulary_hash(),
            tokens: 0,
            inputs: files.iter().filter_map(base).collect(),
        }
    }

    /// A random stream of this task and pass. `stream` is a record's number; the order of files has the last one.
    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut key = [0u8; 32];
        let parts = [self.seed, self.task as u64, self.pass_id as u64, u64::from_le_bytes(*b"corpus\0\0")];
        key.chunks_exact_mut(8).zip(parts).for_each(|(k, part)| k.copy_from_slice(&part.to_le_bytes()));
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        rng
    }
}

/// Makes the record file and the index file of one task and pass, and with task 0 the file `corpus_info.json`.
///
/// The record file appears when it is complete and replaces one of the same name. Until then what was done lies in a
/// hidden directory beside it, 4 bytes a token and the records so far; after a kill or a full disk the same call goes on
/// from there, as long as the options, the vocabulary, and the files read are the same ones.
///
/// # Errors
/// When options do not fit together, a file cannot be read or encoded, the corpus is too short for a single step, or
/// another process builds the same records.
pub fn build_corpus(
    options: &CorpusOptions,
    encode: &dyn Encode,
    progress: &mut dyn FnMut(CorpusProgress),
) -> Result<CorpusReport> {
    build(options, encode, progress, &Pace::default())
}

/// [`build_corpus`] at another pace.
fn build(
    options: &CorpusOptions,
    encode: &dyn Encode,
    progress: &mut dyn FnMut(CorpusProgress),
    pace: &Pace,
) -> Result<CorpusReport> {
    options.validate()?;
    let start_pieces = encode.start_pieces();
    if encode.vocab_size() < SMALLEST_VOCABULARY || start_pieces.len() != encode.vocab_size() {
        let (pieces, known) = (encode.vocab_size(), start_pieces.len());
        return Err(Error::config(format!(
            "the vocabulary must hold the {SMALLEST_VOCABULARY} control symbols and know each piece, got {pieces} pieces, {known} known"
        )));
    }
    let sorted = options.task_files();
    let mut order: Vec<usize> = (0..sorted.len()).collect();
    order.shuffle(&mut options.rng(u64::MAX));
    let files: Vec<PathBuf> = order.iter().map(|&i| sorted[i].clone()).collect();
    let mut text_bytes = 0u64;
    for path in &files {
        text_bytes += check_text_file(path)?.len();
    }

    let directory = options.save_dir.join("tfrecords");
    std::fs::create_dir_all(&directory).map_err(|e| Error::io("create", &directory, e))?;
    let settings = options.record_settings();
    let prefix = format!("{}-{}-{}", options.split, options.task, options.pass_id);
    let records = directory.join(settings.file_name(&prefix, "tfrecords"));
    let record_info = directory.join(settings.file_name(&format!("record_info-{prefix}"), "json"));
    let mut provenance = options.provenance(encode, &sorted);
    let build = fingerprint(options, &provenance, &files)?;
    let mut work = Work::open(&records, &build)?;
    work.forget_changed(&files, &build)?;
    let resumed = (work.read.bytes(), work.written.steps);

    // A failure keeps what was done, where that is worth something.
    let made = read_text(options, encode, &files, &mut work, pace, &mut |read| {
        let (bytes, tokens) = (read.bytes(), read.extent.tokens);
        progress(CorpusProgress::Reading { bytes, total: text_bytes.max(bytes), tokens });
    })
    .and_then(|(corpus, read)| {
        if records::steps(options, corpus.tokens) == 0 {
            work.read = ReadState::default(); // of no use to anyone
            return Err(too_short(options, corpus.tokens));
        }
        let steps = records::write_records(options, &corpus, &start_pieces, &mut work, pace, progress)?;
        if steps == 0 {
            work.read = ReadState::default();
            return Err(too_short(options, corpus.tokens));
        }
        Ok((steps, read))
    });
    let (steps, read) = match made {
        Ok(made) => made,
        Err(e) if work.is_worth_keeping() => return Err(e),
        Err(e) => {
            let _ = work.remove(); // the error is what matters
            return Err(e);
        }
    };

    let sum = |of: fn(&FileSummary) -> u64| read.finished.iter().map(of).sum::<u64>();
    let (lines, tokens, unknown_tokens) = (sum(|f| f.lines), sum(|f| f.tokens), sum(|f| f.unknown));
    let mut empty: Vec<usize> = (0..files.len()).filter(|&i| read.finished[i].tokens == 0).map(|i| order[i]).collect();
    empty.sort_unstable();
    let empty_files = empty.into_iter().map(|i| sorted[i].clone()).collect();

    let absolute = std::path::absolute(&records).map_err(|e| Error::io("name", &records, e))?;
    provenance.tokens = tokens;
    let info = RecordInfo {
        filenames: vec![absolute.to_string_lossy().into_owned()],
        num_batch: steps,
        xlnet: Some(provenance),
    };
    let index = json_file(&record_info, &info)?;
    let corpus_info = match options.task {
        0 => Some(json_file(&options.save_dir.join("corpus_info.json"), &corpus_info(options, encode.vocab_size()))?),
        _ => None,
    };
    // Every file is complete by now; only renames follow. Without its index a record file does not count, so that an
    // index never stands beside records of another build.
    remove_if_there(&record_info)?;
    std::fs::rename(work.records(), &records).map_err(|e| Error::io("write", &records, e))?;
    index.commit()?;
    corpus_info.map_or(Ok(()), AtomicFile::commit)?;
    work.remove()?;
    Ok(CorpusReport { records, record_info, files: sorted, empty_files, lines, tokens, unknown_tokens, steps, resumed })
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("replace", path, e)),
        _ => Ok(()),
    }
}

/// All that the records depend on, but the content of text files.
fn fingerprint(options: &CorpusOptions, provenance: &Provenance, files: &[PathBuf]) -> Result<String> {
    let files: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
    let all = serde_json::to_vec(&(provenance, options.lossy, files))
        .map_err(|e| Error::config(format!("these options cannot be written as JSON: {e}")))?;
    Ok(Sha256::digest(all).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Turns text into tokens, from where `work` stands on.
fn read_text(
    options: &CorpusOptions,
    encode: &dyn Encode,
    files: &[PathBuf],
    work: &mut Work,
    pace: &Pace,
    progress: &mut dyn FnMut(&ReadState),
) -> Result<(TokenFile, ReadState)> {
    let CorpusOptions { uncased, keep_accents, from_raw_text, use_eod, lossy, .. } = *options;
    let cleaning = TextOptions { lower: uncased, keep_accents, ..TextOptions::default() };
    let reading = Reading { encode, cleaning, from_raw_text, use_eod, lossy, group: pace.text };
    let mut state = work.read.clone();
    let mut writer = TokenWriter::open(&work.tokens(), state.extent.clone())?;
    progress(&state);
    reading.read(files, &mut state, &mut writer, |state, writer| {
        writer.sync()?;
        work.keep_read(state)?;
        progress(state);
        Ok(())
    })?;
    Ok((writer.finish()?, state))
}

/// The error to give where not even one step can be made.
fn too_short(options: &CorpusOptions, tokens: u64) -> Error {
    let streams = (options.bsz_per_host / if options.bi_data { 2 } else { 1 }) as u64;
    let needed = streams.saturating_mul(options.seq_len as u64);
    Error::config(format!(
        "the corpus of task {} has {tokens} tokens; a step of {streams} streams by seq_len {} needs {needed} and the \
         sentences that begin there to end; add text or lower bsz_per_host, seq_len or num_predict",
        options.task, options.seq_len
    ))
}

fn json_file(path: &Path, content: &impl Serialize) -> Result<AtomicFile> {
    let text = serde_json::to_vec_pretty(content)
        .map_err(|e| Error::data(path, format!("its content cannot be written as JSON: {e}")))?;
    let mut file = AtomicFile::create(path)?;
    file.append(&text)?;
    file.append(b"\n")?;
    Ok(file)
}

/// What the original leaves beside the records; nothing of it is read back, except the number of cores by us.
fn corpus_info(options: &CorpusOptions, vocab_size: usize) -> serde_json::Value {
    serde_json::json!({
        "vocab_size": vocab_size,
        "bsz_per_host": options.bsz_per_host,
        "num_core_per_host": options.num_core_per_host,
        "seq_len": options.seq_len,
        "reuse_len": options.reuse_len,
        "uncased": options.uncased,
        "bi_data": options.bi_data,
        "mask_alpha": options.mask_alpha,
        "mask_beta": options.mask_beta,
        "num_predict": options.num_predict,
        "use_eod": options.use_eod,
        "sp_path": options.sp_path,
        "input_glob": options.input_glob,
    })
}

#[cfg(test)]
mod tests;

//! Index files of a corpus: how record files are named, described and found again.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ngram_mask::NgramUnit;
use crate::atomic::directory_of;
use crate::{Error, Result};

/// Which part of the data a corpus is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training.
    #[default]
    Train,
    /// Held out, for choices.
    Dev,
    /// Held out, for the last judgement.
    Test,
}

impl Split {
    /// Its name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Split {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let splits = [Self::Train, Self::Dev, Self::Test];
        let named = splits.into_iter().find(|s| s.name() == name);
        named.ok_or_else(|| Error::config(format!("split must be train, dev or test, got {name:?}")))
    }
}

/// What the name of a record file says about its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSettings {
    /// Rows of one step.
    pub bsz: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Length of the first half; `None` in names of files that do not say.
    pub reuse_len: Option<usize>,
    /// Whether the text was lower-cased.
    pub uncased: bool,
    /// Whether half of the rows run backwards.
    pub bi_data: bool,
    /// Context around a span of n predicted tokens: `n * mask_alpha / mask_beta`.
    pub mask_alpha: u32,
    /// See `mask_alpha`.
    pub mask_beta: u32,
    /// Predicted positions of a sequence, or `None` when their number is free.
    pub num_predict: Option<usize>,
}

impl RecordSettings {
    /// `{prefix}.bsz-{W}.seqlen-{S}.reuse-{R}.{uncased.}{bi|uni}.alpha-{a}.beta-{b}.{fnp-P.}{suffix}`, the name that the
    /// original gives.
    pub fn file_name(&self, prefix: &str, suffix: &str) -> String {
        let reuse = self.reuse_len.map_or(String::new(), |n| format!("reuse-{n}."));
        let predict = self.num_predict.map_or(String::new(), |n| format!("fnp-{n}."));
        let (uncased, direction) =
            (if self.uncased { "uncased." } else { "" }, if self.bi_data { "bi" } else { "uni" });
        let Self { bsz, seq_len, mask_alpha, mask_beta, .. } = self;
        format!(
            "{prefix}.bsz-{bsz}.seqlen-{seq_len}.{reuse}{uncased}{direction}.alpha-{mask_alpha}.beta-{mask_beta}.{predict}{suffix}"
        )
    }

    /// Reads a name back into prefix and settings; `None` when it is no such name.
    pub fn parse_file_name<'a>(name: &'a str, suffix: &str) -> Option<(&'a str, Self)> {
        fn value<'a, T: std::str::FromStr>(
            fields: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
            key: &str,
        ) -> Option<T> {
            let value = fields.peek()?.strip_prefix(key)?.parse().ok()?;
            fields.next();
            Some(value)
        }
        let mut fields = name.strip_suffix(suffix)?.strip_suffix('.')?.split('.').peekable();
        let prefix = fields.next()?;
        let bsz = value(&mut fields, "bsz-")?;
        let seq_len = value(&mut fields, "seqlen-")?;
        let reuse_len = value(&mut fields, "reuse-");
        let uncased = fields.next_if_eq(&"uncased").is_some();
        let bi_data = match fields.next()? {
            "bi" => true,
            "uni" => false,
            _ => return None,
        };
        let mask_alpha = value(&mut fields, "alpha-")?;
        let mask_beta = value(&mut fields, "beta-")?;
        let num_predict = value(&mut fields, "fnp-");
        let settings = Self { bsz, seq_len, reuse_len, uncased, bi_data, mask_alpha, mask_beta, num_predict };
        fields.next().is_none().then_some((prefix, settings))
    }

    /// Every setting with the name users know it by, for comparison and messages.
    fn fields(&self) -> [(&'static str, String); 8] {
        let number = |n: Option<usize>| n.map_or("none".to_string(), |n| n.to_string());
        [
            ("bsz", self.bsz.to_string()),
            ("seq_len", self.seq_len.to_string()),
            ("reuse_len", number(self.reuse_len)),
            ("uncased", self.uncased.to_string()),
            ("bi_data", self.bi_data.to_string()),
            ("mask_alpha", self.mask_alpha.to_string()),
            ("mask_beta", self.mask_beta.to_string()),
            ("num_predict", number(self.num_predict)),
        ]
    }
}

/// This program, as index files name it.
pub const PROGRAM: &str = concat!("xlnet ", env!("CARGO_PKG_VERSION"));

/// How a corpus was made; our addition to its index file, under the key `xlnet`, which the original does not look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are those of `CorpusOptions`
pub struct Provenance {
    /// Name and version of the program.
    #[serde(default)]
    pub program: String,
    #[serde(flatten)]
    pub settings: RecordSettings,
    pub num_core_per_host: usize,
    pub split: Split,
    pub task: usize,
    pub num_task: usize,
    pub pass_id: usize,
    pub seed: u64,
    #[serde(default)]
    pub ngram_unit: NgramUnit,
    #[serde(default)]
    pub keep_accents: bool,
    pub use_eod: bool,
    pub from_raw_text: bool,
    pub vocab_size: usize,
    /// SHA-256 of the vocabulary's model file.
    pub vocabulary_hash: Option<String>,
    /// Tokens of the corpus, end-of-document marks included.
    pub tokens: u64,
    /// Base names of the text files.
    pub inputs: Vec<String>,
}

/// Content of an index file `record_info-{split}-{task}-{pass_id}....json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordInfo {
    /// Paths of the record files; only their base names are used, beside the index file.
    pub filenames: Vec<String>,
    /// Steps in the record files together.
    pub num_batch: u64,
    /// How they were made; absent in files of the original program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlnet: Option<Provenance>,
}

/// What a training run asks of a corpus; `None` accepts anything.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the names are those of `RecordSettings`
pub struct RecordQuery {
    pub split: Split,
    pub bsz: Option<usize>,
    pub seq_len: Option<usize>,
    pub reuse_len: Option<usize>,
    pub uncased: Option<bool>,
    pub bi_data: Option<bool>,
    pub mask_alpha: Option<u32>,
    pub mask_beta: Option<u32>,
    /// `Some(None)` asks for data without a fixed number of predictions.
    pub num_predict: Option<Option<usize>>,
    /// Use passes 0 to `num_passes - 1` only.
    pub num_passes: Option<usize>,
    /// Cores of the data's row layout; data known to have another one are refused. Matters with `bi_data` only.
    pub num_core_per_host: Option<usize>,
    /// SHA-256 of the vocabulary in use; data known to be of another one is refused.
    pub vocabulary_hash: Option<String>,
    /// Whether accents are kept; data known to be otherwise is refused.
    pub keep_accents: Option<bool>,
}

impl RecordQuery {
    /// Sentences on how `found` differs from what is asked.
    fn differences(&self, found: &RecordSettings) -> Vec<String> {
        let number = |n: Option<usize>| n.map_or("none".to_string(), |n| n.to_string());
        let wanted = [
            self.bsz.map(|v| v.to_string()),
            self.seq_len.map(|v| v.to_string()),
            self.reuse_len.map(|v| v.to_string()),
            self.uncased.map(|v| v.to_string()),
            self.bi_data.map(|v| v.to_string()),
            self.mask_alpha.map(|v| v.to_string()),
            self.mask_beta.map(|v| v.to_string()),
            self.num_predict.map(number),
        ];
        let differs = |((name, found), wanted): ((&str, String), Option<String>)| {
            let wanted = wanted.filter(|w| *w != found)?;
            Some(format!("{name} is {found}, not {wanted}"))
        };
        found.fields().into_iter().zip(wanted).filter_map(differs).collect()
    }
}

/// Record files that one index file names.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordFiles {
    /// The index file.
    pub index: PathBuf,
    /// The record files, which lie beside it.
    pub paths: Vec<PathBuf>,
    /// Steps in them together.
    pub num_batch: u64,
    /// Cores of the row layout, where the index file, corpus_info.json or the query tells; else the text must.
    pub num_core_per_host: Option<usize>,
}

/// All that a query found, in the order of directories and then of names.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordSet {
    /// What all files have in common.
    pub settings: RecordSettings,
    /// The record files by index file.
    pub files: Vec<RecordFiles>,
    /// SHA-256 of the vocabulary, where the index files tell.
    pub vocabulary_hash: Option<String>,
    /// Whether accents were kept, where the index files tell; the original never does.
    pub keep_accents: Option<bool>,
}

/// What one index file says.
#[derive(Clone)]
pub(crate) struct Index {
    settings: RecordSettings,
    pub files: RecordFiles,
    pub made: Option<Provenance>,
}

impl Index {
    /// The index file beside a record file of prefix and settings as its name has them.
    pub(crate) fn beside(records: &Path, prefix: &str, settings: &RecordSettings) -> Result<Self> {
        let name = settings.file_name(&format!("record_info-{prefix}"), "json");
        read_index(directory_of(records), &name, settings.clone(), &RecordQuery::default())
    }
}

/// The only value among those that files tell, `wanted` included, or the first file that tells another one, with both.
fn agreed<T: Clone + PartialEq>(
    wanted: Option<T>,
    found: &[Index],
    told: impl Fn(&Provenance) -> Option<T>,
) -> std::result::Result<Option<T>, (&Path, T, T)> {
    let mut agreed = wanted;
    for index in found {
        match (&agreed, index.made.as_ref().and_then(&told)) {
            (Some(before), Some(here)) if *before != here => return Err((&index.files.index, here, before.clone())),
            (None, here @ Some(_)) => agreed = here,
            _ => {}
        }
    }
    Ok(agreed)
}

impl RecordSet {
    /// Finds the record files in `directories` that `query` asks for.
    ///
    /// # Errors
    /// When a directory has no match (the sentence lists what was found there and how it differs), when the matches
    /// differ among themselves, or when an index file is damaged or names absent files.
    pub fn find(directories: &[PathBuf], query: &RecordQuery) -> Result<Self> {
        let mut found: Vec<Index> = Vec::new();
        for directory in directories {
            for name in matching_names(directory, query)? {
                found.push(read_index(directory, &name.0, name.1, query)?);
            }
        }
        let Some(first) = found.first() else {
            return Err(Error::config("no directory of records was given; name the one that holds record_info-*.json"));
        };
        let settings = first.settings.clone();
        for other in &found {
            let pairs = settings.fields().into_iter().zip(other.settings.fields());
            let differ: Vec<_> =
                pairs.filter(|(a, b)| a != b).map(|(a, b)| format!("{} is {}, there {}", b.0, b.1, a.1)).collect();
            if !differ.is_empty() {
                let (there, differ) = (first.files.index.display(), differ.join(", "));
                return Err(Error::data(
                    &other.files.index,
                    format!("does not fit {there}: {differ}; say which to use"),
                ));
            }
        }
        if found.iter().all(|index| index.files.num_batch == 0) {
            let what = "it and all other matches name 0 steps; build the corpus from more text";
            return Err(Error::data(&first.files.index, what));
        }
        let vocabulary_hash = agreed(query.vocabulary_hash.clone(), &found, |made| made.vocabulary_hash.clone())
            .map_err(|(path, here, wanted)| {
                let what = format!(
                    "it was made with the vocabulary of SHA-256 {here}, but {wanted} is in use; build the corpus with that, or \
                     name the other vocabulary"
                );
                Error::data(path, what)
            })?;
        let keep_accents =
            agreed(query.keep_accents, &found, |made| Some(made.keep_accents)).map_err(|(path, here, wanted)| {
                let what =
                    format!("it was made with keep_accents = {here}, but {wanted} is in use; build the corpus alike");
                Error::data(path, what)
            })?;
        let files = found.into_iter().map(|index| index.files).collect();
        Ok(Self { settings, files, vocabulary_hash, keep_accents })
    }
}

/// Index files of `directory` that fit the query, by name; at least one.
fn matching_names(directory: &Path, query: &RecordQuery) -> Result<Vec<(String, RecordSettings)>> {
    let fail = |e| Error::io("list", directory, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if name.starts_with("record_info") && name.ends_with(".json") {
            names.push(name);
        }
    }
    names.sort();
    let (mut matches, mut others) = (Vec::new(), Vec::new());
    for name in names {
        let Some((split, pass, settings)) = parse_index_name(&name) else {
            others.push((usize::MAX, format!("{name} (not a name of record_info)")));
            continue;
        };
        let mut differ = query.differences(&settings);
        if split != query.split.name() {
            differ.push(format!("split is {split}, not {}", query.split));
        }
        if let Some(passes) = query.num_passes.filter(|&n| pass >= n) {
            differ.push(format!("pass_id is {pass}, num_passes {passes}"));
        }
        if differ.is_empty() {
            matches.push((name, settings));
        } else {
            others.push((differ.len(), format!("{name} ({})", differ.join(", "))));
        }
    }
    if !matches.is_empty() {
        return Ok(matches);
    }
    const SHOWN: usize = 8;
    others.sort();
    let what = if !others.is_empty() {
        let more = others.len().saturating_sub(SHOWN);
        let shown: Vec<_> = others.into_iter().take(SHOWN).map(|(_, text)| text).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("no index file fits; found {}{more}", shown.join("; "))
    } else if directory.join("tfrecords").is_dir() {
        "no record_info-*.json here; use its directory tfrecords".into()
    } else {
        "no record_info-*.json here; build a corpus first, or name the directory tfrecords of one".into()
    };
    Err(Error::data(directory, what))
}

/// Split, pass and settings of `record_info-{split}-{task}-{pass_id}....json`.
fn parse_index_name(name: &str) -> Option<(&str, usize, RecordSettings)> {
    let (prefix, settings) = RecordSettings::parse_file_name(name, "json")?;
    let mut parts = prefix.strip_prefix("record_info-")?.split('-');
    let (split, _task, pass) = (parts.next()?, parts.next()?.parse::<usize>().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((split, pass, settings))
}

fn read_index(directory: &Path, name: &str, settings: RecordSettings, query: &RecordQuery) -> Result<Index> {
    let index = directory.join(name);
    let text = std::fs::read(&index).map_err(|e| Error::io("read", &index, e))?;
    let info: RecordInfo = serde_json::from_slice(&text)
        .map_err(|e| Error::data(&index, format!("it is not a record_info file: {e}; build the corpus again")))?;
    if let Some(made) = info.xlnet.as_ref().filter(|p| p.settings != settings) {
        let name = made.settings.file_name("record_info-*", "json");
        return Err(Error::data(&index, format!("its content says {name}; give the file its own name back")));
    }
    // Only base names count, so that a directory of records can be moved.
    let base = |name: &String| name.rsplit(['/', '\\']).next().map(|base| directory.join(base));
    let paths: Vec<PathBuf> = info.filenames.iter().filter_map(base).collect();
    if paths.is_empty() {
        return Err(Error::data(&index, "it names no record file; build the corpus again"));
    }
    if let Some(absent) = paths.iter().find(|p| !p.is_file()) {
        return Err(Error::data(&index, format!("it names {}, which is not there", absent.display())));
    }
    let told = info.xlnet.as_ref().map(|p| p.num_core_per_host).or_else(|| corpus_info_cores(directory, &settings));
    if let (Some(told), Some(asked), true) = (told, query.num_core_per_host, settings.bi_data)
        && told != asked
    {
        let what = format!("its rows are laid out for {told} cores, not {asked}; set num_core_per_host = {told}");
        return Err(Error::data(&index, what));
    }
    let num_core_per_host = told.or(query.num_core_per_host);
    let rows = num_core_per_host.unwrap_or(1).saturating_mul(if settings.bi_data { 2 } else { 1 });
    if rows == 0 || settings.bsz == 0 || !settings.bsz.is_multiple_of(rows) {
        let (bsz, cores) = (settings.bsz, num_core_per_host.unwrap_or(1));
        let what = format!("{bsz} rows cannot be laid out for {cores} cores; see num_core_per_host");
        return Err(Error::data(&index, what));
    }
    let files = RecordFiles { index, paths, num_batch: info.num_batch, num_core_per_host };
    Ok(Index { settings, files, made: info.xlnet })
}

/// `num_core_per_host` of the corpus_info.json that the original leaves above the directory of records, unless a corpus
/// of other settings was built there since.
fn corpus_info_cores(directory: &Path, settings: &RecordSettings) -> Option<usize> {
    let text = std::fs::read(directory.parent()?.join("corpus_info.json")).ok()?;
    let info: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let differs = |key: &str, here: usize| info.get(key).is_some_and(|there| there.as_u64() != Some(here as u64));
    let other = differs("bsz_per_host", settings.bsz)
        || differs("seq_len", settings.seq_len)
        || settings.reuse_len.is_some_and(|here| differs("reuse_len", here))
        || info.get("bi_data").is_some_and(|there| there.as_bool() != Some(settings.bi_data));
    if other {
        return None;
    }
    info.get("num_core_per_host")?.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests;

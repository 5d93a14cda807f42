//! Converted features on disk, under a key of everything that shaped them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::convert::Conversion;
use super::example::{Examples, Remarks};
use super::feature::Feature;
use super::{Place, Task};
use crate::atomic::AtomicFile;
use crate::data::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Raise it whenever the same input would be converted otherwise, or stored otherwise.
const VERSION: u32 = 1;

/// A set in memory: what was read, and what it became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Examples as they stand in the files.
    pub examples: Examples,
    /// What a model sees of them.
    pub features: Vec<Feature>,
    /// What was left out, and what is odd.
    pub remarks: Remarks,
    /// The file or directory they come from.
    pub path: PathBuf,
}

/// How a set is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// Labels are needed.
    pub labelled: bool,
    /// Spans have their answers' places.
    pub training: bool,
    /// Only so many examples; 0 is all.
    pub most: usize,
    /// Directory of the cache; none reads and converts every time.
    pub cache: Option<&'a Path>,
    /// Does not look into the cache, but writes it.
    pub fresh: bool,
}

impl Dataset {
    /// Reads and converts a set, or finds it in the cache.
    ///
    /// # Errors
    /// When files are missing or wrong; the sentence names file and line.
    pub fn load(
        task: &Task,
        place: &Place,
        conversion: &Conversion,
        tokenizer: &Tokenizer,
        reading: Reading,
    ) -> Result<Dataset> {
        let Some(directory) = reading.cache else { return Self::convert(task, place, conversion, tokenizer, reading) };
        let key = key(task, place, conversion, tokenizer, reading)?;
        let path = directory.join(format!("{}.{}.{key}.features", task.name, place.split));
        if !reading.fresh
            && let Some(found) = read(&path)
        {
            tracing::info!(path = %path.display(), "features were converted before");
            return Ok(found);
        }
        let made = Self::convert(task, place, conversion, tokenizer, reading)?;
        std::fs::create_dir_all(directory).map_err(|e| Error::io("create", directory, e))?;
        let bytes = postcard::to_allocvec(&made)
            .map_err(|e| Error::data(&path, format!("these features cannot be written: {e}")))?;
        let mut file = AtomicFile::create(&path)?;
        file.append(&Sha256::digest(&bytes))?;
        file.append(&bytes)?;
        file.commit()?;
        Ok(made)
    }

    fn convert(
        task: &Task,
        place: &Place,
        conversion: &Conversion,
        tokenizer: &Tokenizer,
        reading: Reading,
    ) -> Result<Dataset> {
        let (mut examples, mut remarks) = task.read(place, reading.labelled)?;
        if reading.most > 0 {
            examples.truncate(reading.most);
        }
        let path = task.file(place);
        let encoder = super::encoder::Encoder { tokenizer, text: conversion.text() };
        let (features, more) = conversion.convert(task, &examples, &encoder, reading.training, &path)?;
        remarks.extend(more);
        Ok(Dataset { examples, features, remarks, path })
    }

    /// Tokens of its longest sequence.
    pub fn longest(&self) -> usize {
        self.features.iter().map(Feature::longest).max().unwrap_or(0)
    }
}

/// SHA-256 of task, files' contents, lengths, casing, vocabulary and way of reading.
fn key(task: &Task, place: &Place, conversion: &Conversion, tokenizer: &Tokenizer, reading: Reading) -> Result<String> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|e| Error::config(format!("this is no JSON: {e}")));
    part(&VERSION.to_le_bytes());
    part(&json(serde_json::to_vec(task))?);
    part(&json(serde_json::to_vec(conversion))?);
    part(tokenizer.vocabulary_hash().as_bytes());
    part(place.split.to_string().as_bytes());
    part(&[u8::from(reading.labelled), u8::from(reading.training)]);
    part(&(reading.most as u64).to_le_bytes());
    let path = task.file(place);
    part(path.to_string_lossy().as_bytes());
    content(&path, &mut part)?;
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Hashes a file, or all files below a directory in the order of their names.
fn content(path: &Path, part: &mut impl FnMut(&[u8])) -> Result<()> {
    if !path.is_dir() {
        part(&std::fs::read(path).map_err(|e| Error::io("read", path, e))?);
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        part(path.to_string_lossy().as_bytes());
        content(&path, part)?;
    }
    Ok(())
}

/// `None` when there is no such file or it is damaged; it is converted again then.
fn read(path: &Path) -> Option<Dataset> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, body) = bytes.split_at_checked(32)?;
    let intact = Sha256::digest(body).as_slice() == hash;
    let found = intact.then(|| postcard::from_bytes(body).ok()).flatten();
    if found.is_none() {
        tracing::warn!("{} is damaged, or of another version: it is made again", path.display());
    }
    found
}

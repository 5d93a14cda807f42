//! TensorFlow checkpoints of version 2, "bundles", read and written without TensorFlow.
//!
//! A bundle called `P` is `P.index`, a sorted table of names, and one or several shards
//! `P.data-00000-of-00001` with the bytes of the tensors, little-endian and row-major. Graphs (`P.meta`) are not read.
//! Every block of the table and every tensor has a check sum, and all of them are verified.

mod proto;
mod table;
mod write;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub use write::{BundleTensor, StoredTensor, write_bundle};

use super::tensor_source::{TensorInfo, TensorSource, floats};
use crate::atomic::directory_of;
use crate::checksum::{masked_crc, matches};
use crate::tensor::DType;
use crate::{Error, Result};
use proto::{Element, Entry, Header};

/// Longest index that is read: a thousand times that of XLNet-Large with its optimiser.
const INDEX_LIMIT: u64 = 1 << 28; // bytes

/// An open bundle.
#[derive(Debug)]
pub struct TfBundle {
    prefix: PathBuf,
    index: PathBuf,
    entries: BTreeMap<String, Entry>,
    shards: BTreeMap<u32, Shard>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

/// `path` with `suffix` behind its name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The prefix that a user means who names any file of a bundle; `None` when no index is there.
pub fn bundle_prefix(named: &Path) -> Option<PathBuf> {
    let there = |prefix: &Path| with_suffix(prefix, ".index").is_file();
    if there(named) {
        return Some(named.to_owned());
    }
    let name = named.file_name()?.to_str()?;
    let ends = [".index", ".meta", ".data"].into_iter().filter_map(|end| name.strip_suffix(end));
    let shard = name.rfind(".data-").map(|at| &name[..at]);
    ends.chain(shard).map(|stem| named.with_file_name(stem)).find(|prefix| there(prefix))
}

/// True when the file is a checkpoint of TensorFlow's first version: one table in one file.
///
/// # Errors
/// When it cannot be read.
pub fn is_version_1(path: &Path) -> Result<bool> {
    let io = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(io)?;
    if file.seek(SeekFrom::End(0)).map_err(io)? < 8 {
        return Ok(false);
    }
    let mut tail = [0; 8];
    file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut tail)).map_err(io)?;
    Ok(table::has_magic(&tail))
}

/// What a user can do about a checkpoint of the first version.
pub fn version_1(path: &Path) -> Error {
    let what = "is a TensorFlow checkpoint of version 1, which is not read; load it in TensorFlow 1 and save it with \
                tf.train.Saver(write_version=tf.train.SaverDef.V2)";
    Error::data(path, what)
}

impl TfBundle {
    /// Opens the bundle called `prefix`: reads the index, verifies its check sums, finds the shards, and checks that
    /// every tensor lies inside its shard and is as long as its shape says.
    ///
    /// A single shard may have lost its suffix, as in the zips of Chinese-XLNet: `P.data`, `P` itself, or the only
    /// `*.data-00000-of-00001` of the directory are taken for it.
    ///
    /// # Errors
    /// When a file is missing, damaged or of another format.
    pub fn open(prefix: &Path) -> Result<Self> {
        let index = with_suffix(prefix, ".index");
        let bytes = read_index(&index)?;
        let damaged = |what: String| {
            let hint = "copy or download it again";
            Error::data(&index, format!("not a whole index of a TensorFlow checkpoint: {what}; {hint}"))
        };
        let table = table::read_table(&bytes).map_err(damaged)?;
        let mut pairs = table.into_iter();
        let header = pairs.next().filter(|(key, _)| key.is_empty());
        let (_, header) = header.ok_or_else(|| damaged("it has no header".into()))?;
        if proto::is_version_1(&header) {
            return Err(version_1(&index));
        }
        let header = Header::parse(&header).map_err(damaged)?;
        if header.big_endian {
            return Err(Error::data(&index, "was written on a big-endian machine, which is not read"));
        }
        let mut entries = BTreeMap::new();
        for (key, value) in pairs {
            // Parts of partitioned variables have binary keys; their owner says so itself.
            if key.first() == Some(&0) {
                continue;
            }
            let name = String::from_utf8(key).map_err(|_| damaged("a name is not UTF-8".into()))?;
            let entry = Entry::parse(&value).map_err(|what| damaged(format!("{name}: {what}")))?;
            if !entry.sliced && entry.shard >= header.shards {
                let (at, n) = (entry.shard, header.shards);
                return Err(damaged(format!("{name} lies in shard {at}, but there are {n}")));
            }
            entries.insert(name, entry);
        }
        let mut bundle = TfBundle { prefix: prefix.to_owned(), index, entries, shards: BTreeMap::new() };
        bundle.open_shards(header.shards)?;
        Ok(bundle)
    }

    fn open_shards(&mut self, count: u32) -> Result<()> {
        let mut needed = BTreeMap::new(); // shard to its least length
        for (name, entry) in self.entries.iter().filter(|(_, entry)| !entry.sliced) {
            let damaged = |what: String| Error::data(&self.index, format!("tensor {name} {what}"));
            let end = entry.offset.checked_add(entry.size).ok_or_else(|| damaged("ends beyond any file".into()))?;
            if let Some(size) = entry.expected_size()
                && size != Some(entry.size)
            {
                let (shape, got) = (&entry.shape, entry.size);
                return Err(damaged(format!("of shape {shape:?} is said to have {got} bytes, which does not fit")));
            }
            let most: &mut u64 = needed.entry(entry.shard).or_default();
            *most = end.max(*most);
        }
        for (shard, least) in needed {
            let path = self.shard_path(shard, count)?;
            let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
            let length = file.metadata().map_err(|e| Error::io("read", &path, e))?.len();
            if length < least {
                let what =
                    format!("has {length} bytes, but {} needs {least}; copy or download it", self.index.display());
                return Err(Error::data(path, what + " again"));
            }
            self.shards.insert(shard, Shard { path, file });
        }
        Ok(())
    }

    fn shard_path(&self, shard: u32, count: u32) -> Result<PathBuf> {
        let path = with_suffix(&self.prefix, &shard_suffix(shard, count));
        if path.is_file() || count != 1 {
            return Ok(path);
        }
        let mut found: Vec<PathBuf> = [with_suffix(&self.prefix, ".data"), self.prefix.clone()]
            .into_iter()
            .filter(|path| path.is_file())
            .collect();
        if found.is_empty() {
            let suffix = shard_suffix(0, 1);
            let directory = directory_of(&self.prefix);
            let entries = std::fs::read_dir(directory).map_err(|e| Error::io("read", directory, e))?;
            let named = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(&suffix));
            found = entries.flatten().map(|entry| entry.path()).filter(named).collect();
        }
        match &found[..] {
            [one] => {
                // The check sums of the tensors prove the guess right or wrong.
                tracing::info!(file = %one.display(), "taken for the data of {}", self.prefix.display());
                Ok(one.clone())
            }
            _ => {
                let what = format!("its data are missing: there is no {}; put it beside the index", path.display());
                Err(Error::data(&self.index, what))
            }
        }
    }

    /// The name that all its files begin with.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.entries.get(name).ok_or_else(|| Error::data(&self.index, format!("has no tensor {name}")))?;
        if entry.sliced {
            let what = format!(
                "tensor {name} is stored in slices (a partitioned variable), which are not read; save it from \
                 TensorFlow without a partitioner"
            );
            return Err(Error::data(&self.index, what));
        }
        Ok(entry)
    }

    /// Bytes of a tensor as they lie in the file, little-endian; their check sum is verified.
    ///
    /// # Errors
    /// When there is no such tensor, it is stored in slices, or it is damaged.
    pub fn read_bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let Entry { shard, offset, size, crc, .. } = self.entry(name)?.clone();
        let Some(shard) = self.shards.get_mut(&shard) else {
            return Err(Error::data(&self.index, format!("tensor {name} has no shard")));
        };
        let io = |e| Error::io("read", &shard.path, e);
        shard.file.seek(SeekFrom::Start(offset)).map_err(io)?;
        let mut bytes = vec![0; size as usize]; // inside the file, as `open` has checked
        shard.file.read_exact(&mut bytes).map_err(io)?;
        if !matches(crc, masked_crc(&bytes)) {
            let what = format!("tensor {name} is damaged: its check sum does not match; copy or download the file");
            return Err(Error::data(&shard.path, what + " again"));
        }
        Ok(bytes)
    }

    /// A tensor as it is, to be written into another bundle.
    ///
    /// # Errors
    /// As [`Self::read_bytes`], and when its elements have no fixed size.
    pub fn stored(&mut self, name: &str) -> Result<StoredTensor> {
        let Entry { element, shape, .. } = self.entry(name)?.clone();
        if element.size().is_none() {
            return Err(Error::data(&self.index, format!("tensor {name} holds {element}, which is not copied")));
        }
        Ok(StoredTensor { element, shape, bytes: self.read_bytes(name)? })
    }

    /// The value of a scalar of 64-bit integers, such as `global_step`; `None` when there is none of that name.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn read_i64(&mut self, name: &str) -> Result<Option<i64>> {
        match self.entries.get(name) {
            Some(Entry { element: Element::I64, shape, sliced: false, .. }) if shape.is_empty() => {}
            _ => return Ok(None),
        }
        let bytes = self.read_bytes(name)?;
        Ok(bytes.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)))
    }
}

fn shard_suffix(shard: u32, count: u32) -> String {
    format!(".data-{shard:05}-of-{count:05}")
}

fn read_index(path: &Path) -> Result<Vec<u8>> {
    let io = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length > INDEX_LIMIT {
        return Err(Error::data(path, format!("has {length} bytes, too many for an index of a TensorFlow checkpoint")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(INDEX_LIMIT).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

impl TensorSource for TfBundle {
    fn path(&self) -> &Path {
        &self.index
    }
    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let entry = self.entries.get(name)?;
        let slices = if entry.sliced { " in slices" } else { "" };
        Some(TensorInfo { shape: entry.shape.clone(), dtype: format!("{}{slices}", entry.element) })
    }
    fn read_f32(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let dtype = match self.entry(name)?.element {
            Element::F32 => DType::F32,
            Element::F64 => DType::F64,
            Element::F16 => DType::F16,
            Element::Bf16 => DType::Bf16,
            _ => return Ok(None),
        };
        Ok(floats(dtype, &self.read_bytes(name)?))
    }
}

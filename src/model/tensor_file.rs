//! safetensors files: read with every number of the header checked against the file's length before anything is
//! allocated, written tensor by tensor so that a model never exists twice in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo as StoredInfo};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

pub use safetensors::Dtype;

use super::tensor_source::{TensorInfo, TensorSource, floats};
use crate::atomic::temporary_beside;
use crate::tensor::DType;
use crate::{Error, Result};

/// Longest header that is parsed, the limit of the `safetensors` crate.
const HEADER_LIMIT: u64 = 100_000_000; // bytes

/// An open safetensors file whose header has been checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where tensor data begins.
    data: u64, // bytes
}

impl TensorFile {
    /// Opens a file and checks its header: lengths, offsets without gap or overlap, shapes that fit their bytes, and
    /// the end of the last tensor at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read, is truncated or damaged, or its header lies.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let damaged = |what: String| {
            Error::data(path, format!("not a whole safetensors file: {what}; copy or download it again"))
        };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let rest = length.checked_sub(8).ok_or_else(|| damaged(format!("{length} bytes hold no header")))?;
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(io)?;
        let size = u64::from_le_bytes(prefix);
        if size > rest.min(HEADER_LIMIT) {
            return Err(damaged(format!("its header claims {size} bytes, but the file has {length}")));
        }
        let mut text = vec![0; size as usize];
        file.read_exact(&mut text).map_err(io)?;
        // The crate's deserialiser checks that tensors follow each other and that shapes fit offsets.
        let header: Metadata = serde_json::from_slice(&text).map_err(|e| damaged(format!("its header: {e}")))?;
        let (expected, got) = (header.data_len() as u64, rest - size);
        if expected != got {
            return Err(damaged(format!("its header describes {expected} bytes of tensors, but {got} follow")));
        }
        Ok(TensorFile { path: path.to_owned(), file, header, data: 8 + size })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Names of all tensors, in the order of their data.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }
    /// Shape and element type of a tensor, when there is one of that name.
    pub fn info(&self, name: &str) -> Option<(&[usize], Dtype)> {
        self.header.info(name).map(|info| (info.shape.as_slice(), info.dtype))
    }
    /// Bytes of a tensor as they lie in the file (little-endian).
    ///
    /// # Errors
    /// When there is no such tensor or the file cannot be read.
    pub fn read_bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::data(&self.path, format!("has no tensor {name}"));
        let (from, to) = self.header.info(name).ok_or_else(missing)?.data_offsets;
        let io = |e| Error::io("read", &self.path, e);
        self.file.seek(SeekFrom::Start(self.data + from as u64)).map_err(io)?;
        let mut bytes = vec![0; to - from]; // inside the file, as `open` has checked
        self.file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }
    /// Elements of a floating-point tensor in single precision; `None` when it holds something else.
    ///
    /// # Errors
    /// When there is no such tensor or the file cannot be read.
    pub fn read_f32(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let dtype = match self.info(name) {
            Some((_, Dtype::F32)) => DType::F32,
            Some((_, Dtype::F64)) => DType::F64,
            Some((_, Dtype::F16)) => DType::F16,
            Some((_, Dtype::BF16)) => DType::Bf16,
            Some(_) => return Ok(None),
            None => return Err(Error::data(&self.path, format!("has no tensor {name}"))),
        };
        Ok(floats(dtype, &self.read_bytes(name)?))
    }
}

impl TensorSource for TensorFile {
    fn path(&self) -> &Path {
        &self.path
    }
    fn names(&self) -> Vec<String> {
        TensorFile::names(self)
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (shape, dtype) = TensorFile::info(self, name)?;
        Some(TensorInfo { shape: shape.to_vec(), dtype: dtype.to_string() })
    }
    fn read_f32(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        TensorFile::read_f32(self, name)
    }
}

/// What the header of a new file says about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its element type.
    pub dtype: Dtype,
}

/// The file format's name of an element type.
pub fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
    }
}

/// Writes a safetensors file atomically. `fill` is asked for each entry's bytes in order, and appends them to an empty
/// buffer. Returns the SHA-256 of the file in hexadecimal.
///
/// # Errors
/// Those of `fill`; when `fill` gives another number of bytes than the entry says; when the disk refuses.
pub fn write_tensor_file(
    path: &Path,
    entries: &[TensorEntry],
    mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>,
) -> Result<String> {
    let bad = |what: String| Error::data(path, format!("cannot be written: {what}"));
    let mut at = 0usize;
    let mut infos = Vec::with_capacity(entries.len());
    for entry in entries {
        let bytes = entry.shape.iter().try_fold(entry.dtype.bitsize() / 8, |all, &d| all.checked_mul(d));
        let end = bytes.and_then(|bytes| at.checked_add(bytes));
        let end = end.ok_or_else(|| bad(format!("tensor {} of shape {:?} is too big", entry.name, entry.shape)))?;
        let info = StoredInfo { dtype: entry.dtype, shape: entry.shape.clone(), data_offsets: (at, end) };
        infos.push((entry.name.clone(), info));
        at = end;
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]); // `transformers` refuses files without it
    let header = Metadata::new(Some(format), infos).map_err(|e| bad(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| bad(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' '); // keeps data aligned
    write_file(path, |out| {
        let mut buffer = vec![];
        let io = |e| Error::io("write", path, e);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        out.write_all(&header).map_err(io)?;
        for (i, entry) in entries.iter().enumerate() {
            buffer.clear();
            fill(i, &mut buffer)?;
            let expected = entry.shape.iter().product::<usize>() * entry.dtype.bitsize() / 8;
            if buffer.len() != expected {
                let (name, got) = (&entry.name, buffer.len());
                return Err(bad(format!("tensor {name} must have {expected} bytes, but has {got}")));
            }
            out.write_all(&buffer).map_err(io)?;
        }
        Ok(())
    })
}

/// Writes a file atomically and durably: a temporary file beside it, synced, then renamed. Returns the SHA-256 of what
/// was written, in hexadecimal.
///
/// # Errors
/// Those of `body`, and when the disk refuses; the temporary file is gone then and an older file untouched.
pub fn write_file(path: &Path, body: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<String> {
    let io = |e| Error::io("write", path, e);
    let file = temporary_beside(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, Hashing { file, hash: Sha256::new() });
    body(&mut out)?;
    let Hashing { file, hash } = out.into_inner().map_err(|e| io(e.into_error()))?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(format!("{:x}", hash.finalize()))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let io = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(format!("{:x}", hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}

struct Hashing {
    file: NamedTempFile,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

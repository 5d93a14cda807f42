//! PyTorch's `pytorch_model.bin`, in today's zip layout and in the one before version 1.6.
//!
//! The pickle inside is interpreted by `pytorch-reader`, which knows the few constructors that tensors are made of and
//! runs nothing else.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType as TorchType, PytorchReader};

use super::tensor_source::{TensorInfo, TensorSource, floats};
use crate::tensor::DType;
use crate::{Error, Result};

/// How often all tensors together may hold the bytes of the file: tied ones share theirs.
const SHARING: u64 = 4;

/// An open file of PyTorch.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    reader: PytorchReader,
}

impl TorchFile {
    /// Opens a file and reads its pickle; tensors are read when they are asked for.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, holds anything but a dictionary of dense tensors, or claims more than
    /// it can hold.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let length = std::fs::metadata(path).map_err(io)?.len();
        let reader = PytorchReader::new(path).map_err(|e| damaged(path, &e))?;
        // Views may repeat a storage without end, so the file's own size is the measure.
        let mut all = 0u64;
        for tensor in reader.tensors().values() {
            let size = tensor.shape().iter().try_fold(tensor.dtype().size(), |all, &dim| all.checked_mul(dim));
            all = size.map_or(u64::MAX, |size| all.saturating_add(size as u64));
        }
        if all > length.saturating_mul(SHARING) {
            return Err(damaged(path, &format!("its tensors claim {all} bytes, but the file has {length}")));
        }
        Ok(TorchFile { path: path.to_owned(), reader })
    }
}

/// The reader's message as one sentence.
fn damaged(path: &Path, what: &dyn Display) -> Error {
    let what = what.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut what: String = what.chars().take(300).collect(); // it may quote the file
    what = what.trim_end_matches('.').to_owned();
    Error::data(path, format!("not a whole PyTorch file of tensors: {what}; copy or download it again"))
}

impl TensorSource for TorchFile {
    fn path(&self) -> &Path {
        &self.path
    }
    fn names(&self) -> Vec<String> {
        let mut names = self.reader.keys();
        names.sort();
        names
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.reader.get(name)?;
        Some(TensorInfo { shape: tensor.shape().to_vec(), dtype: format!("{:?}", tensor.dtype()) })
    }
    fn read_f32(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let tensor = self.reader.get(name);
        let tensor = tensor.ok_or_else(|| Error::data(&self.path, format!("has no tensor {name}")))?;
        let dtype = match tensor.dtype() {
            TorchType::F32 => DType::F32,
            TorchType::F64 => DType::F64,
            TorchType::F16 => DType::F16,
            TorchType::BF16 => DType::Bf16,
            _ => return Ok(None),
        };
        let mut bytes = tensor.read().map_err(|e| damaged(&self.path, &e))?;
        if bytes.len() != tensor.byte_len() {
            let (expected, got) = (tensor.byte_len(), bytes.len());
            return Err(damaged(&self.path, &format!("tensor {name} must have {expected} bytes, but has {got}")));
        }
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse); // they come in the machine's order
        }
        Ok(floats(dtype, &bytes))
    }
}

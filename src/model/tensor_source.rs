//! What files of tensors have in common, whatever their format: safetensors, TensorFlow bundles, PyTorch files.

use std::path::Path;

use half::{bf16, f16};

use crate::Result;
use crate::tensor::DType;

/// Shape and element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The format's name of the element type.
    pub dtype: String,
}

/// A file, or several that belong together, from which tensors are read by name.
pub trait TensorSource {
    /// The file, for messages.
    fn path(&self) -> &Path;
    /// Names of all tensors.
    fn names(&self) -> Vec<String>;
    /// Shape and element type of a tensor, when there is one of that name.
    fn info(&self, name: &str) -> Option<TensorInfo>;
    /// Elements of a floating-point tensor in single precision, row-major; `None` when it holds something else.
    ///
    /// # Errors
    /// When there is no such tensor, it is damaged, or the file cannot be read.
    fn read_f32(&mut self, name: &str) -> Result<Option<Vec<f32>>>;
}

/// Little-endian elements in single precision; `None` when `dtype` is no floating-point type.
pub(super) fn floats(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        DType::F32 => elements(bytes, f32::from_le_bytes),
        DType::F64 => elements(bytes, |b| f64::from_le_bytes(b) as f32),
        DType::F16 => elements(bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => elements(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        DType::I32 | DType::U32 => return None,
    })
}

fn elements<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)).collect()
}

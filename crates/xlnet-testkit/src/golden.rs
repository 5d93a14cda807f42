//! Cases computed by outside implementations: safetensors files whose `case` metadata says in JSON what they are.
//!
//! They lie in `tests/golden/<kind>/`, and in `<directory>/<kind>/` of every directory that the environment variable
//! `XLNET_GOLDEN` names (colon separated). Any of these folders may be absent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};

/// Elements of a stored tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// Bytes and truth values.
    U8(Vec<u8>),
}

impl Data {
    /// As double-precision numbers, whatever they are stored as.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Data::F32(values) => values.iter().map(|&x| x.into()).collect(),
            Data::F64(values) => values.clone(),
            Data::I32(values) => values.iter().map(|&x| x.into()).collect(),
            Data::I64(values) => values.iter().map(|&x| x as f64).collect(),
            Data::U8(values) => values.iter().map(|&x| x.into()).collect(),
        }
    }
    /// As 32-bit integers; fractions are cut off.
    pub fn to_i32(&self) -> Vec<i32> {
        match self {
            Data::I32(values) => values.clone(),
            other => other.to_f64().iter().map(|&x| x as i32).collect(),
        }
    }
}

/// One stored case.
#[derive(Clone, Debug)]
pub struct Case {
    /// File stem.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The `case` metadata; null where there is none.
    pub meta: serde_json::Value,
    /// Shape and elements by name.
    pub tensors: HashMap<String, (Vec<usize>, Data)>,
}

impl Case {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// When it cannot be read, or holds element types that no case uses.
    pub fn read(path: &Path) -> Result<Case> {
        let place = || path.display().to_string();
        let bytes = std::fs::read(path).with_context(place)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).with_context(place)?;
        let meta = header.metadata().as_ref().and_then(|m| m.get("case"));
        let meta = meta.map_or(Ok(serde_json::Value::Null), |text| serde_json::from_str(text)).with_context(place)?;
        let file = SafeTensors::deserialize(&bytes).with_context(place)?;
        let mut tensors = HashMap::new();
        for (name, view) in file.tensors() {
            let data = data(view.dtype(), view.data()).with_context(|| format!("{}: {name}", place()))?;
            tensors.insert(name, (view.shape().to_vec(), data));
        }
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Case { name, path: path.to_owned(), meta, tensors })
    }
    /// Shape and elements of a tensor.
    ///
    /// # Errors
    /// When the case has none of that name.
    pub fn tensor(&self, name: &str) -> Result<&(Vec<usize>, Data)> {
        self.tensors.get(name).with_context(|| format!("{} has no tensor {name}", self.path.display()))
    }
    /// A whole number of the metadata.
    ///
    /// # Errors
    /// When it is not there.
    pub fn size(&self, key: &str) -> Result<usize> {
        let size = self.meta[key].as_u64().with_context(|| format!("{}: no {key} in `case`", self.path.display()))?;
        Ok(size as usize)
    }
}

fn data(dtype: Dtype, bytes: &[u8]) -> Result<Data> {
    fn each<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks().0.iter().map(|chunk| from(*chunk)).collect()
    }
    Ok(match dtype {
        Dtype::F32 => Data::F32(each(bytes, f32::from_le_bytes)),
        Dtype::F64 => Data::F64(each(bytes, f64::from_le_bytes)),
        Dtype::I32 => Data::I32(each(bytes, i32::from_le_bytes)),
        Dtype::I64 => Data::I64(each(bytes, i64::from_le_bytes)),
        Dtype::U8 | Dtype::BOOL => Data::U8(bytes.to_vec()),
        other => bail!("element type {other:?} is not used by golden cases"),
    })
}

/// Everything in the folders of `kind` ("attention", "train", "hf"), sorted by name within each folder.
///
/// # Errors
/// When a folder that exists cannot be listed, or `XLNET_GOLDEN` names a directory that does not.
pub fn entries(kind: &str) -> Result<Vec<PathBuf>> {
    let mut roots = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")];
    if let Some(more) = std::env::var_os("XLNET_GOLDEN") {
        for root in std::env::split_paths(&more).filter(|root| !root.as_os_str().is_empty()) {
            ensure!(root.is_dir(), "XLNET_GOLDEN names {}, which is no directory", root.display());
            roots.push(root);
        }
    }
    let mut all = vec![];
    for folder in roots.iter().map(|root| root.join(kind)).filter(|folder| folder.is_dir()) {
        let place = || folder.display().to_string();
        let listing = std::fs::read_dir(&folder).with_context(place)?;
        let mut paths =
            listing.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(place)?;
        paths.sort();
        all.extend(paths);
    }
    Ok(all)
}

/// All safetensors cases of `kind`.
///
/// # Errors
/// When a case cannot be read.
pub fn cases(kind: &str) -> Result<Vec<Case>> {
    let files = entries(kind)?;
    files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| Case::read(path))
        .collect()
}

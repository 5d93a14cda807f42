//! Bundles written: one shard, its tensors in the order of their names, and the index.

use std::collections::BTreeMap;
use std::path::Path;

use super::proto::{Element, Entry, Header};
use super::table::write_table;
use super::{shard_suffix, with_suffix};
use crate::checksum::masked_crc;
use crate::model::tensor_file::write_file;
use crate::{Error, Result};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum BundleTensor {
    /// Single precision, row-major.
    F32 {
        /// Dimensions, outermost first.
        shape: Vec<usize>,
        /// Elements.
        values: Vec<f32>,
    },
    /// A scalar of 64 bits.
    I64(i64),
    /// As it was in another bundle.
    Stored(StoredTensor),
}

/// A tensor of any type, with the bytes that it has in its bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

/// Writes the bundle called `prefix`: `prefix.data-00000-of-00001` first, so that an index is always that of whole
/// data, then `prefix.index`. `tensor` is asked for each name's content, one at a time.
///
/// # Errors
/// Those of `tensor`, and when the disk refuses.
pub fn write_bundle(
    prefix: &Path,
    names: &[String],
    mut tensor: impl FnMut(&str) -> Result<BundleTensor>,
) -> Result<()> {
    let mut entries: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    sorted.dedup();
    let data = with_suffix(prefix, &shard_suffix(0, 1));
    write_file(&data, |out| {
        let mut offset = 0;
        for name in sorted {
            let (element, shape, bytes) = match tensor(name)? {
                BundleTensor::I64(value) => (Element::I64, vec![], value.to_le_bytes().to_vec()),
                BundleTensor::Stored(StoredTensor { element, shape, bytes }) => (element, shape, bytes),
                BundleTensor::F32 { shape, values } => {
                    if values.len() != shape.iter().product::<usize>() {
                        let got = values.len();
                        return Err(Error::data(&data, format!("{name} of shape {shape:?} has {got} elements")));
                    }
                    (Element::F32, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
                }
            };
            let (size, crc) = (bytes.len() as u64, masked_crc(&bytes));
            out.write_all(&bytes).map_err(|e| Error::io("write", &data, e))?;
            let entry = Entry { element, shape, shard: 0, offset, size, crc, sliced: false };
            entries.insert(name.as_bytes(), entry.write());
            offset += size;
        }
        Ok(())
    })?;
    entries.insert(b"", Header { shards: 1, big_endian: false }.write());
    let table = write_table(entries);
    let index = with_suffix(prefix, ".index");
    write_file(&index, |out| out.write_all(&table).map_err(|e| Error::io("write", &index, e)))?;
    Ok(())
}

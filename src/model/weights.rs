//! Parameters on the host, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::tensor_source::TensorSource;
use crate::{Error, Result};

/// Values of one tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub values: Vec<f32>,
}

impl Weight {
    /// The transpose of a matrix; other shapes stay as they are.
    pub fn transposed(&self) -> Weight {
        let [rows, columns] = self.shape[..] else { return self.clone() };
        let mut values = Vec::with_capacity(self.values.len());
        for column in 0..columns {
            values.extend((0..rows).map(|row| self.values[row * columns + column]));
        }
        Weight { shape: vec![columns, rows], values }
    }
    /// True when both have the same shape and bits; a NaN equals itself.
    pub fn same_bits(&self, other: &Weight) -> bool {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        self.shape == other.shape && self.values.iter().zip(&other.values).all(same)
    }
}

/// Weights of a model by parameter name, as a file or a device gave them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelWeights {
    /// Where they come from, for messages.
    pub source: PathBuf,
    /// Tensors by the names of our parameters.
    pub tensors: BTreeMap<String, Weight>,
    /// What the source calls a tensor, by the name of our parameter, where the names differ.
    pub origins: BTreeMap<String, String>,
    /// Tensors of the source that were left out, by the source's names, with the reason.
    pub ignored: Vec<(String, String)>,
}

impl ModelWeights {
    /// Adds the tensor that `source` calls `stored` under the name of our parameter; what holds no floating-point
    /// numbers is ignored.
    pub(super) fn add(&mut self, source: &mut dyn TensorSource, stored: &str, name: &str) -> Result<()> {
        let missing = || Error::data(source.path(), format!("has no tensor {stored}, which the index says it has"));
        let info = source.info(stored).ok_or_else(missing)?;
        let Some(values) = source.read_f32(stored)? else {
            self.ignored.push((stored.to_owned(), format!("holds {}, not floating-point numbers", info.dtype)));
            return Ok(());
        };
        if self.tensors.insert(name.to_owned(), Weight { shape: info.shape, values }).is_some() {
            return Err(Error::data(source.path(), format!("holds {name} twice, under two names")));
        }
        self.note_origin(name, stored);
        Ok(())
    }
    /// Remembers what the source calls a tensor.
    pub(super) fn note_origin(&mut self, name: &str, stored: &str) {
        if name != stored {
            self.origins.insert(name.to_owned(), stored.to_owned());
        }
    }
    /// What the source calls the parameter `name`.
    pub fn origin(&self, name: &str) -> String {
        self.origins.get(name).map_or(name, String::as_str).to_owned()
    }
    /// The layers that have weights, in order.
    pub(super) fn layers(&self) -> BTreeSet<usize> {
        self.tensors.keys().filter_map(|name| layer_of(name)).collect()
    }
}

/// The layer that a parameter belongs to by its name.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("transformer.layer.")?.split('.').next()?.parse().ok()
}

/// Which optimiser moments belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Adam with bias correction.
    Adam,
    /// AdamWeightDecay without.
    AdamWeightDecay,
}

/// State of the optimiser on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Updates done.
    pub step: u64,
    /// Which optimiser; `None` when the source does not tell.
    pub kind: Option<OptimizerKind>,
    /// First moments by parameter name.
    pub first: BTreeMap<String, Weight>,
    /// Second moments by parameter name.
    pub second: BTreeMap<String, Weight>,
}

//! Moments of the optimiser from one checkpoint into another run: those of a training checkpoint, those of the original.

use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, OPTIMIZER_FILE};
use super::step::StepProgram;
use crate::backend::Executor;
use crate::model::tensor_file::TensorFile;
use crate::model::weights::{OptimizerKind, OptimizerState, Weight};
use crate::{Error, Result};

/// How the program calls both moments of a parameter.
const PREFIXES: [&str; 2] = ["adam_m/", "adam_v/"];

impl Checkpoint {
    /// State of the optimiser.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn optimizer(&self) -> Result<Option<OptimizerState>> {
        let mut file = TensorFile::open(&self.path().join(OPTIMIZER_FILE))?;
        let mut moments = [BTreeMap::new(), BTreeMap::new()];
        for stored in file.names() {
            let found = PREFIXES.iter().position(|prefix| stored.starts_with(prefix));
            let (Some(which), Some((shape, _))) = (found, file.info(&stored)) else { continue };
            let shape = shape.to_vec();
            if let Some(values) = file.read_f32(&stored)? {
                moments[which].insert(stored[PREFIXES[which].len()..].to_owned(), Weight { shape, values });
            }
        }
        let [first, second] = moments;
        if first.is_empty() && second.is_empty() {
            return Ok(None);
        }
        let decay = self.state().settings.get("weight_decay").and_then(serde_json::Value::as_f64);
        let kind = decay.map(|x| if x > 0.0 { OptimizerKind::AdamWeightDecay } else { OptimizerKind::Adam });
        Ok(Some(OptimizerState { step: self.state().step, kind, first, second }))
    }
}

/// Uploads moments; returns how many trained parameters have none, whose moments stay zeros. Nothing is uploaded unless
/// everything fits.
///
/// # Errors
/// When a moment has another shape than its parameter, or the device fails.
pub fn load_moments(exec: &mut dyn Executor, step: &StepProgram, state: &OptimizerState) -> Result<usize> {
    let trained = step.update.iter().flat_map(|update| &update.trained);
    let (mut found, mut missing) = (vec![], 0);
    for tensors in trained {
        let desc = step.program.tensor(tensors.param);
        for (moments, id) in [(&state.first, tensors.m), (&state.second, tensors.v)] {
            match moments.get(&desc.name) {
                Some(weight) if weight.shape == desc.shape.dims() => found.push((id, weight)),
                Some(weight) => {
                    return Err(Error::shape("moments", &desc.name, desc.shape, format!("{:?}", weight.shape)));
                }
                None => missing += 1,
            }
        }
    }
    for (id, weight) in found {
        exec.upload_f32(id, &weight.values)?;
    }
    Ok(missing / 2)
}

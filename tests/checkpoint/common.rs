//! A device that only stores, tiny programs, small helpers.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use xlnet::backend::{Executor, OpTime};
use xlnet::config::{FeedForwardActivation, XlnetConfig};
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::hugging_face::*;
use xlnet::model::{QueryKind, TransformerOptions};
use xlnet::program::{Plan, Program};
use xlnet::tensor::{DType, TensorId};
use xlnet::train::init::{InitOptions, initialize};
use xlnet::train::load::download_weights;
use xlnet::train::step::{Objective, OptimizerOptions, StepOptions, StepProgram};
use xlnet::{Error, Result};

/// Holds bytes, computes nothing.
pub struct Store {
    program: Arc<Program>,
    plan: Plan,
    pub bytes: HashMap<TensorId, Vec<u8>>,
    /// Reads that succeed before the device fails.
    pub reads_left: usize,
}

impl Store {
    pub fn new(step: &StepProgram) -> Self {
        let program = step.program.clone();
        let plan = Plan::new(&program, &|_| 0);
        Store { program, plan, bytes: HashMap::new(), reads_left: usize::MAX }
    }
    /// Random bits in every persistent tensor, NaNs among them.
    pub fn random(step: &StepProgram, seed: u64) -> Self {
        let mut store = Store::new(step);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for id in persistent(step) {
            let mut bytes = vec![0; step.program.tensor(id).bytes()];
            rng.fill_bytes(&mut bytes);
            store.bytes.insert(id, bytes);
        }
        store
    }
}

pub fn persistent(step: &StepProgram) -> Vec<TensorId> {
    let moments = step.update.iter().flat_map(|u| &u.trained).flat_map(|t| [t.m, t.v]);
    step.params.iter().chain(&step.memory).copied().chain(moments).collect()
}

impl Executor for Store {
    fn program(&self) -> &Arc<Program> {
        &self.program
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn held_bytes(&self) -> usize {
        0
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.program.tensor(id).bytes());
        self.bytes.insert(id, bytes.to_vec());
        Ok(())
    }
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()> {
        self.reads_left = self.reads_left.checked_sub(1).ok_or_else(|| Error::device("the device is gone"))?;
        match self.bytes.get(&id) {
            Some(from) => bytes.copy_from_slice(from),
            None => bytes.fill(0),
        }
        Ok(())
    }
    fn run(&mut self, _: Range<usize>) -> Result<()> {
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn open_beside(&mut self, _: Arc<Program>) -> Result<Box<dyn Executor>> {
        Err(Error::device("this is memory alone"))
    }
    fn profile(&mut self, _: bool) -> Vec<OpTime> {
        vec![]
    }
}

pub fn tiny(untie_r: bool) -> XlnetConfig {
    let ff_activation = FeedForwardActivation::Gelu;
    XlnetConfig { n_layer: 2, d_model: 8, n_head: 2, d_head: 4, d_inner: 12, ff_activation, untie_r, n_token: 20 }
}

pub fn build(config: &XlnetConfig, objective: Objective, training: bool) -> StepProgram {
    build_as(config, objective, training, DType::F32)
}
pub fn build_as(config: &XlnetConfig, objective: Objective, training: bool, float: DType) -> StepProgram {
    let language_model = objective == Objective::LanguageModel;
    let query = if language_model { QueryKind::Targets(2) } else { QueryKind::None };
    let memory = if language_model { 3 } else { 0 };
    let transformer = TransformerOptions { batch: 2, length: 6, memory, mem_len: memory, query, ..Default::default() };
    let optimizer = training.then(OptimizerOptions::default);
    let options = StepOptions { transformer, objective, accumulate: 1, float, optimizer };
    StepProgram::build(config, &options).expect("a program")
}

pub const SUMMARY: SummaryOptions = SummaryOptions { kind: SummaryType::Last, projection: true };
pub fn classes(classes: usize) -> Objective {
    Objective::Classification { classes, summary: SUMMARY }
}

pub fn settings(architecture: Architecture) -> HuggingFaceSettings {
    HuggingFaceSettings::new(architecture, &TransformerOptions::default())
}

/// Freshly initialised weights of a program.
pub fn weights(step: &StepProgram, seed: u64) -> ModelWeights {
    let mut exec = Store::new(step);
    initialize(&mut exec, step, &InitOptions { seed, ..Default::default() }).expect("initial values");
    download_weights(&mut exec, step).expect("weights")
}

pub fn message<T>(result: Result<T>) -> String {
    result.map(drop).expect_err("an error").to_string()
}

/// Writes a safetensors file by the library's own writer.
pub fn write_f32(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, x)| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    serialize_to_file(views, None, path).expect("a file");
}
pub fn listed(weights: &ModelWeights) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    weights.tensors.iter().map(|(name, w)| (name.clone(), w.shape.clone(), w.values.clone())).collect()
}

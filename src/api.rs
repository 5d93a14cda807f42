//! The original's abstraction in Rust: a configuration, how it is run, and a model that gives sequence output, pooled
//! output, new memory and the embedding table.
//!
//! ```
//! use xlnet::api::{Batch, RunConfig, XlnetModel};
//! use xlnet::config::XlnetConfig;
//! use xlnet::model::heads::SummaryType;
//!
//! let config = XlnetConfig { n_layer: 2, d_model: 32, n_head: 2, d_head: 16, d_inner: 64, n_token: 100, ..XlnetConfig::base() };
//! let run = RunConfig { batch: 2, length: 6, mem_len: 4, ..RunConfig::default() };
//! let mut model = XlnetModel::new(&config, &run)?; // XlnetModel::from_pretrained(dir, &run)? has trained weights
//! let batch = Batch {
//!     input_ids: vec![0, 0, 21, 22, 4, 3, 31, 32, 33, 34, 4, 3], // [B, L], padded on the left
//!     seg_ids: vec![4, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 2],
//!     input_mask: vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // 1 is padding
//! };
//! model.run(&batch)?;
//! assert_eq!(model.sequence_output()?.len(), 2 * 6 * 32); // [B, L, d]
//! assert_eq!(model.pooled_out(SummaryType::Last, true)?.len(), 2 * 32); // [B, d]
//! assert_eq!(model.embedding_table()?.len(), 100 * 32); // [V, d]
//! let memory = model.new_memory()?; // n_layer of [B, mem_len, d]
//! model.set_memory(&memory)?; // what the next segment sees; a run leaves it there anyway
//! # Ok::<(), xlnet::Error>(())
//! ```
//!
//! Tokenisation, as in the original's README:
//!
//! ```no_run
//! use xlnet::data::text::{TextOptions, preprocess_text};
//! use xlnet::data::tokenizer::Tokenizer;
//!
//! let tokenizer = Tokenizer::open("spiece.model")?;
//! let text = preprocess_text("An input text string.", &TextOptions { lower: false, ..TextOptions::default() });
//! let ids = tokenizer.encode_ids(&text)?;
//! # Ok::<(), xlnet::Error>(())
//! ```

use std::path::Path;

use crate::backend::Device;
use crate::config::{LAYER_NORM_EPS, XlnetConfig};
use crate::model::heads::SummaryType;
use crate::model::hugging_face::{ModelWeights, Weight};
use crate::model::{AttentionType, MaskKind, TransformerOptions};
use crate::tensor::DType;
use crate::train::import::{ImportOptions, import};
use crate::train::init::{InitOptions, initialize};
use crate::train::load::LoadOptions;
use crate::train::session::Session;
use crate::train::step::{Objective, StepOptions};
use crate::{Error, Result};

/// How a model is run; what the original calls a run config, without training.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Sequences of a batch, B.
    pub batch: usize,
    /// Tokens of a sequence, L.
    pub length: usize,
    /// Tokens of memory; 0 for none.
    pub mem_len: usize,
    /// How many first tokens are remembered; `None` is all.
    pub reuse_len: Option<usize>,
    /// Largest relative distance.
    pub clamp_len: Option<usize>,
    /// Direction of attention.
    pub attention: AttentionType,
    /// Where it runs.
    pub device: Device,
    /// Of weights that no file has.
    pub init: InitOptions,
}

impl Default for RunConfig {
    /// One sequence of 128 tokens without memory.
    fn default() -> Self {
        RunConfig {
            batch: 1,
            length: 128,
            mem_len: 0,
            reuse_len: None,
            clamp_len: None,
            attention: AttentionType::Bi,
            device: Device::Cpu,
            init: InitOptions::default(),
        }
    }
}

/// Inputs of one run, batch-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Tokens.
    pub input_ids: Vec<i32>, // [B, L]
    /// Segments.
    pub seg_ids: Vec<i32>, // [B, L]
    /// 1 is padding.
    pub input_mask: Vec<i32>, // [B, L]
}

/// A model on a device, for inference.
pub struct XlnetModel {
    config: XlnetConfig,
    session: Session,
    summary: Option<(Weight, Weight)>, // [d, d] output first, [d]
    init: InitOptions,
}

impl XlnetModel {
    /// A model with random weights.
    ///
    /// # Errors
    /// When sizes do not fit together or the device is missing.
    pub fn new(config: &XlnetConfig, run: &RunConfig) -> Result<Self> {
        let mut model = Self::build(config, run, LAYER_NORM_EPS)?;
        let (program, exec) = model.session.parts();
        initialize(exec, program, &run.init)?;
        Ok(model)
    }

    /// A model with the weights of any checkpoint: a Hugging Face directory, a checkpoint of the original, one of ours,
    /// or a zip of these.
    ///
    /// # Errors
    /// When files are missing or damaged, sizes do not fit together or the device is missing.
    pub fn from_pretrained(named: &Path, run: &RunConfig) -> Result<Self> {
        let there = import(named, &ImportOptions::default())?;
        let mut model = Self::build(&there.config, run, there.settings.layer_norm_eps)?;
        let (program, exec) = model.session.parts();
        there.load_into(exec, program, &LoadOptions { init: run.init, ..LoadOptions::default() })?;
        model.summary = summary(&there.weights);
        Ok(model)
    }

    fn build(config: &XlnetConfig, run: &RunConfig, layer_norm_eps: f32) -> Result<Self> {
        let transformer = TransformerOptions {
            batch: run.batch,
            length: run.length,
            memory: run.mem_len,
            mem_len: run.mem_len,
            reuse_len: run.reuse_len,
            clamp_len: run.clamp_len,
            attention: run.attention,
            mask: MaskKind::Padding,
            layer_norm_eps,
            ..TransformerOptions::default()
        };
        let options = StepOptions {
            transformer,
            objective: Objective::Hidden,
            accumulate: 1,
            float: DType::F32,
            optimizer: None,
        };
        let mut session = Session::new(config, options, run.device, 0)?;
        session.reset_memory()?;
        Ok(XlnetModel { config: config.clone(), session, summary: None, init: run.init })
    }

    /// The model's sizes.
    pub fn config(&self) -> &XlnetConfig {
        &self.config
    }

    /// Runs a batch; the memory on the device becomes that of the next segment.
    ///
    /// # Errors
    /// When inputs have another length than B * L, or the device fails.
    pub fn run(&mut self, batch: &Batch) -> Result<()> {
        self.session.input_i32("input_ids", &batch.input_ids)?;
        self.session.input_i32("segment_ids", &batch.seg_ids)?;
        self.session.input_i32("padding", &batch.input_mask)?;
        self.session.exec().run_phase("forward")
    }

    /// Hidden states of a layer `[B, L, d]`: 0 is the embedding, n_layer the output of the last layer.
    ///
    /// # Errors
    /// When there is no such layer, or the device fails.
    pub fn hidden_states(&mut self, layer: usize) -> Result<Vec<f32>> {
        let outputs = &self.session.program().outputs;
        let id = outputs.get(layer).copied().filter(|_| layer <= self.config.n_layer).ok_or_else(|| {
            Error::config(format!("layer {layer} is asked for, but the model has {}", self.config.n_layer))
        })?;
        self.session.exec().download_f32(id)
    }

    /// The last layer's output `[B, L, d]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn sequence_output(&mut self) -> Result<Vec<f32>> {
        self.hidden_states(self.config.n_layer)
    }

    /// One vector a sequence, `[B, d]`. The projection is a dense layer and tanh; no pretrained model has its weights,
    /// so it is random, and says so, unless a fine-tuned directory was opened.
    ///
    /// # Errors
    /// For the pooling by attention, which is part of fine-tuned programs only, or when the device fails.
    pub fn pooled_out(&mut self, kind: SummaryType, projection: bool) -> Result<Vec<f32>> {
        let (d, length) = (self.config.d_model, self.session.options().transformer.length);
        let states = self.sequence_output()?;
        let pool = |row: &[f32]| -> Result<Vec<f32>> {
            Ok(match kind {
                SummaryType::Last => row[(length - 1) * d..].to_vec(),
                SummaryType::First => row[..d].to_vec(),
                SummaryType::Mean => {
                    (0..d).map(|i| row.iter().skip(i).step_by(d).sum::<f32>() / length as f32).collect()
                }
                SummaryType::Attn => {
                    return Err(Error::config("pooling by attention is part of fine-tuned programs; use last or mean"));
                }
            })
        };
        let pooled = states.chunks(length * d).map(pool).collect::<Result<Vec<_>>>()?.concat();
        if !projection {
            return Ok(pooled);
        }
        let (weight, bias) = self.summary.get_or_insert_with(|| {
            tracing::warn!("the weights of the pooled output are random: fine-tune first, or do without projection");
            let fresh =
                |name: &str, shape: &[usize]| Weight { shape: shape.to_vec(), values: self.init.values(name, shape) };
            (fresh("sequence_summary.summary.weight", &[d, d]), fresh("sequence_summary.summary.bias", &[d]))
        });
        let project = |row: &[f32]| -> Vec<f32> {
            let outputs = weight.values.chunks(d).zip(&bias.values);
            outputs.map(|(w, b)| (w.iter().zip(row).map(|(w, x)| w * x).sum::<f32>() + b).tanh()).collect()
        };
        Ok(pooled.chunks(d).flat_map(project).collect())
    }

    /// Memories for the next segment, one a layer, `[B, mem_len, d]`; none without memory.
    ///
    /// # Errors
    /// When the device fails.
    pub fn new_memory(&mut self) -> Result<Vec<Vec<f32>>> {
        let ids = self.session.program().memory.clone();
        ids.into_iter().map(|id| self.session.exec().download_f32(id)).collect()
    }

    /// Replaces the memories that the next run sees.
    ///
    /// # Errors
    /// When there are not n_layer of them of the right length, or the device fails.
    pub fn set_memory(&mut self, memory: &[Vec<f32>]) -> Result<()> {
        let ids = self.session.program().memory.clone();
        if ids.len() != memory.len() {
            let (expected, got) = (ids.len(), memory.len());
            return Err(Error::config(format!("there must be {expected} memories, one a layer, but there are {got}")));
        }
        ids.into_iter().zip(memory).try_for_each(|(id, values)| self.session.exec().upload_f32(id, values))
    }

    /// The word embedding `[V, d]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn embedding_table(&mut self) -> Result<Vec<f32>> {
        let missing = || Error::plan("a transformer without word embedding");
        let id = self.session.program().program.find("transformer.word_embedding.weight").ok_or_else(missing)?;
        self.session.exec().download_f32(id)
    }
}

/// The projection of the pooled output, where a fine-tuned model has it.
fn summary(weights: &ModelWeights) -> Option<(Weight, Weight)> {
    let get = |part: &str| weights.tensors.get(&format!("sequence_summary.summary.{part}")).cloned();
    Some((get("weight")?, get("bias")?))
}

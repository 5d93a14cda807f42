//! Settings of a pretraining run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::init::InitMethod;
use super::keys::{DeadKey, Keyed, Kind, Paths, config_keys, dead};
use super::loss_scale;
use super::schedule::{DecayMethod, Schedule};
use super::step::OptimizerOptions;
use crate::config::{FeedForwardActivation, XlnetConfig};
use crate::distributed::device::Reduce;
use crate::model::{PositionDropout, Recompute};
use crate::tensor::DType;
use crate::{Error, Result};

config_keys! {
    /// Every setting of a pretraining run; a key that is absent has its default. Names are the original's flags
    /// where it has the setting. "Of the records" means: as the data found in `record_info_dir` were made.
    RunConfig, KEYS;

    /// Directories that hold record_info-*.json: `tfrecords` of a corpus; several with commas.
    record_info_dir: Paths = Paths::default(),
    /// Receives checkpoints, run.toml and, unless log_dir says otherwise, metrics.
    model_dir: PathBuf = PathBuf::new(),
    /// Starts from these weights: a TensorFlow checkpoint, a Hugging Face model, one of our checkpoints, or a zip of one.
    init_checkpoint: Option<PathBuf> = None,
    /// Takes the optimiser's moments and the number of updates from init_checkpoint too.
    init_optimizer: bool = false,
    /// Where to go on: auto (newest checkpoint of model_dir, if there is one), never, or a checkpoint's directory.
    resume: String = "auto".into(),

    /// Sequences of an update; of the records.
    train_batch_size: Option<usize> = None,
    /// Micro-batches of an update: less memory, the same result; divides train_batch_size.
    accumulate: usize = 1,
    /// Tokens of a sequence; of the records.
    seq_len: Option<usize> = None,
    /// Tokens of its first half, which memories keep; of the records.
    reuse_len: Option<usize> = None,
    /// Hidden states of earlier segments that each layer sees, in tokens; 0 for none.
    mem_len: usize = 0,
    /// Positions that are permuted together; divides both halves of a sequence; reuse_len when absent.
    perm_size: Option<usize> = None,
    /// Half of the sequences run backwards; of the records.
    bi_data: Option<bool> = None,
    /// Context around a predicted span of n tokens is n * mask_alpha / mask_beta tokens; of the records.
    mask_alpha: Option<u32> = None,
    /// See mask_alpha.
    mask_beta: Option<u32> = None,
    /// Predicted tokens of a sequence; of the records.
    num_predict: Option<usize> = None,
    /// Text was lower-cased; of the records.
    uncased: Option<bool> = None,
    /// The SentencePiece model in use, to make sure that the records were made with it; when absent that of
    /// init_checkpoint, if it holds one.
    sp_path: Option<PathBuf> = None,
    /// Cores for which rows in both directions are laid out; of the records.
    num_core_per_host: Option<usize> = None,
    /// Uses passes 0 to num_passes - 1 of the corpus; all when absent.
    num_passes: Option<usize> = None,

    /// Updates in all.
    train_steps: u64 = 100_000,
    /// Updates with a growing learning rate; the first one has rate 0.
    warmup_steps: u64 = 0,
    /// Highest learning rate.
    learning_rate: f64 = 1e-4,
    /// Last learning rate over highest.
    min_lr_ratio: f64 = 0.001,
    /// Shape of its decay: poly (a straight line) or cos.
    decay_method: DecayMethod = DecayMethod::Poly,
    /// Largest global norm of the gradient; 0 for no limit.
    clip: f64 = 1.0,
    /// 0 is Adam with bias correction, more is AdamWeightDecay without.
    weight_decay: f64 = 0.0,
    /// Added to the root of Adam's second moment.
    adam_epsilon: f64 = 1e-8,

    /// Sizes from a JSON file, the original's or Hugging Face's, instead of the keys that follow.
    model_config_path: Option<PathBuf> = None,
    /// Layers; 6 when absent.
    n_layer: Option<usize> = None,
    /// Width of hidden states; 32 when absent.
    d_model: Option<usize> = None,
    /// Attention heads; 4 when absent.
    n_head: Option<usize> = None,
    /// Width of a head; 8 when absent.
    d_head: Option<usize> = None,
    /// Width of the feed-forward layer; 32 when absent.
    d_inner: Option<usize> = None,
    /// Its activation: gelu, gelu_erf or relu; relu when absent.
    ff_activation: Option<FeedForwardActivation> = None,
    /// Each layer has attention biases of its own, as all released models do; false when absent.
    untie_r: Option<bool> = None,
    /// Size of the vocabulary; when absent that of the records, or 32000 where they do not tell.
    n_token: Option<usize> = None,
    /// Largest relative distance, in tokens; -1 for no limit.
    clamp_len: i64 = -1,
    /// Dropout of hidden states.
    dropout: f64 = 0.0,
    /// Dropout of attention probabilities.
    dropatt: f64 = 0.0,
    /// Whose positions share a dropout mask: shared (all sequences, fast) or per_row (as the original).
    position_dropout: PositionDropout = PositionDropout::Shared,
    /// What the backward pass computes again to save memory: none or layer.
    recompute: Recompute = Recompute::None,
    /// Distribution of initial weights: normal or uniform.
    init: InitMethod = InitMethod::Normal,
    /// Standard deviation of normal ones.
    init_std: f64 = 0.02,
    /// Bound of uniform ones.
    init_range: f64 = 0.1,

    /// `auto`, `cpu`, `cpu:reference`, `wgpu[:n]` or `cuda[:n]`.
    device: String = "auto".into(),
    /// How gradients of several processes are added up: host (in the memory of their machines), nccl (on NVIDIA's cards, by
    /// its library), or auto (nccl where every process has it and a card of its own).
    reduce: Reduce = Reduce::Auto,
    /// Rounds the operands of matrix products to bfloat16, with sums in 32 bits, for the matrix units of A100, RTX 30 and
    /// newer cards; weights, statistics and everything else stay in 32 bits. The processor computes the same, slower.
    use_bfloat16: bool = false,
    /// Rounds them to float16 instead, for V100, RTX 20 and adapters of wgpu with SHADER_F16; gradients then need a
    /// loss_scale.
    use_float16: bool = false,
    /// Factor of the loss while gradients are computed, which keeps small ones above zero in float16; 0 adapts itself there
    /// (from 65536, halved when a step overflows, doubled after 2000 that do not) and is 1 otherwise.
    loss_scale: f64 = 0.0,
    /// Runs op by op, slowly, and stops at the first one that writes a NaN or an infinity, with its name.
    check_finite: bool = false,
    /// Of initial weights, permutations, file order and dropout.
    seed: u64 = 0,

    /// A loss this far above the mean of the last hundred, in nats, is a spike: it is told, and checkpoints wait for its
    /// end; 0 finds none.
    loss_spike: f64 = 2.0,
    /// Updates that a spike may last before training stops.
    loss_spike_steps: u64 = 100,
    /// Updates between two lines of log; the original's default is 1000.
    iterations: u64 = 100,
    /// Updates between two checkpoints; there is always one at the end. The original has no default.
    save_steps: u64 = 10_000,
    /// Minutes after which a checkpoint is written even between these; 0 for never.
    save_minutes: f64 = 30.0,
    /// Checkpoints kept; the original keeps all.
    max_save: usize = 5,
    /// Writes checkpoints beside the training, from a copy in this machine's memory; false stops training meanwhile.
    background_save: bool = true,
    /// Directories of held-out records; their loss is measured during training and at its end.
    eval_record_info_dir: Paths = Paths::default(),
    /// Which split of them: train, dev or test.
    eval_split: String = "dev".into(),
    /// Updates between two measurements; save_steps when absent.
    eval_every_steps: Option<u64> = None,
    /// Batches of one measurement; 0 for all of them.
    eval_steps: u64 = 16,
    /// Receives metrics.jsonl, loss.svg and events for TensorBoard; model_dir when absent.
    log_dir: Option<PathBuf> = None,
    /// Writes events for TensorBoard.
    tensorboard: bool = true,
}

impl Keyed for RunConfig {
    const KEYS: &[super::keys::Key] = KEYS;
    const DEAD_KEYS: &[DeadKey] = DEAD_KEYS;
    const COMMAND: &str = "pretrain";
}

/// Flags of the original that are accepted with a warning.
pub const DEAD_KEYS: &[DeadKey] = &[
    dead("d_embed", Kind::Text, "embeddings are always d_model wide, in the original too"),
    dead("summary_type", Kind::Text, "pretraining has no sequence summary"),
    dead("same_length", Kind::Bool, "it has no effect on attention in both directions"),
    dead("track_mean", Kind::Bool, "the original never reads it"),
    dead("use_tpu", Kind::Bool, "there is no TPU backend; see device"),
    dead("num_hosts", Kind::Text, "ranks are counted by their launcher, mpirun or WORLD_SIZE"),
    dead("master", Kind::Text, "there is no TPU backend"),
    dead("tpu", Kind::Text, "there is no TPU backend"),
    dead("tpu_zone", Kind::Text, "there is no TPU backend"),
    dead("tpu_job_name", Kind::Text, "there is no TPU backend"),
    dead("gcp_project", Kind::Text, "there is no TPU backend"),
];

impl RunConfig {
    /// Checks every setting that needs no look at the data.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::config(what));
        if self.record_info_dir.0.is_empty() {
            return refuse("record_info_dir is missing: name the directory tfrecords of a corpus".into());
        }
        if self.model_dir.as_os_str().is_empty() {
            return refuse("model_dir is missing: name the directory for checkpoints".into());
        }
        for (key, value) in [
            ("train_steps", self.train_steps),
            ("iterations", self.iterations),
            ("save_steps", self.save_steps),
            ("eval_every_steps", self.eval_every_steps.unwrap_or(1)),
            ("max_save", self.max_save as u64),
            ("accumulate", self.accumulate as u64),
            ("loss_spike_steps", self.loss_spike_steps),
        ] {
            if value == 0 {
                return refuse(format!("{key} must be at least 1, but is 0"));
            }
        }
        for (key, rate) in [("dropout", self.dropout), ("dropatt", self.dropatt)] {
            if !(0.0..1.0).contains(&rate) {
                return refuse(format!("{key} must be at least 0 and below 1, but is {rate}"));
            }
        }
        for (key, value) in [
            ("clip", self.clip),
            ("weight_decay", self.weight_decay),
            ("adam_epsilon", self.adam_epsilon),
            ("init_std", self.init_std),
            ("init_range", self.init_range),
            ("save_minutes", self.save_minutes),
            ("loss_spike", self.loss_spike),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(format!("{key} must be a number of at least 0, but is {value}"));
            }
        }
        loss_scale::check(self.use_bfloat16, self.use_float16, self.loss_scale, self.check_finite)?;
        self.schedule().validate()?;
        self.eval_split.parse::<crate::data::record_info::Split>()?;
        self.device.parse::<crate::backend::Device>()?.resolve()?;
        Ok(())
    }

    /// What operands of products are rounded to.
    pub fn products(&self) -> Option<DType> {
        loss_scale::products(self.use_bfloat16, self.use_float16)
    }
    /// Learning rate by step.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            train_steps: self.train_steps,
            min_lr_ratio: self.min_lr_ratio,
            decay_method: self.decay_method,
        }
    }
    /// The optimiser.
    pub fn optimizer(&self) -> OptimizerOptions {
        OptimizerOptions {
            schedule: self.schedule(),
            clip: self.clip as f32,
            weight_decay: self.weight_decay as f32,
            adam_epsilon: self.adam_epsilon as f32,
            loss_scale: self.loss_scale,
            ..OptimizerOptions::default()
        }
    }
    /// Sizes of the model; `vocabulary` is the size of the records' vocabulary, where known.
    ///
    /// # Errors
    /// When `model_config_path` cannot be read or contradicts a key, or sizes make no model.
    pub fn model(&self, vocabulary: Option<usize>) -> Result<XlnetConfig> {
        let Some(path) = &self.model_config_path else {
            let model = XlnetConfig {
                n_layer: self.n_layer.unwrap_or(6),
                d_model: self.d_model.unwrap_or(32),
                n_head: self.n_head.unwrap_or(4),
                d_head: self.d_head.unwrap_or(8),
                d_inner: self.d_inner.unwrap_or(32),
                ff_activation: self.ff_activation.unwrap_or(FeedForwardActivation::Relu),
                untie_r: self.untie_r.unwrap_or(false),
                n_token: self.n_token.or(vocabulary).unwrap_or(32_000),
            };
            model.validate()?;
            return Ok(model);
        };
        let model = XlnetConfig::read(path)?;
        let number = |key, set: Option<usize>, there: usize| (key, set.map(|v| v.to_string()), there.to_string());
        let pairs = [
            number("n_layer", self.n_layer, model.n_layer),
            number("d_model", self.d_model, model.d_model),
            number("n_head", self.n_head, model.n_head),
            number("d_head", self.d_head, model.d_head),
            number("d_inner", self.d_inner, model.d_inner),
            number("n_token", self.n_token, model.n_token),
            ("untie_r", self.untie_r.map(|v| v.to_string()), model.untie_r.to_string()),
            ("ff_activation", self.ff_activation.map(|v| format!("{v:?}")), format!("{:?}", model.ff_activation)),
        ];
        for (key, set, there) in pairs {
            if let Some(set) = set.filter(|set| *set != there) {
                return Err(Error::data(
                    path,
                    format!("{key} is {there} here, but {set} is asked for; drop one of both"),
                ));
            }
        }
        Ok(model)
    }
}

#[cfg(test)]
mod tests;

//! Arguments of `xlnet convert` and `xlnet checkpoint`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::FeedForwardActivation;
use crate::train::import::ImportOptions;

/// Whose files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A directory that `transformers` loads, with safetensors.
    HuggingFace,
    /// A checkpoint that TensorFlow loads, under the original's names.
    #[value(name = "tensorflow")]
    TensorFlow,
}

/// What a model computes, where its files do not tell.
#[derive(Clone, Debug, Args)]
pub struct SizesArgs {
    /// Sizes of a TensorFlow checkpoint that has no xlnet_config.json beside it.
    #[arg(long = "model_config_path", value_name = "FILE")]
    pub model_config_path: Option<PathBuf>,
    /// What the feed-forward layer computes, against the configuration's word: gelu (tanh form), gelu_erf or relu.
    #[arg(long = "ff_activation", value_name = "NAME", value_parser = activation)]
    pub ff_activation: Option<FeedForwardActivation>,
}

impl SizesArgs {
    /// What to read.
    pub fn options(&self) -> ImportOptions {
        let (model_config, ff_activation) = (self.model_config_path.clone(), self.ff_activation);
        ImportOptions { model_config, ff_activation, ..ImportOptions::default() }
    }
}

/// How a checkpoint is read.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    #[command(flatten)]
    pub sizes: SizesArgs,
    /// Head of the original: classification_<task>, regression_<task> or race. Chosen where a TensorFlow checkpoint has
    /// several; given to a classifier that is written as one.
    #[arg(long, value_name = "NAME")]
    pub head: Option<String>,
}

fn activation(text: &str) -> Result<FeedForwardActivation, String> {
    let value = serde_json::Value::String(text.into());
    serde_json::from_value(value).map_err(|_| "expected gelu, gelu_erf or relu".into())
}

impl SourceArgs {
    /// What to read.
    pub fn options(&self, optimizer: bool) -> ImportOptions {
        ImportOptions { head: self.head.clone(), optimizer, ..self.sizes.options() }
    }
}

/// What else goes into the result.
#[derive(Clone, Debug, Args)]
pub struct ResultArgs {
    /// A vocabulary to put beside the model; spiece.model beside the source when absent.
    #[arg(long = "sp_path", value_name = "FILE")]
    pub sp_path: Option<PathBuf>,
    /// Its text was lower-cased, which tokenizer_config.json must say; as that of the source says when absent.
    #[arg(long)]
    pub uncased: bool,
    /// Its text kept accents.
    #[arg(long = "keep_accents")]
    pub keep_accents: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xlnet convert xlnet_cased_L-12_H-768_A-12 hf --to hugging-face\n  xlnet convert \
                        chinese_xlnet_mid_L-24_H-768_A-12.zip hf --to hugging-face\n  xlnet convert runs/a tf --to \
                        tensorflow --optimizer\n\nA checkpoint is named by a TensorFlow prefix (what stands before \
                        .index), by a file of weights, by a directory, or by a zip of one; of a run's directory the \
                        newest is taken.")]
pub struct ConvertArgs {
    /// Any checkpoint.
    pub input: PathBuf,
    /// A new directory for the result.
    pub output: PathBuf,
    /// Whose files to write.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Target,
    /// Write the optimiser's moments and the step too, for the original to go on with.
    #[arg(long)]
    pub optimizer: bool,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub result: ResultArgs,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Print what a checkpoint holds: sizes, and every tensor with its statistics; verifies every check sum.
    #[command(after_help = "Example:\n  xlnet checkpoint inspect runs/a/step-1000")]
    Inspect(InspectArgs),
    /// Write a checkpoint without the optimiser's state.
    #[command(after_help = "Example:\n  xlnet checkpoint clean model.ckpt-100000 cleaned")]
    Clean(CleanArgs),
    /// Write the mean of several checkpoints of one model.
    #[command(after_help = "Example:\n  xlnet checkpoint average runs/a/step-8000 runs/a/step-9000 --output mean")]
    Average(AverageArgs),
    /// Print the largest differences between two checkpoints, tensor by tensor.
    #[command(after_help = "Example:\n  xlnet checkpoint diff runs/a/step-8000 runs/a/step-9000 --top 5")]
    Diff(DiffArgs),
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Any checkpoint.
    pub checkpoint: PathBuf,
    /// Names, types and shapes only; reads no tensor.
    #[arg(long)]
    pub names: bool,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Any checkpoint.
    pub input: PathBuf,
    /// A new directory for the result, of the same kind.
    pub output: PathBuf,
    #[command(flatten)]
    pub result: ResultArgs,
}

#[derive(Debug, Args)]
pub struct AverageArgs {
    /// Checkpoints, of any kinds.
    #[arg(required = true, num_args = 2..)]
    pub checkpoints: Vec<PathBuf>,
    /// A new directory for the result.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Whose files to write; those of the first checkpoint's kind when absent.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Option<Target>,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub result: ResultArgs,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// One checkpoint.
    pub a: PathBuf,
    /// The other, of any kind.
    pub b: PathBuf,
    /// Tensors to print, those that differ most first.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub top: usize,
    #[command(flatten)]
    pub source: SourceArgs,
}

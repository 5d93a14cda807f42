//! Arguments of the commands over tasks.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::backend::Device;
use crate::cli::checkpoint_args::SizesArgs;
use crate::cli::flags::RunFlags;
use crate::cli::size::parse_bytes;
use crate::data::record_info::Split;
use crate::task::config::FinetuneConfig;
use crate::task::embed::{Layers, Pooling};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  xlnet finetune --settings sts-b-large --data_dir sts-b --init_checkpoint xlnet-large \\\n    \
                        --model_dir runs/sts-b\n  xlnet finetune --task_name text --data_dir mine --text_a review --label \
                        stars --init_checkpoint base --model_dir runs/mine\n\nThe best model, a Hugging Face directory, \
                        is MODEL_DIR/best; the same command goes on with a run that was stopped."
)]
pub struct FinetuneArgs {
    /// A run file in TOML.
    pub run: Option<PathBuf>,
    /// Print the settings as they would be used, and stop.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub flags: RunFlags<FinetuneConfig>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xlnet evaluate --model_dir runs/sts-b --data_dir sts-b --eval_split dev\n\nTask, \
                        lengths and casing are those of training; --eval_all_ckpt scores every checkpoint.")]
pub struct EvaluateArgs {
    /// A run file in TOML.
    pub run: Option<PathBuf>,
    #[command(flatten)]
    pub flags: RunFlags<FinetuneConfig>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xlnet predict --model_dir runs/sts-b --predict_file mine.tsv --predict_dir out")]
pub struct PredictArgs {
    /// A run file in TOML.
    pub run: Option<PathBuf>,
    #[command(flatten)]
    pub flags: RunFlags<FinetuneConfig>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xlnet serve --model_dir runs/sts-b/best --address 0.0.0.0:8080\n  \
                        curl -d '{\"text\": \"A man sings.\", \"text_pair\": \"Somebody sings.\"}' localhost:8080/predict\n\n\
                        Several at once: {\"requests\": [{...}, {...}]}. Fields by task: text, text_pair; context, \
                        question; context, question, choices; text or words.")]
pub struct ServeArgs {
    /// What `xlnet finetune` made.
    #[arg(long = "model_dir", value_name = "DIR")]
    pub model_dir: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub address: std::net::SocketAddr,
    /// Requests that are answered together.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub batch: usize,
    /// Requests that may wait; more are refused with 503.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub queue: usize,
    /// Largest body.
    #[arg(long, default_value = "1MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_body: usize,
    /// Longest time of a request, seconds.
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub timeout: u64,
    /// Programs that are kept, for different numbers and lengths of requests; they share the weights.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub programs: usize,
    /// auto, cpu, cpu:reference, wgpu[:n] or cuda[:n].
    #[arg(long, default_value_t = Device::Auto, value_name = "DEVICE")]
    pub device: Device,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xlnet embed --model xlnet-base --input lines.txt --pooling mean --format npy \
                        --output lines.npy\n  echo \"A pair ||| of texts\" | xlnet embed --model xlnet-base --layers mean:4")]
pub struct EmbedArgs {
    /// Any checkpoint, pretrained or fine-tuned: a directory, a TensorFlow prefix, a file of weights or a zip.
    #[arg(long, value_name = "CHECKPOINT")]
    pub model: PathBuf,
    /// The vocabulary; spiece.model of the model when absent.
    #[arg(long = "spiece_model_file", value_name = "FILE")]
    pub spiece_model_file: Option<PathBuf>,
    #[command(flatten)]
    pub sizes: SizesArgs,
    /// A text a line, two of them with ` ||| ` in between; standard input when absent.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The file to write; standard output when absent.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What is written.
    #[arg(long, value_enum, default_value_t = VectorFormat::Jsonl)]
    pub format: VectorFormat,
    /// Hidden states: last, a number from 0 (the embedding), or mean:K of the last K layers.
    #[arg(long, default_value = "last", value_name = "last|N|mean:K")]
    pub layers: Layers,
    /// What becomes of the tokens' vectors.
    #[arg(long, value_enum, default_value_t = VectorPooling::None)]
    pub pooling: VectorPooling,
    /// Tokens of a line at most.
    #[arg(long = "max_seq_length", default_value_t = 512, value_name = "N")]
    pub max_seq_length: usize,
    /// Lines that are computed together.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub batch: usize,
    /// Lower-case the text.
    #[arg(long)]
    pub uncased: bool,
    /// Keep accents.
    #[arg(long = "keep_accents")]
    pub keep_accents: bool,
    /// auto, cpu, cpu:reference, wgpu[:n] or cuda[:n].
    #[arg(long, default_value_t = Device::Auto, value_name = "DEVICE")]
    pub device: Device,
}

/// File formats of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VectorFormat {
    /// A JSON object a line.
    Jsonl,
    /// One NumPy array [lines, width].
    Npy,
    /// Tensors: vectors, and for tokens line, start and end.
    Safetensors,
}

/// [`Pooling`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VectorPooling {
    /// A vector for every token.
    None,
    /// That of the last token, CLS.
    Cls,
    /// The mean of the text's tokens.
    Mean,
}

impl From<VectorPooling> for Pooling {
    fn from(pooling: VectorPooling) -> Self {
        match pooling {
            VectorPooling::None => Pooling::None,
            VectorPooling::Cls => Pooling::Cls,
            VectorPooling::Mean => Pooling::Mean,
        }
    }
}

#[derive(Debug, Args)]
pub struct LanguageModelArgs {
    /// Any checkpoint of a pretrained model: a directory, a TensorFlow prefix, a file of weights or a zip.
    #[arg(long, value_name = "CHECKPOINT")]
    pub model: PathBuf,
    /// The vocabulary; spiece.model of the model when absent.
    #[arg(long = "spiece_model_file", value_name = "FILE")]
    pub spiece_model_file: Option<PathBuf>,
    #[command(flatten)]
    pub sizes: SizesArgs,
    /// Lower-case the text.
    #[arg(long)]
    pub uncased: bool,
    /// Keep accents.
    #[arg(long = "keep_accents")]
    pub keep_accents: bool,
    /// auto, cpu, cpu:reference, wgpu[:n] or cuda[:n].
    #[arg(long, default_value_t = Device::Auto, value_name = "DEVICE")]
    pub device: Device,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xlnet fill --model xlnet-base \"The capital of France is <mask> .\"")]
pub struct FillArgs {
    #[command(flatten)]
    pub model: LanguageModelArgs,
    /// Tokens told for each mask.
    #[arg(long = "top_k", default_value_t = 5, value_name = "N")]
    pub top_k: usize,
    /// The text, <mask> for each token to guess.
    pub text: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  xlnet generate --model xlnet-base --tokens 200 \"It was a dark and stormy night\"")]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: LanguageModelArgs,
    /// Tokens to write at most; the end of a document ends it earlier.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub tokens: usize,
    /// 0 always takes the most likely token; more is bolder.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub temperature: f32,
    /// Only the most likely tokens; 0 for all.
    #[arg(long = "top_k", default_value_t = 40, value_name = "N")]
    pub top_k: usize,
    /// Only the most likely tokens that together have this share.
    #[arg(long = "top_p", default_value_t = 1.0, value_name = "X")]
    pub top_p: f32,
    /// Of the drawing.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Tokens of earlier text that are remembered.
    #[arg(long = "mem_len", default_value_t = 384, value_name = "N")]
    pub mem_len: usize,
    /// The text to continue.
    pub text: String,
}

#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// Write the converted features of a task as JSON lines, padded, by the names of the original's records.
    #[command(after_help = "Example:\n  xlnet features dump --task_name squad --data_dir squad --split dev \\\n    \
                            --spiece_model_file spiece.model --max_seq_length 384 --output dev.jsonl")]
    Dump(Box<FeaturesDumpArgs>),
}

#[derive(Debug, Args)]
pub struct FeaturesDumpArgs {
    /// A run file in TOML.
    pub run: Option<PathBuf>,
    /// Which set: train, dev or test; spans of train have their answers' places.
    #[arg(long, default_value_t = Split::Dev, value_name = "SPLIT")]
    pub split: Split,
    /// The file to write; standard output when absent.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub flags: RunFlags<FinetuneConfig>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  xlnet score --task_name squad --gold dev-v2.0.json --predictions out/predictions.json \\\n    \
                        --null_odds out/null_odds.json"
)]
pub struct ScoreArgs {
    /// squad, squad1.1, cmrc2018 or drcd.
    #[arg(long = "task_name", value_name = "TASK")]
    pub task_name: String,
    /// The questions with their answers.
    #[arg(long, value_name = "FILE")]
    pub gold: PathBuf,
    /// A JSON object of answers by question id.
    #[arg(long, value_name = "FILE")]
    pub predictions: PathBuf,
    /// A JSON object of no-answer logits by question id, for the best thresholds.
    #[arg(long = "null_odds", value_name = "FILE")]
    pub null_odds: Option<PathBuf>,
    /// Questions whose no-answer logit is above this count as answered by nothing.
    #[arg(long = "null_threshold", value_name = "X", allow_negative_numbers = true)]
    pub null_threshold: Option<f64>,
}

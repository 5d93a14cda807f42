//! Arguments of every command, as clap reads them.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use self::task::{
    EmbedArgs, EvaluateArgs, FeaturesCommand, FeaturesDumpArgs, FillArgs, FinetuneArgs, GenerateArgs,
    LanguageModelArgs, PredictArgs, ScoreArgs, ServeArgs, VectorFormat,
};
use super::checkpoint_args::{CheckpointCommand, ConvertArgs};
use super::flags::{RunFlags, switch_if_bool};
use super::size::parse_bytes;
use crate::backend::Device;
use crate::data::record_info::Split;
use crate::train::run_config::RunConfig;
use crate::train::session::Copies;

mod task;

/// XLNet pretraining and fine-tuning.
#[derive(Debug, Parser)]
#[command(name = "xlnet", version, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Two minutes from text to a trained model:\n  xlnet demo\n\nFlags may be spelt with dashes or \
                        underscores; boolean ones as --flag, --noflag or --flag=false.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as xlnet=debug
    /// [default: XLNET_LOG, or warn].
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a tiny XLNet on text that lies here: vocabulary, records, pretraining, in about two minutes.
    Demo(DemoArgs),
    /// Train a vocabulary, or see what it makes of text.
    #[command(subcommand)]
    Vocab(VocabCommand),
    /// Turn text files into records for pretraining, or look at records.
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// Pretrain a model on records.
    Pretrain(Box<PretrainArgs>),
    /// Turn any checkpoint into a Hugging Face model or a TensorFlow checkpoint of the original.
    Convert(Box<ConvertArgs>),
    /// Look into checkpoints, clean, average and compare them.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Fine-tune a pretrained model on a task, and evaluate its checkpoints.
    Finetune(Box<FinetuneArgs>),
    /// Score a fine-tuned model, or all checkpoints of a run.
    Evaluate(Box<EvaluateArgs>),
    /// Write a fine-tuned model's predictions for a file.
    Predict(Box<PredictArgs>),
    /// Score a file of answers to questions as the official scripts do.
    Score(ScoreArgs),
    /// Answer requests with a fine-tuned model over HTTP.
    Serve(ServeArgs),
    /// Write vectors of tokens or of whole lines of text.
    Embed(EmbedArgs),
    /// Tell the most likely tokens for <mask> in a text.
    Fill(FillArgs),
    /// Continue a text.
    Generate(GenerateArgs),
    /// Look at what a task's examples become.
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// Show the program that a training step is: its ops, or where its tensors lie.
    #[command(subcommand)]
    Program(ProgramCommand),
    /// Show the GPU kernels: what there is, their text, whether an adapter takes them.
    #[command(subcommand)]
    Kernels(KernelsCommand),
    /// Find the largest batch that fits a memory, and where the bytes go; allocates nothing.
    Memory(MemoryArgs),
    /// Measure training steps of Base and Large and every op of them on a device, beside what it can do.
    Bench(BenchArgs),
    /// Tell what this machine offers and what is missing: instructions, memory, disk, devices, packages.
    #[command(after_help = "Example:\n  xlnet doctor --model_dir runs/a")]
    Doctor(DoctorArgs),
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  xlnet completions bash > /etc/bash_completion.d/xlnet")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands.
    #[command(after_help = "Example:\n  xlnet man --dir ~/.local/share/man/man1 && man xlnet-pretrain")]
    Man {
        /// Receives xlnet.1 and a page for each command; is made where it is missing.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  xlnet bench --device cuda --output bench-of-my-card\n\nA step is forward, backward, clipping and \
                        Adam. The limit of an op is its arithmetic or its traffic at the device's highest rate, \
                        whichever takes longer; the table says how much of that is reached."
)]
pub struct BenchArgs {
    /// auto, cpu, cpu:reference, wgpu[:n] or cuda[:n].
    #[arg(long, default_value_t = Device::Auto, value_name = "DEVICE")]
    pub device: Device,
    /// base, large, chinese-base, chinese-mid, or JSON files with sizes; with commas.
    #[arg(long, value_delimiter = ',', default_value = "base,large", value_name = "NAME|FILE")]
    pub model: Vec<String>,
    /// What is learnt; with commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "classify,pretrain")]
    pub task: Vec<Task>,
    /// Tokens of a sequence, with commas; 64,128,256,512 when absent.
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub seq_len: Vec<usize>,
    /// Tokens of a step, which decide the batch; 16384 on CUDA, 4096 on wgpu, else 512 when absent. Less where memory ends.
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Dropout; as in training when absent.
    #[arg(long, value_name = "X")]
    pub dropout: Option<f32>,
    /// Operands of products in bfloat16, as with --use_bfloat16 of pretrain and finetune.
    #[arg(long, conflicts_with = "f16")]
    pub bf16: bool,
    /// Operands of products in float16, as with --use_float16 of pretrain and finetune.
    #[arg(long)]
    pub f16: bool,
    /// Steps that are measured; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub steps: usize,
    /// Receives the table as JSON and SVG: FILE.json, FILE.svg.
    #[arg(long, default_value = "bench", value_name = "FILE")]
    pub output: PathBuf,
    /// A tiny model and a few steps: shows that everything works, says nothing of speed.
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Where checkpoints will go: its disk is looked at.
    #[arg(long = "model_dir", default_value = ".", value_name = "DIR")]
    pub model_dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  xlnet demo --input notes/*.txt --output runs/notes\n\nPrints the commands that do \
                        the same in steps."
)]
pub struct DemoArgs {
    /// Text files; when absent the sources and documents under the current directory.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub input: Vec<PathBuf>,
    /// Receives vocabulary, records and checkpoints.
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    pub output: PathBuf,
    /// Updates.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub train_steps: u64,
    /// Pieces of the vocabulary.
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub vocab_size: usize,
    /// auto, cpu, cpu:reference, wgpu[:n] or cuda[:n].
    #[arg(long, default_value_t = Device::Auto, value_name = "DEVICE")]
    pub device: Device,
}

#[derive(Debug, Subcommand)]
pub enum VocabCommand {
    /// Train a SentencePiece vocabulary by the published recipe.
    #[command(after_help = "Example:\n  xlnet vocab train --input text/*.txt --output spiece.model --vocab-size 32000")]
    Train(VocabTrainArgs),
    /// Print pieces and ids of text.
    #[command(after_help = "Example:\n  xlnet vocab encode --model spiece.model \"It cost 2,000 pounds.\"")]
    Encode(VocabEncodeArgs),
}

#[derive(Debug, Args)]
pub struct VocabTrainArgs {
    /// Text files, one sentence a line.
    #[arg(long, num_args = 1.., required = true, value_name = "FILE")]
    pub input: Vec<PathBuf>,
    /// The model file to write.
    #[arg(long, default_value = "spiece.model", value_name = "FILE")]
    pub output: PathBuf,
    /// Pieces, the 17 fixed ones included.
    #[arg(long, default_value_t = 32_000, value_name = "N")]
    pub vocab_size: usize,
    /// Share of the text's characters that must not become <unk>, 0.98 to 1.
    #[arg(long, default_value_t = 0.99995, value_name = "X")]
    pub character_coverage: f64,
    /// What the vocabulary is made of.
    #[arg(long, value_enum, default_value_t = Pieces::Unigram)]
    pub model_type: Pieces,
    /// Lines to train on at most; 0 for all.
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    pub input_sentence_size: usize,
    /// Longer lines are left out, in bytes.
    #[arg(long, default_value_t = 4192, value_name = "N")]
    pub max_sentence_length: usize,
    /// Accept a smaller vocabulary where the text yields no more.
    #[arg(long)]
    pub soft_limit: bool,
    /// Clean lines as pretraining will, before training on them.
    #[arg(long)]
    pub preprocess: bool,
    /// Lower-case them too.
    #[arg(long, requires = "preprocess")]
    pub uncased: bool,
    /// Seed of the drawing of lines; when absent SentencePiece draws its own way.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Threads; results depend on their number in the last bits.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub threads: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pieces {
    /// Unigram language model, as XLNet's.
    Unigram,
    /// Byte-pair encoding.
    Bpe,
}

#[derive(Debug, Args)]
pub struct VocabEncodeArgs {
    /// The SentencePiece model.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Lower-case the text first.
    #[arg(long)]
    pub uncased: bool,
    /// Keep accents, which released models were trained without.
    #[arg(long)]
    pub keep_accents: bool,
    /// Texts; standard input, line by line, when absent.
    pub text: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum CorpusCommand {
    /// Cut text into records for pretraining; flags are those of the original's data_utils.
    #[command(
        after_help = "Example:\n  xlnet corpus build --input_glob 'text/*.txt' --sp_path spiece.model --save_dir \
                            corpus \\\n    --bsz_per_host 8 --seq_len 128 --reuse_len 64 --num_predict 21\n\nThen \
                            give corpus/tfrecords to `xlnet pretrain --record_info_dir`."
    )]
    Build(Box<CorpusBuildArgs>),
    /// Show one record: text, segments, predicted tokens, their order, and who sees whom.
    #[command(after_help = "Examples:\n  xlnet corpus inspect corpus/tfrecords/train-0-0.*.tfrecords --index 3 \
                            --sp_path spiece.model\n  xlnet corpus inspect corpus/tfrecords/train-0-0.*.tfrecords \
                            --sp_path spiece.model --svg mask.svg")]
    Inspect(CorpusInspectArgs),
}

#[derive(Debug, Args)]
#[command(mut_args(switch_if_bool))]
pub struct CorpusBuildArgs {
    /// Text files, one sentence a line, a blank line between documents.
    #[arg(long, num_args = 1.., value_name = "FILE", required_unless_present = "input_glob")]
    pub input: Vec<PathBuf>,
    /// Pattern of text files, quoted, instead of a list.
    #[arg(long = "input_glob", value_name = "PATTERN", conflicts_with = "input")]
    pub input_glob: Option<String>,
    /// The SentencePiece model.
    #[arg(long = "sp_path", value_name = "FILE", required_unless_present = "vocab_size")]
    pub sp_path: Option<PathBuf>,
    /// Receives corpus_info.json and the directory tfrecords.
    #[arg(long = "save_dir", default_value = "proc_data", value_name = "DIR")]
    pub save_dir: PathBuf,
    /// Which part of the data this is: train, dev or test.
    #[arg(long, default_value_t = Split::Train, value_name = "SPLIT")]
    pub split: Split,
    /// Sequences of one update.
    #[arg(long = "bsz_per_host", default_value_t = 32, value_name = "N")]
    pub bsz_per_host: usize,
    /// Devices whose rows are laid out separately; matters with bi_data only.
    #[arg(long = "num_core_per_host", default_value_t = 1, value_name = "N")]
    pub num_core_per_host: usize,
    /// Tokens of a sequence.
    #[arg(long = "seq_len", default_value_t = 512, value_name = "N")]
    pub seq_len: usize,
    /// Tokens of its first half, which memories keep; half of seq_len.
    #[arg(long = "reuse_len", value_name = "N")]
    pub reuse_len: Option<usize>,
    /// Lower-case the text.
    #[arg(long = "uncased", action = ArgAction::Set, default_value_t = true)]
    pub uncased: bool,
    /// Keep accents; for Japanese and Korean.
    #[arg(long = "keep_accents", action = ArgAction::Set, default_value_t = false)]
    pub keep_accents: bool,
    /// Let half of the sequences run backwards.
    #[arg(long = "bi_data", action = ArgAction::Set, default_value_t = true)]
    pub bi_data: bool,
    /// A predicted span of n tokens comes with n * mask_alpha / mask_beta tokens of context.
    #[arg(long = "mask_alpha", default_value_t = 6, value_name = "N")]
    pub mask_alpha: u32,
    /// See mask_alpha.
    #[arg(long = "mask_beta", default_value_t = 1, value_name = "N")]
    pub mask_beta: u32,
    /// Predicted tokens of a sequence; none leaves their number free; 85 of 512 when absent.
    #[arg(long = "num_predict", value_name = "N|none")]
    pub num_predict: Option<Predictions>,
    /// Count the lengths of spans in words, not in pieces.
    #[arg(long = "whole_words")]
    pub whole_words: bool,
    /// Put a mark at blank lines.
    #[arg(long = "use_eod", action = ArgAction::Set, default_value_t = true)]
    pub use_eod: bool,
    /// Files hold text; otherwise token ids.
    #[arg(long = "from_raw_text", action = ArgAction::Set, default_value_t = true)]
    pub from_raw_text: bool,
    /// Number of ids, where files hold ids and there is no sp_path.
    #[arg(long = "vocab_size", value_name = "N")]
    pub vocab_size: Option<usize>,
    /// Replace what is not UTF-8 instead of refusing the file.
    #[arg(long = "lossy", action = ArgAction::Set, default_value_t = false)]
    pub lossy: bool,
    /// Number of this pass over the text; another one predicts other tokens.
    #[arg(long = "pass_id", default_value_t = 0, value_name = "N")]
    pub pass_id: usize,
    /// Parts into which the files are divided.
    #[arg(long = "num_task", default_value_t = 1, value_name = "N")]
    pub num_task: usize,
    /// The part to make.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub task: usize,
    /// Of all random choices.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Accepted for the original's sake; rows are laid out by num_core_per_host alone.
    #[arg(long = "use_tpu", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub use_tpu: Option<String>,
}

/// A number of predictions, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predictions(pub Option<usize>);

impl FromStr for Predictions {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Predictions(None));
        }
        text.parse().map(|n| Predictions(Some(n))).map_err(|_| "expected a whole number or none".into())
    }
}

#[derive(Debug, Args)]
pub struct CorpusInspectArgs {
    /// A file *.tfrecords.
    pub file: PathBuf,
    /// Which record, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub index: u64,
    /// The SentencePiece model, to show text instead of ids.
    #[arg(long = "sp_path", value_name = "FILE")]
    pub sp_path: Option<PathBuf>,
    /// Also draw the permutation mask, with tokens along both sides.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Seed of the permutation, as of a training run.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Time that the record is read, from 0; each has a permutation of its own.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub epoch: u64,
    /// Positions that are permuted together; the first half when absent.
    #[arg(long = "perm_size", value_name = "N")]
    pub perm_size: Option<usize>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  xlnet pretrain run.toml --learning_rate 5e-5\n  xlnet pretrain --record_info_dir \
                        corpus/tfrecords --model_dir runs/a --n_layer 4 --d_model 128 \\\n    --n_head 4 --d_head 32 \
                        --d_inner 512 --untie_r --ff_activation gelu --mem_len 64 --train_steps 1000\n\nA file holds \
                        the same keys, one `key = value` a line. The same command goes on where it was stopped; Ctrl-C \
                        saves first."
)]
pub struct PretrainArgs {
    /// Settings as TOML; flags win over it.
    pub run: Option<PathBuf>,
    /// Checks everything, prints the decided settings, and stops.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub flags: RunFlags<RunConfig>,
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Permutation language model.
    Pretrain,
    /// Classes of sequences, such as IMDB.
    Classify,
    /// Spans of text, SQuAD 2.0.
    Squad,
    /// Four choices, RACE; a batch counts examples of four sequences.
    Race,
}

#[derive(Clone, Debug, Args)]
pub struct ShapeArgs {
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub seq_len: usize,
    /// Memory of earlier segments, tokens; 384 in pretraining when absent, else 0.
    #[arg(long, value_name = "N")]
    pub mem_len: Option<usize>,
    /// Predicted tokens of a sequence in pretraining; a sixth of them when absent.
    #[arg(long, value_name = "N")]
    pub num_predict: Option<usize>,
    /// Dropout of hidden states and attention probabilities; 0.1 in fine-tuning when absent, else 0.
    #[arg(long, value_name = "X")]
    pub dropout: Option<f32>,
    /// What the backward pass computes again to save memory.
    #[arg(long, value_enum, default_value_t = Recomputation::None)]
    pub recompute: Recomputation,
    /// Operands of products in bfloat16, as with --use_bfloat16 of pretrain and finetune.
    #[arg(long, conflicts_with = "f16")]
    pub bf16: bool,
    /// Operands of products in float16, as with --use_float16 of pretrain and finetune.
    #[arg(long)]
    pub f16: bool,
    /// Micro-batches of an update.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub accumulate: usize,
    /// Only the forward pass.
    #[arg(long)]
    pub inference: bool,
    /// The device that is planned for; it need not be here.
    #[arg(long, default_value_t = Device::Cpu, value_name = "DEVICE")]
    pub device: Device,
}

/// [`crate::model::Recompute`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Recomputation {
    /// Nothing.
    None,
    /// Each layer's forward pass: about a third more arithmetic.
    Layer,
}

#[derive(Debug, Subcommand)]
pub enum ProgramCommand {
    /// Print every op with its tensors, FLOPs and bytes.
    #[command(
        after_help = "Example:\n  xlnet program dump --model base --task classify --batch 8 --seq-len 128 | less"
    )]
    Dump(ProgramArgs),
    /// Print every tensor with its address, size and life.
    #[command(
        after_help = "Example:\n  xlnet program plan --model large --task squad --batch 4 --seq-len 384 --inference"
    )]
    Plan(ProgramArgs),
}

#[derive(Debug, Subcommand)]
pub enum KernelsCommand {
    /// Print every template: what it computes, its keys.
    List,
    /// Print the text of a variant, or write many to a folder.
    #[command(
        after_help = "Examples:\n  xlnet kernels dump matmul.f32\n  xlnet kernels dump matmul --output kernels-of-matmul"
    )]
    Dump(KernelsDumpArgs),
    /// Render every variant, and have an adapter compile it.
    #[command(after_help = "Example:\n  xlnet kernels check --device wgpu:0")]
    Check(KernelsCheckArgs),
    /// Print which op has a kernel in which language.
    Support,
}

#[derive(Debug, Args)]
pub struct KernelsDumpArgs {
    /// A label or its beginning; the first match is printed.
    #[arg(default_value = "", value_name = "LABEL")]
    pub label: String,
    /// Writes every match to this folder instead.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct KernelsCheckArgs {
    /// A label or its beginning; all when absent.
    #[arg(default_value = "", value_name = "LABEL")]
    pub label: String,
    /// The device that compiles: wgpu[:n] or cuda[:n]; without it variants are only rendered.
    #[arg(long, default_value_t = Device::Cpu, value_name = "DEVICE")]
    pub device: Device,
}

#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// base, large, chinese-base, chinese-mid, or a JSON file with sizes.
    #[arg(long, value_name = "NAME|FILE", default_value = "base")]
    pub model: String,
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// What the program is for.
    #[arg(long, value_enum, default_value_t = Task::Pretrain)]
    pub task: Task,
    /// Sequences of an update, all micro-batches together.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub batch: usize,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  xlnet memory --model large --seq-len 512 --budget 16GiB\n  xlnet memory --table\n\
                        \nBeside the result stands what the original managed on one 16 GB card, where it was \
                        published."
)]
pub struct MemoryArgs {
    /// base, large, chinese-base, chinese-mid, or a JSON file with sizes.
    #[arg(long, value_name = "NAME|FILE", default_value = "base")]
    pub model: String,
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// What the program is for.
    #[arg(long, value_enum, default_value_t = Task::Classify)]
    pub task: Task,
    /// Memory that may be used.
    #[arg(long, default_value = "16GiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub budget: usize,
    /// Print the largest batches of Base and Large at 64 to 512 tokens.
    #[arg(long)]
    pub table: bool,
    /// Leaves out the copy that training saves from; as the key of a run.
    #[arg(long = "background_save", default_value_t = true, action = ArgAction::Set, value_name = "true|false")]
    pub background_save: bool,
}

impl MemoryArgs {
    /// What training keeps beside the device's memory.
    pub fn copies(&self) -> Copies {
        if self.background_save && !self.shape.inference { Copies::Snapshot } else { Copies::None }
    }
}

//! Settings of fine-tuning, evaluation and prediction.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

use super::choices::Levels;
use super::convert::Conversion;
use super::{Answer, Custom, Place, Task};
use crate::config::XlnetConfig;
use crate::data::record_info::Split;
use crate::model::heads::{SummaryOptions, SummaryType};
use crate::model::{PositionDropout, Recompute};
use crate::tensor::DType;
use crate::train::import::ImportOptions;
use crate::train::init::{InitMethod, InitOptions};
use crate::train::keys::{DeadKey, Key, Keyed, Kind, Words, config_keys, dead, near, read_table};
use crate::train::loss_scale;
use crate::train::schedule::{DecayMethod, Schedule};
use crate::train::step::{LayerDecay, OptimizerOptions};
use crate::{Error, Result};

config_keys! {
    /// Every setting of fine-tuning, evaluation and prediction; a key that is absent has its default. Names are the
    /// original's flags where it has the setting. "Of the task" means: as the original's program for it has it.
    FinetuneConfig, KEYS;

    /// The task: sts-b, mnli_matched, mnli_mismatched, imdb, yelp5, xnli, csc, csv, cola, sst-2, mrpc, qqp, qnli, rte, squad, squad1.1, cmrc2018, drcd, race; or text, choice, ner for your own files.
    task_name: String = String::new(),
    /// A named configuration that the other keys start from: for example sts-b-large, squad-base, csc-chinese-mid.
    settings: Option<String> = None,
    /// Directory with the task's files.
    data_dir: PathBuf = PathBuf::new(),
    /// Training examples, instead of the task's own file in data_dir.
    train_file: Option<PathBuf> = None,
    /// Examples to evaluate or predict, instead of the task's own file in data_dir.
    predict_file: Option<PathBuf> = None,
    /// Which set is evaluated or predicted: dev or test.
    eval_split: String = "dev".into(),
    /// Column of the (first) text for the task text, of the words for ner: a name, or a number from 0.
    text_a: Option<String> = None,
    /// Column of the second text, for pairs.
    text_b: Option<String> = None,
    /// Column of the label or tag; -1 is the last one.
    label: Option<String> = None,
    /// Labels in the order of classes, with commas; those of the training file, sorted, when absent.
    labels: Words = Words::default(),
    /// Labels are numbers.
    is_regression: bool = false,
    /// Tables have no first row of names.
    no_header: bool = false,
    /// Only RACE's high schools.
    high_only: bool = false,
    /// Only RACE's middle schools.
    middle_only: bool = false,

    /// Receives checkpoints and the best model; evaluation and prediction read it.
    model_dir: PathBuf = PathBuf::new(),
    /// Starts from these weights: any checkpoint, also a TensorFlow prefix, a zip or a file; random ones when absent.
    init_checkpoint: Option<PathBuf> = None,
    /// Sizes of the model, the original's JSON or Hugging Face's; those of init_checkpoint when absent.
    model_config_path: Option<PathBuf> = None,
    /// Does not use init_checkpoint's heads, for example because they were trained for other classes.
    reset_heads: bool = false,
    /// The vocabulary; spiece.model of init_checkpoint when absent.
    spiece_model_file: Option<PathBuf> = None,
    /// Receives converted features, to be used again while nothing that shaped them changes.
    output_dir: Option<PathBuf> = None,
    /// Converts again, whatever output_dir holds.
    overwrite_data: bool = false,
    /// Receives predictions.
    predict_dir: Option<PathBuf> = None,
    /// Where to go on: auto (newest checkpoint of model_dir) or never.
    resume: String = "auto".into(),

    /// Tokens of a sequence; of the task: 128, or 512 for paragraphs and choices.
    max_seq_length: Option<usize> = None,
    /// Windows of max_seq_length tokens that a longer text is read in; hidden states of earlier ones are remembered.
    windows: usize = 1,
    /// Tokens of earlier windows that are remembered; max_seq_length when absent. Only with windows above 1.
    mem_len: Option<usize> = None,
    /// Tokens of a question about a paragraph.
    max_query_length: usize = 64,
    /// Pieces from one window of a paragraph to the next.
    doc_stride: usize = 128,
    /// Tokens of question and option.
    max_qa_length: usize = 128,
    /// Converts RACE as the original does by mistake: later options see the earlier ones.
    accumulate_options: bool = false,
    /// Lower-case the text.
    uncased: bool = false,
    /// Keep accents, for Japanese and Korean.
    keep_accents: bool = false,
    /// Pieces of an answer at most.
    max_answer_length: usize = 64,
    /// Answers kept for each question.
    n_best_size: usize = 5,
    /// Starts that are tried.
    start_n_top: usize = 5,
    /// Ends that are tried for each start.
    end_n_top: usize = 5,
    /// Answers nothing where the no-answer logit is above this; the original always answers, as when absent.
    null_threshold: Option<f64> = None,
    /// With two classes, the second one is predicted when its logit is larger by more than this.
    predict_threshold: f64 = 0.0,
    /// Name of the classifier in checkpoints of the original; the task's when absent.
    cls_scope: String = String::new(),

    /// Updates; of the task: 1000, 12000 (race) or 8000 (squad).
    train_steps: Option<u64> = None,
    /// Passes over the training examples, instead of train_steps.
    num_train_epochs: Option<f64> = None,
    /// Updates with a growing learning rate; a tenth of all with num_train_epochs, else 0.
    warmup_steps: Option<u64> = None,
    /// Highest learning rate; of the task: 1e-5, 2e-5 (race) or 3e-5 (squad).
    learning_rate: Option<f64> = None,
    /// Factor from layer to layer, downwards; of the task: 1, or 0.75 (squad).
    lr_layer_decay_rate: Option<f64> = None,
    /// What it scales: gradient (as the original; Adam all but cancels it) or learning_rate.
    layer_decay: LayerDecay = LayerDecay::Gradient,
    /// Last learning rate over highest.
    min_lr_ratio: f64 = 0.0,
    /// Shape of its decay: poly (a straight line) or cos.
    decay_method: DecayMethod = DecayMethod::Poly,
    /// Largest global norm of the gradient; 0 for no limit.
    clip: f64 = 1.0,
    /// 0 is Adam with bias correction, more is AdamWeightDecay without.
    weight_decay: f64 = 0.0,
    /// Added to the root of Adam's second moment; of the task: 1e-8, or 1e-6 (race, squad).
    adam_epsilon: Option<f64> = None,
    /// Examples of an update; of the task: 8, or 48 (squad).
    train_batch_size: Option<usize> = None,
    /// Micro-batches of an update: less memory, the same result; divides train_batch_size.
    accumulate: usize = 1,
    /// Examples of a batch that is evaluated or predicted.
    eval_batch_size: usize = 32,
    /// Layers, from below, that are not trained, nor the embeddings when there are any.
    frozen_layers: usize = 0,
    /// Dropout of hidden states.
    dropout: f64 = 0.1,
    /// Dropout of attention probabilities.
    dropatt: f64 = 0.1,
    /// Whose positions share a dropout mask: shared (all sequences, fast) or per_row (as the original).
    position_dropout: PositionDropout = PositionDropout::Shared,
    /// What the backward pass computes again to save memory: none or layer.
    recompute: Recompute = Recompute::None,
    /// How a sequence becomes one vector: last, first, mean or attn.
    summary_type: SummaryType = SummaryType::Last,
    /// A dense layer and tanh follow.
    use_summ_proj: bool = true,
    /// Largest relative distance, in tokens; -1 for no limit.
    clamp_len: i64 = -1,
    /// Distribution of initial weights: normal or uniform.
    init: InitMethod = InitMethod::Normal,
    /// Standard deviation of normal ones.
    init_std: f64 = 0.02,
    /// Bound of uniform ones.
    init_range: f64 = 0.1,

    /// Of initial weights, order and dropout.
    seed: u64 = 0,
    /// Trains once for each of these seeds, with commas, and tells maximum and mean.
    seeds: Words = Words::default(),
    /// Nats above the usual loss at which a spike begins; 0 finds none; 2, or 0 for numbers, when absent.
    loss_spike: Option<f64> = None,
    /// Updates that a spike may last before training stops.
    loss_spike_steps: u64 = 100,
    /// Updates between two checkpoints, each of which is evaluated; there is always one at the end.
    save_steps: Option<u64> = None,
    /// Minutes after which a checkpoint is written even between these, without evaluation; 0 for never.
    save_minutes: f64 = 30.0,
    /// Checkpoints kept besides the best model; 0 keeps all.
    max_save: usize = 1,
    /// Writes checkpoints beside the training, from a copy in this machine's memory; false stops training meanwhile.
    background_save: bool = true,
    /// Stops when so many evaluations have brought nothing better; 0 never.
    patience: u64 = 0,
    /// Evaluates checkpoints and keeps the best; otherwise the last one is it.
    do_eval: bool = true,
    /// Updates between two lines of log.
    iterations: u64 = 100,
    /// Examples to train on at most, the first ones; 0 for all.
    train_examples: usize = 0,
    /// Examples to evaluate or predict at most, the first ones; 0 for all.
    eval_examples: usize = 0,
    /// Evaluates every checkpoint of model_dir, not only the best.
    eval_all_ckpt: bool = false,
    /// The checkpoint to evaluate or predict with, a directory, or with task_name any checkpoint; the best of model_dir when absent.
    predict_ckpt: Option<PathBuf> = None,
    /// `auto`, `cpu`, `cpu:reference`, `wgpu[:n]` or `cuda[:n]`.
    device: String = "auto".into(),
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
    /// Writes events for TensorBoard.
    tensorboard: bool = true,
}

/// Flags of the original that are accepted with a warning.
const DEAD_KEYS: &[DeadKey] = &[
    dead("do_train", Kind::Bool, "the command says what is done: finetune, evaluate or predict"),
    dead("do_predict", Kind::Bool, "the command says what is done: finetune, evaluate or predict"),
    dead("do_prepro", Kind::Bool, "features are converted when they are needed"),
    dead("num_proc", Kind::Text, "conversion uses all threads"),
    dead("proc_id", Kind::Text, "conversion uses all threads"),
    dead("num_passes", Kind::Text, "training repeats its examples as often as it needs"),
    dead("shuffle_buffer", Kind::Text, "all examples are shuffled"),
    dead("predict_batch_size", Kind::Text, "eval_batch_size counts for both"),
    dead("use_tpu", Kind::Bool, "there is no TPU backend; see device"),
    dead(
        "num_core_per_host",
        Kind::Text,
        "one device does the work; train_batch_size counts all examples of an update",
    ),
    dead("num_hosts", Kind::Text, "one process does the work"),
    dead("master", Kind::Text, "there is no TPU backend"),
    dead("tpu", Kind::Text, "there is no TPU backend"),
    dead("tpu_zone", Kind::Text, "there is no TPU backend"),
    dead("tpu_job_name", Kind::Text, "there is no TPU backend"),
    dead("gcp_project", Kind::Text, "there is no TPU backend"),
    dead("init_global_vars", Kind::Bool, "the original never reads it"),
    dead("target_eval_key", Kind::Text, "the original never reads it"),
];

impl Keyed for FinetuneConfig {
    const KEYS: &[Key] = KEYS;
    const DEAD_KEYS: &[DeadKey] = DEAD_KEYS;
    const COMMAND: &str = "finetune";

    fn load(file: Option<&std::path::Path>, flags: Table) -> Result<Self> {
        let mut own = file.map(read_table).transpose()?.unwrap_or_default();
        own.extend(flags);
        let mut table = match own.get("settings").and_then(|name| name.as_str()) {
            Some(name) => published(name)?,
            None => Table::new(),
        };
        table.extend(own);
        Self::from_table(file, table)
    }
}

/// All named configurations.
///
/// # Errors
/// Never: the file is part of the program, and a test reads it.
pub fn all_published() -> Result<Table> {
    include_str!("published.toml").parse().map_err(|e| Error::config(format!("published.toml: {e}")))
}

fn published(name: &str) -> Result<Table> {
    let mut all = all_published()?;
    if let Some(toml::Value::Table(found)) = all.remove(name) {
        return Ok(found);
    }
    let advice = match near(name, all.keys().map(String::as_str)).as_slice() {
        [] => format!("they are {}", all.keys().cloned().collect::<Vec<_>>().join(", ")),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Err(Error::config(format!("there are no settings called {name:?}: {advice}")))
}

/// Which of the original's programs a task belongs to, for its defaults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Classifier,
    Race,
    Squad,
}

impl FinetuneConfig {
    /// Where the examples of `split` are.
    ///
    /// # Errors
    /// When neither a directory nor a file is named.
    pub fn place(&self, split: Split) -> Result<Place> {
        let file = if split == Split::Train { &self.train_file } else { &self.predict_file };
        if file.is_none() && self.data_dir.as_os_str().is_empty() {
            let key = if split == Split::Train { "train_file" } else { "predict_file" };
            return Err(Error::config(format!(
                "data_dir is missing: name the directory of the task's files, or {key}"
            )));
        }
        Ok(Place { dir: self.data_dir.clone(), split, file: file.clone() })
    }

    /// The set that is evaluated or predicted.
    ///
    /// # Errors
    /// When `eval_split` is no split.
    pub fn eval_place(&self) -> Result<Place> {
        self.place(self.eval_split.parse()?)
    }

    /// The task.
    ///
    /// # Errors
    /// When there is no such task, or files that it needs are not there.
    pub fn task(&self) -> Result<Task> {
        if self.task_name.is_empty() {
            let known = super::names().collect::<Vec<_>>().join(", ");
            return Err(Error::config(format!("task_name is missing: it is one of {known}")));
        }
        let custom = Custom {
            text_a: self.text_a.clone(),
            text_b: self.text_b.clone(),
            label: self.label.clone(),
            labels: self.labels.0.clone(),
            regression: self.is_regression,
            no_header: self.no_header,
            levels: match (self.high_only, self.middle_only) {
                (false, false) => Levels::All,
                (true, false) => Levels::High,
                (false, true) => Levels::Middle,
                (true, true) => return Err(Error::config("high_only and middle_only leave no examples; drop one")),
            },
        };
        let train = Place { dir: self.data_dir.clone(), split: Split::Train, file: self.train_file.clone() };
        let task = Task::named(&self.task_name, &custom, &train)?;
        if self.is_regression && task.answer != Answer::Number {
            return Err(Error::config(format!("{} has classes, so is_regression does not fit", task.name)));
        }
        Ok(task)
    }

    /// Fills what the task decides and checks every setting; `examples` is the number of training features.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn resolve(&mut self, task: &Task, examples: usize) -> Result<()> {
        let program = program(task);
        fn pick<T>(program: Program, [classifier, race, squad]: [T; 3]) -> T {
            match program {
                Program::Classifier => classifier,
                Program::Race => race,
                Program::Squad => squad,
            }
        }
        let batch = *self.train_batch_size.get_or_insert(pick(program, [8, 8, 48]));
        self.max_seq_length.get_or_insert(default_length(task));
        self.learning_rate.get_or_insert(pick(program, [1e-5, 2e-5, 3e-5]));
        self.lr_layer_decay_rate.get_or_insert(if program == Program::Squad { 0.75 } else { 1.0 });
        self.adam_epsilon.get_or_insert(if program == Program::Classifier { 1e-8 } else { 1e-6 });
        for (key, value) in [
            ("train_batch_size", batch),
            ("accumulate", self.accumulate),
            ("eval_batch_size", self.eval_batch_size),
            ("n_best_size", self.n_best_size),
            ("start_n_top", self.start_n_top),
            ("end_n_top", self.end_n_top),
            ("max_answer_length", self.max_answer_length),
            ("iterations", self.iterations as usize),
            ("loss_spike_steps", self.loss_spike_steps as usize),
        ] {
            if value == 0 {
                return Err(Error::config(format!("{key} must be at least 1, but is 0")));
            }
        }
        if !batch.is_multiple_of(self.accumulate) {
            let accumulate = self.accumulate;
            return Err(Error::config(format!("accumulate must divide the batch of {batch}, but is {accumulate}")));
        }
        if let Some(epochs) = self.num_train_epochs {
            if self.train_steps.is_some() {
                return Err(Error::config("train_steps and num_train_epochs both say how long to train; drop one"));
            }
            if !(epochs.is_finite() && epochs > 0.0) {
                return Err(Error::config(format!("num_train_epochs must be above 0, but is {epochs}")));
            }
            let steps = ((examples as f64 * epochs / batch as f64) as u64).max(1);
            self.num_train_epochs = None;
            self.train_steps = Some(steps);
            self.warmup_steps.get_or_insert((0.1 * steps as f64) as u64);
        }
        let steps = *self.train_steps.get_or_insert(pick(program, [1000, 12_000, 8000]));
        self.warmup_steps.get_or_insert(0);
        if steps == 0 {
            return Err(Error::config("train_steps must be at least 1, but is 0"));
        }
        let spike = *self.loss_spike.get_or_insert(if task.answer == Answer::Number { 0.0 } else { 2.0 });
        for (key, value) in [("loss_spike", spike), ("save_minutes", self.save_minutes)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(format!("{key} must be a number of at least 0, but is {value}")));
            }
        }
        if self.save_steps == Some(0) {
            return Err(Error::config("save_steps must be at least 1, but is 0; drop it to save at the end only"));
        }
        if !["auto", "never"].contains(&self.resume.as_str()) {
            return Err(Error::config(format!("resume must be auto or never, but is {:?}", self.resume)));
        }
        let rho = self.lr_layer_decay_rate.unwrap_or(1.0);
        for (key, value) in [("clip", self.clip), ("weight_decay", self.weight_decay), ("lr_layer_decay_rate", rho)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(format!("{key} must be a number of at least 0, but is {value}")));
            }
        }
        for (key, rate) in [("dropout", self.dropout), ("dropatt", self.dropatt)] {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::config(format!("{key} must be at least 0 and below 1, but is {rate}")));
            }
        }
        match self.mem_len {
            Some(_) if self.windows == 1 => {
                return Err(Error::config("mem_len remembers earlier windows of a text, but windows is 1; raise it"));
            }
            Some(0) => {
                return Err(Error::config("mem_len must be at least 1, but is 0; windows = 1 remembers nothing"));
            }
            _ => {}
        }
        if self.windows > 1 && matches!(self.summary_type, SummaryType::Mean | SummaryType::Attn) {
            let what = "looks at one window alone, but windows is above 1; use last or first";
            return Err(Error::config(format!("summary_type {:?} {what}", self.summary_type)));
        }
        self.seeds()?;
        self.init_options(self.seed).validate()?;
        loss_scale::check(self.use_bfloat16, self.use_float16, self.loss_scale, self.check_finite)?;
        self.schedule().validate()?;
        self.conversion(task).validate(task)
    }

    /// Lengths and cleaning.
    pub fn conversion(&self, task: &Task) -> Conversion {
        Conversion {
            max_seq_length: self.max_seq_length.unwrap_or(default_length(task)),
            windows: self.windows,
            max_query_length: self.max_query_length,
            doc_stride: self.doc_stride,
            max_qa_length: self.max_qa_length,
            accumulate_options: self.accumulate_options,
            uncased: self.uncased,
            keep_accents: self.keep_accents,
        }
    }
    /// Tokens of earlier windows that are remembered; 0 where a text is one window.
    pub fn memory(&self, task: &Task) -> usize {
        let length = self.max_seq_length.unwrap_or(default_length(task));
        if self.windows > 1 { self.mem_len.unwrap_or(length) } else { 0 }
    }
    /// How a checkpoint of another program is read for `task`: sizes that are named stand in for those of a TensorFlow
    /// checkpoint; others have their own.
    ///
    /// # Errors
    /// When the file of sizes is missing or damaged.
    pub fn import_options(&self, task: &Task) -> Result<ImportOptions> {
        Ok(ImportOptions {
            sizes: self.model_config_path.as_ref().map(|path| XlnetConfig::read(path)).transpose()?,
            usual_head: task.original_scope(&self.cls_scope),
            ..ImportOptions::default()
        })
    }
    /// How spans are found.
    pub fn search(&self) -> super::evaluate::SpanSearch {
        super::evaluate::SpanSearch {
            start_n_top: self.start_n_top,
            end_n_top: self.end_n_top,
            n_best_size: self.n_best_size,
            max_answer_length: self.max_answer_length,
        }
    }
    /// Pooling.
    pub fn summary(&self) -> SummaryOptions {
        SummaryOptions { kind: self.summary_type, projection: self.use_summ_proj }
    }
    /// Distribution of fresh weights.
    pub fn init_options(&self, seed: u64) -> InitOptions {
        let (init_std, init_range) = (self.init_std as f32, self.init_range as f32);
        InitOptions { init: self.init, init_std, init_range, seed }
    }
    /// What operands of products are rounded to.
    pub fn products(&self) -> Option<DType> {
        loss_scale::products(self.use_bfloat16, self.use_float16)
    }
    /// Learning rate by step, once resolved.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            learning_rate: self.learning_rate.unwrap_or(1e-5),
            warmup_steps: self.warmup_steps.unwrap_or(0),
            train_steps: self.train_steps.unwrap_or(1000),
            min_lr_ratio: self.min_lr_ratio,
            decay_method: self.decay_method,
        }
    }
    /// The optimiser, once resolved.
    pub fn optimizer(&self) -> OptimizerOptions {
        OptimizerOptions {
            schedule: self.schedule(),
            clip: self.clip as f32,
            weight_decay: self.weight_decay as f32,
            adam_epsilon: self.adam_epsilon.unwrap_or(1e-8) as f32,
            lr_layer_decay_rate: self.lr_layer_decay_rate.unwrap_or(1.0) as f32,
            layer_decay: self.layer_decay,
            loss_scale: self.loss_scale,
            ..OptimizerOptions::default()
        }
    }
    /// Seeds of all runs: `seeds`, or just `seed`.
    ///
    /// # Errors
    /// When one is no whole number, or there twice.
    pub fn seeds(&self) -> Result<Vec<u64>> {
        if self.seeds.0.is_empty() {
            return Ok(vec![self.seed]);
        }
        let parse = |text: &String| {
            text.trim().parse::<u64>().map_err(|_| Error::config(format!("seeds must be whole numbers, not {text:?}")))
        };
        let seeds = self.seeds.0.iter().map(parse).collect::<Result<Vec<u64>>>()?;
        match seeds.iter().enumerate().find(|(i, seed)| seeds[..*i].contains(seed)) {
            Some((_, seed)) => Err(Error::config(format!("seed {seed} stands in seeds twice"))),
            None => Ok(seeds),
        }
    }
}

fn program(task: &Task) -> Program {
    match task.answer {
        Answer::Class(_) | Answer::Number | Answer::Tags(_) => Program::Classifier,
        Answer::Choice(_) => Program::Race,
        Answer::Span { .. } => Program::Squad,
    }
}

fn default_length(task: &Task) -> usize {
    if program(task) == Program::Classifier { 128 } else { 512 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn every_published_setting_is_a_run() {
        for (name, _) in all_published().unwrap() {
            let mut config = FinetuneConfig::load(None, table(&format!("settings = {name:?}"))).unwrap();
            let task = config.task().unwrap();
            config.resolve(&task, 10_000).unwrap();
            assert!(config.train_steps.unwrap() > config.warmup_steps.unwrap(), "{name}");
        }
        let config =
            FinetuneConfig::load(None, table("settings = \"squad-base\"\ntrain_steps = 7\nseeds = \"3,4\"")).unwrap();
        assert_eq!(
            (config.train_steps, config.learning_rate, config.seeds().unwrap()),
            (Some(7), Some(2e-5), vec![3, 4])
        );
        let sentence = FinetuneConfig::load(None, table("settings = \"squad\"")).unwrap_err().to_string();
        assert!(sentence.contains("did you mean squad-"), "{sentence}");
    }
    #[test]
    fn defaults_are_those_of_the_task_s_program() {
        let mut config = FinetuneConfig { task_name: "SQuAD".into(), ..FinetuneConfig::default() };
        let task = config.task().unwrap();
        config.resolve(&task, 100).unwrap();
        let got = (config.train_steps, config.learning_rate, config.lr_layer_decay_rate, config.max_seq_length);
        assert_eq!(got, (Some(8000), Some(3e-5), Some(0.75), Some(512)));
        let mut config =
            FinetuneConfig { task_name: "csc".into(), num_train_epochs: Some(3.0), ..FinetuneConfig::default() };
        let task = config.task().unwrap();
        config.resolve(&task, 9600).unwrap();
        assert_eq!((config.train_steps, config.warmup_steps), (Some(3600), Some(360)));
    }
    #[test]
    fn wrong_settings_are_sentences() {
        let says = |text: &str| {
            let mut config = FinetuneConfig::load(None, table(text))?;
            let task = config.task()?;
            config.resolve(&task, 100)
        };
        for (text, part) in [
            ("", "task_name is missing"),
            ("task_name = \"imbd\"", "did you mean imdb"),
            ("task_name = \"imdb\"\nseeds = \"1,1\"", "seed 1 stands in seeds twice"),
            ("task_name = \"imdb\"\naccumulate = 3", "accumulate must divide"),
            ("task_name = \"imdb\"\ntrain_steps = 3\nnum_train_epochs = 1.0", "drop one"),
            ("task_name = \"imdb\"\nis_regression = true", "has classes"),
            ("task_name = \"squad\"\nmax_seq_length = 60", "max_seq_length must be at least max_query_length"),
            ("task_name = \"race\"\nhigh_only = true\nmiddle_only = true", "leave no examples"),
        ] {
            let sentence = says(text).unwrap_err().to_string();
            assert!(sentence.contains(part), "{sentence}");
        }
    }
    #[test]
    fn every_key_has_help_and_reads_its_default() {
        let defaults = Table::try_from(FinetuneConfig::default()).unwrap();
        for key in KEYS {
            assert!(key.help.trim().ends_with('.'), "{}", key.name);
            if let Some(text) = FinetuneConfig::default_text(key) {
                assert_eq!(key.parse(&text).unwrap().as_ref(), defaults.get(key.name), "{}", key.name);
            }
        }
    }
}

//! Fine-tuned models as directories: a Hugging Face model, its vocabulary, and what the task was.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::FinetuneConfig;
use super::convert::Conversion;
use super::encoder::Encoder;
use super::evaluate::{Setup, SpanSearch};
use super::metrics::Scores;
use super::start::check_sizes;
use super::{Answer, Task};
use crate::atomic::{AtomicFile, directory_of, sync_directory};
use crate::backend::Device;
use crate::config::XlnetConfig;
use crate::data::tokenizer::Tokenizer;
use crate::model::TransformerOptions;
use crate::model::heads::{SummaryOptions, SummaryType};
use crate::model::hugging_face::{Architecture, HuggingFaceSettings, ModelWeights, write_model};
use crate::train::checkpoint::checkpoints;
use crate::train::export::add_mask;
use crate::train::import::{ImportOptions, Imported, import};
use crate::{Error, Result};

/// Name of the task's description in a model directory.
pub const TASK_FILE: &str = "xlnet_task.json";
/// Name of the vocabulary in a model directory.
pub const VOCABULARY_FILE: &str = "spiece.model";
/// Name of the best model's directory among the checkpoints of a run.
pub const BEST: &str = "best";
const FORMAT_VERSION: u32 = 1;
/// Temporary directories beside the best model.
const TEMPORARY: &str = ".tmp-model-";

/// Content of [`TASK_FILE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Version of this format.
    pub format_version: u32,
    /// The task.
    pub task: Task,
    /// Lengths and cleaning.
    pub conversion: Conversion,
    /// Tokens of earlier windows that are remembered; 0 where a text is one window.
    #[serde(default)]
    pub mem_len: usize,
    /// For spans.
    pub search: SpanSearch,
    /// Pooling, which a configuration of `transformers` does not tell for all heads.
    pub summary_type: SummaryType,
    /// A dense layer after it.
    pub use_summ_proj: bool,
    /// SHA-256 of the vocabulary.
    pub vocabulary: String,
    /// Updates that the weights have seen.
    pub step: u64,
    /// Scores of these weights, where they were evaluated.
    pub scores: Scores,
}

impl TaskFile {
    /// What a run with `config` makes.
    pub fn new(config: &FinetuneConfig, task: &Task, tokenizer: &Tokenizer) -> Self {
        TaskFile {
            format_version: FORMAT_VERSION,
            task: task.clone(),
            conversion: config.conversion(task),
            mem_len: config.memory(task),
            search: config.search(),
            summary_type: config.summary_type,
            use_summ_proj: config.use_summ_proj,
            vocabulary: tokenizer.vocabulary_hash().to_owned(),
            step: 0,
            scores: Scores::new(),
        }
    }
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let file: TaskFile = serde_json::from_str(&text)
            .map_err(|e| Error::data(path, format!("this does not describe a fine-tuned task: {e}")))?;
        if file.format_version != FORMAT_VERSION {
            let got = file.format_version;
            return Err(Error::data(path, format!("format_version must be {FORMAT_VERSION}, but is {got}")));
        }
        Ok(file)
    }
    /// Writes it into `dir`, with the vocabulary beside it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, dir: &Path, tokenizer: &Tokenizer) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::config(format!("this task cannot be written as JSON: {e}")))?;
        write(&dir.join(TASK_FILE), (text + "\n").as_bytes())?;
        let vocabulary = tokenizer.bytes();
        if std::fs::read(dir.join(VOCABULARY_FILE)).ok().as_deref() != Some(vocabulary) {
            write(&dir.join(VOCABULARY_FILE), vocabulary)?;
        }
        let Conversion { uncased, keep_accents, .. } = self.conversion;
        let json = serde_json::json!({"tokenizer_class": "XLNetTokenizer", "do_lower_case": uncased,
            "remove_space": true, "keep_accents": keep_accents});
        write(&dir.join("tokenizer_config.json"), format!("{json:#}\n").as_bytes())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.append(bytes)?;
    file.commit()
}

/// What `config.json` of a fine-tuned model says.
pub fn description(task: &Task, summary: SummaryOptions, transformer: &TransformerOptions) -> HuggingFaceSettings {
    let architecture = match task.answer {
        Answer::Class(_) | Answer::Number => Architecture::SequenceClassification,
        Answer::Choice(_) => Architecture::MultipleChoice,
        Answer::Span { .. } => Architecture::QuestionAnswering,
        Answer::Tags(_) => Architecture::TokenClassification,
    };
    let labels = match &task.answer {
        Answer::Class(labels) | Answer::Tags(labels) => labels.clone(),
        Answer::Number => vec!["LABEL_0".into()], // one output, which transformers counts by its labels
        _ => vec![],
    };
    let regression = task.answer == Answer::Number;
    HuggingFaceSettings { labels, regression, summary, ..HuggingFaceSettings::new(architecture, transformer) }
}

/// Writes a model directory `dir` whole, in the place of one that was there.
///
/// # Errors
/// When the disk refuses; what was there before is still there then.
pub fn write_directory(
    dir: &Path,
    model: &XlnetConfig,
    settings: &HuggingFaceSettings,
    weights: &ModelWeights,
    file: &TaskFile,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let parent = directory_of(dir);
    std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    crate::atomic::public(&mut builder, 0o777);
    let temporary = || builder.tempdir_in(parent).map_err(|e| Error::io("create a directory in", parent, e));
    let new = temporary()?;
    let mut weights = Cow::Borrowed(weights); // copied only where a tensor must come
    add_mask(&mut weights, model);
    write_model(new.path(), model, settings, &weights)?;
    file.write(new.path(), tokenizer)?;
    sync_directory(new.path())?;
    // The old one steps aside, and vanishes when the new one has its name.
    let aside = temporary()?;
    let old = aside.path().join(dir.file_name().unwrap_or_default());
    let had_old = dir.exists();
    if had_old {
        std::fs::rename(dir, &old).map_err(|e| Error::io("replace", dir, e))?;
    }
    if let Err(e) = std::fs::rename(new.path(), dir) {
        if had_old && std::fs::rename(&old, dir).is_err() {
            let kept = aside.keep(); // better an odd name than a lost model
            tracing::warn!(old = %kept.display(), "the older model lies here now");
        }
        return Err(Error::io("write", dir, e));
    }
    let _ = new.keep(); // renamed: there is nothing to remove under the temporary name
    sync_directory(parent)
}

/// Removes what a killed process left half-written in `dir`, and gives a best model that had just stepped aside its name
/// back. Nobody else may write there meanwhile.
pub(super) fn remove_leftovers(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let old = entry.path().join(BEST);
            if old.join(TASK_FILE).exists() && !dir.join(BEST).exists() {
                let _ = std::fs::rename(&old, dir.join(BEST));
            }
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A fine-tuned model in memory.
#[derive(Debug)]
pub struct FineTuned {
    /// Where it was read.
    pub path: PathBuf,
    /// The task and how it is converted.
    pub file: TaskFile,
    /// How it answers.
    pub setup: Setup,
    /// Its weights.
    pub weights: ModelWeights,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
}

impl FineTuned {
    /// Opens a fine-tuned directory or a checkpoint of a run; for a run's directory its best model, or the newest
    /// checkpoint where there is none. `batch` is the number of features answered at a time.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the vocabulary is another than in training.
    pub fn open(dir: &Path, device: Device, batch: usize) -> Result<Self> {
        let path = Self::directory(dir)?;
        let beside = |name: &str| {
            let own = path.join(name);
            if own.exists() { own } else { directory_of(&path).join(name) }
        };
        let file_path = beside(TASK_FILE);
        if !file_path.exists() {
            let what =
                format!("there is no {TASK_FILE} here, which `xlnet finetune` writes: name the directory it made");
            return Err(Error::data(dir, what));
        }
        let file = TaskFile::read(&file_path)?;
        let tokenizer = Tokenizer::open(beside(VOCABULARY_FILE))?;
        if tokenizer.vocabulary_hash() != file.vocabulary {
            let what = "is not the vocabulary that this model was trained with: its SHA-256 differs";
            return Err(Error::data(tokenizer.path(), what));
        }
        let model = import(&path, &ImportOptions::default())?;
        Ok(Self::of(path, file, model, tokenizer, device, batch))
    }

    /// Opens a model that another program fine-tuned, for example a checkpoint of the original; the settings say for
    /// which task and how.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model has no head for this task.
    pub fn import(named: &Path, config: &FinetuneConfig, device: Device) -> Result<Self> {
        let task = config.task()?;
        let model = import(named, &config.import_options(&task)?)?;
        check_sizes(config, &model.config, "the checkpoint")?;
        let head = match task.answer {
            Answer::Class(_) | Answer::Number | Answer::Choice(_) => "logits_proj.weight",
            Answer::Span { .. } => "start_logits.dense.weight",
            Answer::Tags(_) => "classifier.weight",
        };
        if !model.weights.tensors.contains_key(head) {
            let heads = model.weights.ignored.iter().find(|(_, why)| why.contains("one of several heads"));
            let what = match heads {
                Some((tensor, why)) => format!("{tensor} {why} with cls_scope"),
                None => format!("there is no {head}, which the task {} needs; fine-tune the model first", task.name),
            };
            return Err(Error::data(&model.path, what));
        }
        let tokenizer = model.open_tokenizer(config.spiece_model_file.as_deref())?;
        let mut file = TaskFile::new(config, &task, &tokenizer);
        file.summary_type = model.settings.summary.kind;
        file.use_summ_proj = model.settings.summary.projection;
        let path = model.path.clone();
        Ok(Self::of(path, file, model, tokenizer, device, config.eval_batch_size))
    }

    fn of(path: PathBuf, file: TaskFile, model: Imported, tokenizer: Tokenizer, device: Device, batch: usize) -> Self {
        let setup = Setup {
            task: file.task.clone(),
            model: model.config,
            summary: SummaryOptions { kind: file.summary_type, projection: file.use_summ_proj },
            clamp_len: model.settings.clamp_len,
            layer_norm_eps: model.settings.layer_norm_eps,
            attention: model.settings.attention,
            max_seq_length: file.conversion.max_seq_length,
            mem_len: file.mem_len,
            batch: batch.max(1),
            search: file.search,
            device,
        };
        FineTuned { path, file, setup, weights: model.weights, tokenizer }
    }

    /// Whether `named` is a directory that `xlnet finetune` made.
    pub fn is_one(named: &Path) -> bool {
        let made = |dir: &Path| dir.join(TASK_FILE).exists() || directory_of(dir).join(TASK_FILE).exists();
        Self::directory(named).is_ok_and(|dir| made(&dir))
    }

    /// The model's own directory: see [`Self::open`].
    fn directory(dir: &Path) -> Result<PathBuf> {
        if dir.join("config.json").exists() {
            return Ok(dir.to_owned());
        }
        if dir.is_file() {
            let what = "is a file, but a fine-tuned model is the directory that `xlnet finetune` made; `xlnet evaluate` and \
                        `xlnet predict` take the checkpoint of another program, zipped too, as --init_checkpoint";
            return Err(Error::data(dir, what));
        }
        if !dir.is_dir() {
            return Err(Error::data(dir, "there is no such directory; name what `xlnet finetune` made as model_dir"));
        }
        let best = dir.join(BEST);
        if best.join("config.json").exists() {
            return Ok(best);
        }
        match checkpoints(dir)?.into_iter().next() {
            Some((_, path)) => Ok(path),
            None => {
                let what = "there is no model here: neither config.json, nor best, nor step-<n>";
                Err(Error::data(dir, format!("{what}; name what `xlnet finetune` made as model_dir")))
            }
        }
    }

    /// All checkpoints of a run's directory by step, the oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read or has none.
    pub fn all(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
        let mut all = checkpoints(dir)?;
        all.reverse();
        if all.is_empty() {
            return Err(Error::data(dir, "there are no checkpoints step-<n> here; keep them with max_save = 0"));
        }
        Ok(all)
    }

    /// Text to ids as in training.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: &self.tokenizer, text: self.file.conversion.text() }
    }
}

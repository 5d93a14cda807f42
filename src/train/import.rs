//! One door for every checkpoint of the XLNet world: what a user names becomes weights with their configuration.
//!
//! | named | is |
//! |---|---|
//! | `P`, `P.index`, `P.data-00000-of-00001`, a directory with one of them or a file `checkpoint`, `DIR/latest` | a checkpoint of the original (TensorFlow) |
//! | a directory with `config.json`, or its `model.safetensors`, `pytorch_model.bin`, `*.index.json` | a Hugging Face model |
//! | a directory `step-<n>`, or one that holds such | our own; all hashes are compared |
//! | `FILE.zip` | any of them, unpacked for the time of reading |

use std::path::{Path, PathBuf};

use super::archive;
use super::checkpoint::{self, Checkpoint};
use super::load::{LoadOptions, LoadReport, load_into};
use super::step::StepProgram;
use crate::backend::Executor;
use crate::config::{FeedForwardActivation, XlnetConfig};
use crate::data::tokenizer::Tokenizer;
use crate::model::hugging_face::{
    CONFIG_FILE, HuggingFaceModel, HuggingFaceSettings, ModelWeights, open_weights_file, read_model_of, weights_file,
    weights_files,
};
use crate::model::original::{OriginalOptions, config_beside, find_bundle, read_original};
use crate::model::tensor_file::TensorFile;
use crate::model::tensor_source::TensorSource;
use crate::model::tf_bundle::{TfBundle, is_version_1, version_1};
use crate::model::weights::OptimizerState;
use crate::{Error, Result};

/// What is wanted of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// A file with the model's sizes, instead of the one beside the weights.
    pub model_config: Option<PathBuf>,
    /// Sizes for a checkpoint of the original that has no configuration beside it.
    pub sizes: Option<XlnetConfig>,
    /// The feed-forward layer's activation, against the configuration's word.
    pub ff_activation: Option<FeedForwardActivation>,
    /// Head of a checkpoint of the original where it has several.
    pub head: Option<String>,
    /// The one that is taken when it is among several and none is named.
    pub usual_head: Option<String>,
    /// Moments of the optimiser and the number of updates are read too, where they are there.
    pub optimizer: bool,
}

/// Whose checkpoint was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The original's, a TensorFlow bundle.
    TensorFlow,
    /// A Hugging Face directory.
    HuggingFace,
    /// One of our training checkpoints.
    Training,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::TensorFlow => "TensorFlow checkpoint",
            Format::HuggingFace => "Hugging Face model",
            Format::Training => "training checkpoint",
        })
    }
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What was read: the prefix of a bundle, a file of weights.
    pub path: PathBuf,
    /// Whose it is.
    pub format: Format,
    /// Sizes.
    pub config: XlnetConfig,
    /// What a `config.json` says beyond them.
    pub settings: HuggingFaceSettings,
    /// The original's name of its head: `classification_<task>`, `regression_<task>` or `race`.
    pub head: Option<String>,
    /// Parameters.
    pub weights: ModelWeights,
    /// State of the optimiser, where it was wanted and is there.
    pub optimizer: Option<OptimizerState>,
    /// The vocabulary beside it.
    pub tokenizer: Option<TokenizerFiles>,
}

/// Name of a vocabulary, in the original's zips as in Hugging Face's directories.
pub const VOCABULARY_FILE: &str = "spiece.model";
/// What `transformers` notes about one.
pub(super) const TOKENIZER_FILE: &str = "tokenizer_config.json";

/// A vocabulary that goes with a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// The SentencePiece model, as it is.
    pub spiece: Vec<u8>,
    /// Text is lower-cased first.
    pub uncased: bool,
    /// Accents are kept, as in the original's option for Japanese and Korean.
    pub keep_accents: bool,
}

impl TokenizerFiles {
    /// Reads a vocabulary, with what a `tokenizer_config.json` beside it says of casing and accents.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(spiece: &Path) -> Result<Self> {
        let bytes = std::fs::read(spiece).map_err(|e| Error::io("read", spiece, e))?;
        let notes = std::fs::read(spiece.with_file_name(TOKENIZER_FILE)).unwrap_or_default();
        let notes: serde_json::Value = serde_json::from_slice(&notes).unwrap_or_default();
        let says = |key: &str| notes.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
        Ok(TokenizerFiles { spiece: bytes, uncased: says("do_lower_case"), keep_accents: says("keep_accents") })
    }
}

impl Imported {
    /// The vocabulary in the file `named`, or else the one beside the model.
    ///
    /// # Errors
    /// When neither is there, or it is damaged or lacks XLNet's symbols.
    pub fn open_tokenizer(&self, named: Option<&Path>) -> Result<Tokenizer> {
        let tokenizer = match (named, &self.tokenizer) {
            (Some(path), _) => Tokenizer::open(path)?,
            (None, Some(beside)) => {
                Tokenizer::from_bytes(beside.spiece.clone(), &self.path.with_file_name(VOCABULARY_FILE))?
            }
            (None, None) => {
                let what = format!(
                    "has no {VOCABULARY_FILE} beside it: name the model's own vocabulary with --spiece_model_file"
                );
                return Err(Error::data(&self.path, what));
            }
        };
        tokenizer.check_special_symbols()?;
        Ok(tokenizer)
    }

    /// Uploads the weights and logs what became of every tensor.
    ///
    /// # Errors
    /// Those of [`load_into`].
    pub fn load_into(
        &self,
        exec: &mut dyn Executor,
        program: &StepProgram,
        options: &LoadOptions,
    ) -> Result<LoadReport> {
        let report = load_into(exec, program, &self.weights, options)?;
        tracing::info!("weights of {}:\n{report}", self.path.display());
        Ok(report)
    }
}

/// The vocabulary beside a checkpoint, without reading the checkpoint; `None` when there is none.
///
/// # Errors
/// When nothing of the name `named` is there, or a file cannot be read.
pub fn vocabulary_beside(named: &Path) -> Result<Option<Tokenizer>> {
    let inside = named.join(VOCABULARY_FILE);
    if inside.is_file() {
        return Tokenizer::open(&inside).map(Some);
    }
    let beside = match locate(named)? {
        Located::Archive(path) => {
            let bytes = archive::member(&path, VOCABULARY_FILE)?;
            return bytes.map(|bytes| Tokenizer::from_bytes(bytes, &path)).transpose();
        }
        Located::Training(directory) => directory.join(VOCABULARY_FILE),
        Located::HuggingFace(path) | Located::TensorFlow(path) => path.with_file_name(VOCABULARY_FILE),
    };
    if beside.is_file() { Tokenizer::open(&beside).map(Some) } else { Ok(None) }
}

/// Reads whatever checkpoint `named` means.
///
/// # Errors
/// When nothing is there, or it is damaged, incomplete, of an unknown format or of other sizes than its configuration.
pub fn import(named: &Path, options: &ImportOptions) -> Result<Imported> {
    let mut imported = import_as_it_is(named, options)?;
    if let Some(activation) = options.ff_activation {
        imported.config.ff_activation = activation;
    }
    Ok(imported)
}

fn import_as_it_is(named: &Path, options: &ImportOptions) -> Result<Imported> {
    let mut imported = match locate(named)? {
        Located::Archive(path) => {
            let unpacked = archive::unpack(&path)?;
            let inside = archive::model_directory(unpacked.path())?;
            // The temporary place means nothing to anybody.
            let inner = |e: Error| Error::data(&path, format!("inside: {e}"));
            let mut imported = import_as_it_is(&inside, options).map_err(inner)?;
            imported.weights.source = path.clone();
            return Ok(Imported { path, ..imported });
        }
        Located::Training(path) => training(&path, options)?,
        Located::HuggingFace(path) => {
            let model = hugging_face(&path, options)?;
            from_hugging_face(path, Format::HuggingFace, model, None)?
        }
        Located::TensorFlow(prefix) => original(prefix, options)?,
    };
    let spiece = imported.path.with_file_name(VOCABULARY_FILE);
    imported.tokenizer = if spiece.is_file() { Some(TokenizerFiles::read(&spiece)?) } else { None };
    Ok(imported)
}

/// Where a checkpoint lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// The prefix of a bundle.
    TensorFlow(PathBuf),
    /// A file of weights, or an index of such.
    HuggingFace(PathBuf),
    /// A directory `step-<n>`.
    Training(PathBuf),
    /// A zip file.
    Archive(PathBuf),
}

/// Finds the checkpoint that `named` means, without reading it.
///
/// # Errors
/// When nothing is there that is known.
pub fn locate(named: &Path) -> Result<Located> {
    let is = |end: &str| named.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    if named.is_dir() {
        if named.join(checkpoint::STATE_FILE).is_file() {
            return Ok(Located::Training(named.to_owned()));
        }
        // Hugging Face's config.json, and not the one that the original's pretraining writes.
        if let Ok(weights) = weights_file(named) {
            return Ok(Located::HuggingFace(weights));
        }
        if let Some(newest) = checkpoint::latest(named)? {
            return Ok(Located::Training(newest.path().to_owned()));
        }
    }
    if let Some(prefix) = find_bundle(named)? {
        return Ok(Located::TensorFlow(prefix));
    }
    if named.is_file() {
        if is("zip") {
            return Ok(Located::Archive(named.to_owned()));
        }
        if ["safetensors", "bin", "pt", "pth", "json"].iter().any(|end| is(end)) {
            return Ok(Located::HuggingFace(named.to_owned()));
        }
        if is_version_1(named)? {
            return Err(version_1(named));
        }
        let what = "is no checkpoint that is known: name a TensorFlow prefix (the part before .index), a safetensors or \
                    .bin file, a .zip of them, or a directory";
        return Err(Error::data(named, what));
    }
    if named.is_dir() {
        let what =
            "holds no checkpoint: no model.safetensors or pytorch_model.bin, no *.index of TensorFlow, no step-<n>";
        return Err(Error::data(named, what));
    }
    Err(Error::data(named, "there is no file, directory or TensorFlow prefix of this name"))
}

/// The files of a checkpoint, tensors under the names that they have there.
pub struct Sources {
    /// In order.
    pub tensors: Vec<Box<dyn TensorSource>>,
    /// Where an archive was unpacked; kept for as long as the files are read.
    _unpacked: Option<tempfile::TempDir>,
}

/// Opens the files of a checkpoint to look into them.
///
/// # Errors
/// When one is missing or damaged.
pub fn sources(located: &Located) -> Result<Sources> {
    let mut tensors: Vec<Box<dyn TensorSource>> = vec![];
    match located {
        Located::TensorFlow(prefix) => tensors.push(Box::new(TfBundle::open(prefix)?)),
        Located::HuggingFace(path) => {
            for file in weights_files(path)? {
                tensors.push(open_weights_file(&file)?);
            }
        }
        Located::Training(directory) => {
            Checkpoint::open(directory)?; // compares hashes
            for name in checkpoint::TENSOR_FILES {
                tensors.push(Box::new(TensorFile::open(&directory.join(name))?));
            }
        }
        Located::Archive(path) => {
            let unpacked = archive::unpack(path)?;
            let inner = sources(&locate(&archive::model_directory(unpacked.path())?)?)?;
            return Ok(Sources { tensors: inner.tensors, _unpacked: Some(unpacked) });
        }
    }
    Ok(Sources { tensors, _unpacked: None })
}

fn training(directory: &Path, options: &ImportOptions) -> Result<Imported> {
    let checkpoint = Checkpoint::open(directory)?;
    let path = weights_file(directory)?;
    let model = hugging_face(&path, options)?;
    let optimizer = if options.optimizer { checkpoint.optimizer()? } else { None };
    let mut imported = from_hugging_face(path, Format::Training, model, optimizer)?;
    // Rows ran backwards in training; whoever uses the model reads forwards, as with every published one.
    imported.settings.bi_data = false;
    imported.settings.set_updates(Some(checkpoint.state().step));
    Ok(imported)
}

fn hugging_face(weights: &Path, options: &ImportOptions) -> Result<HuggingFaceModel> {
    if let Some(path) = &options.model_config {
        let beside = weights.with_file_name(CONFIG_FILE);
        return Err(Error::data(path, format!("is not used: a Hugging Face model has its own {}", beside.display())));
    }
    read_model_of(weights)
}

fn from_hugging_face(
    path: PathBuf,
    format: Format,
    model: HuggingFaceModel,
    optimizer: Option<OptimizerState>,
) -> Result<Imported> {
    let settings = HuggingFaceSettings::from_config(&model.hf, &model.weights)?;
    let HuggingFaceModel { config, weights, .. } = model;
    Ok(Imported { path, format, config, settings, head: None, weights, optimizer, tokenizer: None })
}

fn original(prefix: PathBuf, options: &ImportOptions) -> Result<Imported> {
    let beside = options.model_config.clone().or_else(|| config_beside(&prefix));
    let config = match (beside, &options.sizes) {
        (Some(path), _) => XlnetConfig::read(&path)?,
        (None, Some(sizes)) => sizes.clone(),
        (None, None) => {
            let what = "has no xlnet_config.json beside it, and sizes and activation are never guessed; put it there or \
                        name it with --model_config_path";
            return Err(Error::data(&prefix, what));
        }
    };
    let mut bundle = TfBundle::open(&prefix)?;
    let wanted = OriginalOptions {
        head: options.head.clone(),
        usual_head: options.usual_head.clone(),
        optimizer: options.optimizer,
    };
    let model = read_original(&mut bundle, &config, &wanted)?;
    let mut settings = HuggingFaceSettings::of_original(&model.weights, model.head.as_deref());
    let format = Format::TensorFlow;
    let (head, weights, optimizer) = (model.head, model.weights, model.optimizer);
    settings.set_updates(optimizer.as_ref().map(|state| state.step));
    Ok(Imported { path: prefix, format, config, settings, head, weights, optimizer, tokenizer: None })
}

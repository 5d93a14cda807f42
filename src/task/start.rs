//! What a fine-tuning run starts from: its own newest checkpoint, any model, or nothing.

use std::path::Path;

use super::Task;
use super::config::FinetuneConfig;
use super::fine_tuned::{TASK_FILE, TaskFile, VOCABULARY_FILE};
use crate::config::{HuggingFaceConfig, LAYER_NORM_EPS, XlnetConfig};
use crate::data::tokenizer::Tokenizer;
use crate::model::hugging_face::CONFIG_FILE;
use crate::train::checkpoint::{Checkpoint, latest};
use crate::train::import::{Imported, import};
use crate::train::init::initialize;
use crate::train::load::LoadOptions;
use crate::train::session::Session;
use crate::train::state::TrainState;
use crate::{Error, Result};

/// What is there to start from.
pub(super) enum Origin {
    /// A checkpoint of the run itself, with sizes and epsilon of its model.
    Run(Box<Checkpoint>, XlnetConfig, f32),
    /// A model of whatever format.
    Model(Box<Imported>),
    /// Sizes alone.
    Nothing(XlnetConfig),
}

impl Origin {
    /// Finds what `config` names, and reads it.
    ///
    /// # Errors
    /// When a checkpoint is damaged, does not fit the sizes that are named, or must not be there.
    pub fn find(config: &FinetuneConfig, task: &Task) -> Result<Self> {
        let found = if config.model_dir.is_dir() { latest(&config.model_dir)? } else { None };
        if let Some(checkpoint) = found {
            if config.resume == "never" {
                let what = "resume = never, but this checkpoint is there; use another model_dir, or resume = auto";
                return Err(Error::data(checkpoint.path(), what));
            }
            let path = checkpoint.path().join(CONFIG_FILE);
            let eps = HuggingFaceConfig::read(&path)?.layer_norm_eps.map_or(LAYER_NORM_EPS, |eps| eps as f32);
            let sizes = XlnetConfig::read(&path)?;
            check_sizes(config, &sizes, "the checkpoint to go on from")?;
            return Ok(Origin::Run(Box::new(checkpoint), sizes, eps));
        }
        let Some(named) = &config.init_checkpoint else {
            if config.spiece_model_file.is_none() {
                return Err(no_vocabulary());
            }
            let Some(path) = &config.model_config_path else {
                return Err(Error::config(
                    "init_checkpoint is missing: name a pretrained model; or name sizes with model_config_path to start from nothing",
                ));
            };
            return Ok(Origin::Nothing(XlnetConfig::read(path)?));
        };
        let model = import(named, &config.import_options(task)?)?;
        check_sizes(config, &model.config, "init_checkpoint")?;
        Ok(Origin::Model(Box::new(model)))
    }

    /// The checkpoint of the run that goes on, if it does.
    pub fn checkpoint(&self) -> Option<&Path> {
        match self {
            Origin::Run(checkpoint, ..) => Some(checkpoint.path()),
            _ => None,
        }
    }
    /// Sizes of the model.
    pub fn sizes(&self) -> &XlnetConfig {
        match self {
            Origin::Run(_, sizes, _) | Origin::Nothing(sizes) => sizes,
            Origin::Model(model) => &model.config,
        }
    }
    /// Epsilon of its layer norms.
    pub fn layer_norm_eps(&self) -> f32 {
        match self {
            Origin::Run(_, _, eps) => *eps,
            Origin::Model(model) => model.settings.layer_norm_eps,
            Origin::Nothing(_) => LAYER_NORM_EPS,
        }
    }
    /// The vocabulary that is named, that of the run, or the one beside the model.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn tokenizer(&self, config: &FinetuneConfig) -> Result<Tokenizer> {
        let own = config.model_dir.join(VOCABULARY_FILE);
        let path = match (&config.spiece_model_file, self) {
            (named, Origin::Model(model)) => return model.open_tokenizer(named.as_deref()),
            (Some(named), _) => named.clone(),
            (None, Origin::Run(..)) => own,
            (None, Origin::Nothing(_)) => return Err(no_vocabulary()),
        };
        let tokenizer = Tokenizer::open(path)?;
        tokenizer.check_special_symbols()?;
        Ok(tokenizer)
    }

    /// Fills the weights, and whatever else a run that goes on needs; tells the state it goes on from.
    ///
    /// # Errors
    /// When weights do not fit, or the run was another one.
    pub fn fill(self, config: &FinetuneConfig, session: &mut Session, file: &TaskFile) -> Result<Option<TrainState>> {
        let init = config.init_options(config.seed);
        match self {
            Origin::Run(checkpoint, ..) => {
                let state = checkpoint.state();
                let there = TaskFile::read(&config.model_dir.join(TASK_FILE));
                let same = there.is_ok_and(|there| there.task == file.task && there.conversion == file.conversion);
                if !same || state.vocabulary.as_ref() != Some(&file.vocabulary) {
                    let what = "was trained for another task, vocabulary or lengths; use another model_dir";
                    return Err(Error::data(checkpoint.path(), what));
                }
                let (program, exec) = session.parts();
                checkpoint.load(program, exec)?;
                session.set_step(state.step);
                session.set_seed(state.seed);
                return Ok(Some(state.clone()));
            }
            Origin::Model(model) => {
                let options = LoadOptions { init, reset_heads: config.reset_heads, ..LoadOptions::default() };
                let (program, exec) = session.parts();
                model.load_into(exec, program, &options)?;
            }
            Origin::Nothing(_) => {
                let (program, exec) = session.parts();
                initialize(exec, program, &init)?;
            }
        }
        Ok(None)
    }
}

fn no_vocabulary() -> Error {
    Error::config("spiece_model_file is missing: name the SentencePiece model")
}

/// Sizes that are named besides a model must be the model's.
///
/// # Errors
/// When they are not.
pub(super) fn check_sizes(config: &FinetuneConfig, there: &XlnetConfig, whose: &str) -> Result<()> {
    let Some(path) = &config.model_config_path else { return Ok(()) };
    if XlnetConfig::read(path)? != *there {
        return Err(Error::data(path, format!("does not fit {whose}, which has {there:?}; drop model_config_path")));
    }
    Ok(())
}

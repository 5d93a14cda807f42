//! How a pretraining run begins and what it leaves: fresh weights, weights of another model, checkpoints.

use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, ModelDescription, latest, save_checkpoint};
use super::init::{InitOptions, initialize};
use super::load::{LoadOptions, load_into};
use super::metrics::Window;
use super::run_plan::RunPlan;
use super::session::Session;
use super::snapshot::Snapshot;
use super::state::TrainState;
use crate::data::loader::{Loader, Position};
use crate::model::hugging_face::{Architecture, HuggingFaceSettings, read_model};
use crate::{Error, Result};

/// The checkpoint to go on from, as `resume` says; `None` for a fresh start.
///
/// # Errors
/// When the checkpoint named is damaged, is of another vocabulary, or would be overtaken by later ones of `model_dir`.
pub(super) fn checkpoint_to_resume(plan: &RunPlan) -> Result<Option<Checkpoint>> {
    let directory = &plan.config.model_dir;
    let newest = || if directory.is_dir() { latest(directory) } else { Ok(None) };
    let found = match plan.config.resume.as_str() {
        "auto" => newest()?,
        "never" => match newest()? {
            Some(there) => {
                let what = "resume = never, but this checkpoint is there; use another model_dir, or resume = auto";
                return Err(Error::data(there.path(), what));
            }
            None => None,
        },
        path => {
            let named = Checkpoint::open(Path::new(path))?;
            let step = named.state().step;
            if let Some(later) = newest()?.filter(|there| there.state().step > step) {
                let what = format!("it is later than step {step} of {path}; move it away, or use another model_dir");
                return Err(Error::data(later.path(), what));
            }
            Some(named)
        }
    };
    if let Some(checkpoint) = &found
        && let (Some(then), Some(now)) = (&checkpoint.state().vocabulary, &plan.records.vocabulary_hash)
        && then != now
    {
        let what = format!("was trained with the vocabulary of SHA-256 {then}, but the records are of {now}");
        return Err(Error::data(checkpoint.path(), what));
    }
    Ok(found)
}

/// Fills parameters: from `init_checkpoint` where one is named, else at random.
///
/// # Errors
/// When the weights cannot be read or are of another model.
pub(super) fn fresh_start(plan: &RunPlan, session: &mut Session) -> Result<()> {
    let config = &plan.config;
    let init = InitOptions {
        init: config.init,
        init_std: config.init_std as f32,
        init_range: config.init_range as f32,
        seed: config.seed,
    };
    let (program, exec) = session.parts();
    let Some(named) = &config.init_checkpoint else { return initialize(exec, program, &init) };
    let directory = model_directory(named)?;
    let model = read_model(&directory)?;
    let (theirs, ours) = (model.config.ff_activation, plan.model.ff_activation);
    if theirs != ours {
        tracing::warn!("{} was trained with ff_activation {theirs:?}, this run has {ours:?}", directory.display());
    }
    let report = load_into(exec, program, &model.weights, &LoadOptions { init, ..LoadOptions::default() })?;
    tracing::info!("weights of {}:\n{report}", directory.display());
    Ok(())
}

/// A model's directory; for a directory of checkpoints its newest one.
fn model_directory(named: &Path) -> Result<PathBuf> {
    if named.is_dir()
        && !named.join("config.json").exists()
        && let Some(checkpoint) = latest(named)?
    {
        return Ok(checkpoint.path().to_owned());
    }
    Ok(named.to_owned())
}

/// Puts a checkpoint's tensors, data position and losses in place.
///
/// # Errors
/// When the checkpoint is of another model, batch or optimiser.
pub(super) fn resume(
    checkpoint: &Checkpoint,
    session: &mut Session,
    loader: &mut Loader,
    window: &mut Window,
) -> Result<()> {
    let (program, exec) = session.parts();
    checkpoint.load(program, exec)?;
    let TrainState { step, data, seed, loss_window, .. } = checkpoint.state().clone();
    let position: Position = serde_json::from_value(data)
        .map_err(|e| Error::data(checkpoint.path(), format!("its place in the data is not readable: {e}")))?;
    loader.seek(position);
    session.set_step(step);
    session.set_seed(seed);
    *window = Window { losses: loss_window };
    Ok(())
}

/// Writes a checkpoint of everything that [`resume`] needs.
///
/// # Errors
/// When the device fails or the disk refuses.
pub(super) fn save(plan: &RunPlan, session: &mut Session, position: Position, window: &Window) -> Result<PathBuf> {
    let (model, state) = (description(plan, session), state(plan, session, position, window)?);
    let (program, exec) = session.parts();
    save_checkpoint(&plan.config.model_dir, program, exec, &model, &state, plan.config.max_save)
}

/// Copies everything that [`resume`] needs.
///
/// # Errors
/// When the device fails.
pub(super) fn snapshot(plan: &RunPlan, session: &mut Session, position: Position, window: &Window) -> Result<Snapshot> {
    let (model, state) = (description(plan, session), state(plan, session, position, window)?);
    let (program, exec) = session.parts();
    Snapshot::take(program, exec, model, state)
}

fn description(plan: &RunPlan, session: &Session) -> ModelDescription {
    let settings = HuggingFaceSettings::new(Architecture::LanguageModel, &session.options().transformer);
    ModelDescription { config: plan.model.clone(), settings }
}

fn state(plan: &RunPlan, session: &Session, position: Position, window: &Window) -> Result<TrainState> {
    let json = |e| Error::config(format!("the state of the run is not JSON: {e}"));
    Ok(TrainState {
        step: session.step(),
        data: serde_json::to_value(position).map_err(json)?,
        seed: session.seed(),
        loss_window: window.losses.clone(),
        vocabulary: plan.records.vocabulary_hash.clone(),
        settings: serde_json::to_value(&plan.config).map_err(json)?,
    })
}

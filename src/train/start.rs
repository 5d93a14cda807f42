//! How a pretraining run begins and what it leaves: fresh weights, weights of another model, checkpoints.

use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, ModelDescription, latest, set_memory_rows, tensor_files, write_checkpoint};
use super::guard::LossGuard;
use super::import::{ImportOptions, import};
use super::init::{InitOptions, initialize};
use super::load::LoadOptions;
use super::metrics::Window;
use super::moments::load_moments;
use super::ranks::{Rows, Start};
use super::run_plan::RunPlan;
use super::session::Session;
use super::snapshot::Snapshot;
use super::state::TrainState;
use crate::data::loader::{Loader, Position};
use crate::model::hugging_face::{Architecture, HuggingFaceSettings};
use crate::tensor::TensorId;
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
    let sizes = Some(plan.model.clone());
    let wanted = ImportOptions { sizes, optimizer: config.init_optimizer, ..ImportOptions::default() };
    let model = import(named, &wanted)?;
    let (theirs, ours) = (model.config.ff_activation, plan.model.ff_activation);
    if theirs != ours {
        tracing::warn!("{} was trained with ff_activation {theirs:?}, this run has {ours:?}", named.display());
    }
    model.load_into(exec, program, &LoadOptions { init, ..LoadOptions::default() })?;
    if config.init_optimizer {
        let what = "has no state of the optimiser; drop init_optimizer to start with its weights alone";
        let state = model.optimizer.ok_or_else(|| Error::data(named, what))?;
        let missing = load_moments(exec, program, &state)?;
        if missing > 0 {
            tracing::warn!("{missing} parameters have no moments in {}; theirs start as zeros", named.display());
        }
        session.set_step(state.step);
    }
    Ok(())
}

/// Puts a checkpoint's parameters and moments in place; returns the memories of its whole batch.
///
/// # Errors
/// When the checkpoint is of another model, batch or optimiser.
pub(super) fn load(checkpoint: &Checkpoint, plan: &RunPlan, session: &mut Session) -> Result<Vec<Rows>> {
    let (program, exec) = session.parts();
    let mut memory = vec![];
    checkpoint.read(program, Some(plan.records.settings.bsz), &mut |id, bytes| {
        if program.memory.contains(&id) {
            memory.push((id, bytes));
            return Ok(());
        }
        exec.write(id, &bytes)
    })?;
    Ok(memory)
}

/// Puts data position and losses of a checkpoint in place.
///
/// # Errors
/// When its position is not readable.
pub(super) fn resume(
    from: &Start,
    session: &mut Session,
    loader: &mut Loader,
    window: &mut Window,
    guard: &mut LossGuard,
) -> Result<()> {
    let TrainState { step, data, seed, loss_window, guard: usual, loss_scale, .. } = from.state.clone();
    let position: Position = serde_json::from_value(data)
        .map_err(|e| Error::data(&from.path, format!("its place in the data is not readable: {e}")))?;
    loader.seek(position);
    session.set_step(step);
    session.set_seed(seed);
    session.resume_loss_scale(loss_scale);
    *window = Window { losses: loss_window };
    *guard = usual;
    Ok(())
}

/// What of a checkpoint is not in the session.
pub(super) struct Progress<'a> {
    /// Memories of the whole batch.
    pub memory: Vec<Rows>,
    /// The next batch.
    pub position: Position,
    /// Losses not reported yet.
    pub window: &'a Window,
    /// What losses are usual.
    pub guard: &'a LossGuard,
}

/// Writes a checkpoint of everything that [`load`] and [`resume`] need.
///
/// # Errors
/// When the device fails or the disk refuses.
pub(super) fn save(plan: &RunPlan, session: &mut Session, progress: &Progress, max_save: usize) -> Result<PathBuf> {
    let memory = &progress.memory;
    let (model, state) = (description(plan, session), state(plan, session, progress)?);
    let (program, exec) = session.parts();
    let mut files = tensor_files(program, model.config.n_layer);
    set_memory_rows(&mut files, memory);
    let mut read = |id: TensorId, bytes: &mut Vec<u8>| {
        if let Some((_, rows)) = memory.iter().find(|(of, _)| *of == id) {
            bytes.extend_from_slice(rows);
            return Ok(());
        }
        bytes.resize(program.program.tensor(id).bytes(), 0);
        exec.read(id, bytes)
    };
    write_checkpoint(&plan.config.model_dir, &files, &mut read, &model, &state, max_save)
}

/// Copies everything that [`load`] and [`resume`] need.
///
/// # Errors
/// When the device fails.
pub(super) fn snapshot(plan: &RunPlan, session: &mut Session, progress: Progress) -> Result<Snapshot> {
    let (model, state) = (description(plan, session), state(plan, session, &progress)?);
    let (program, exec) = session.parts();
    Snapshot::take(program, exec, progress.memory, model, state)
}

fn description(plan: &RunPlan, session: &Session) -> ModelDescription {
    let settings = HuggingFaceSettings::new(Architecture::LanguageModel, &session.options().transformer);
    ModelDescription { config: plan.model.clone(), settings }
}

fn state(plan: &RunPlan, session: &Session, progress: &Progress) -> Result<TrainState> {
    let json = |e| Error::config(format!("the state of the run is not JSON: {e}"));
    Ok(TrainState {
        step: session.step(),
        data: serde_json::to_value(progress.position).map_err(json)?,
        seed: session.seed(),
        loss_window: progress.window.losses.clone(),
        guard: progress.guard.clone(),
        loss_scale: session.loss_scale().state(),
        vocabulary: plan.records.vocabulary_hash.clone(),
        settings: serde_json::to_value(&plan.config).map_err(json)?,
    })
}

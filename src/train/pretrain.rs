//! The pretraining loop: batches, steps, metrics, checkpoints.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::checkpoint::remove_leftovers;
use super::disk;
use super::guard::{self, LossGuard, Verdict, find_state_not_finite};
use super::held_out::HeldOut;
use super::keys::Keyed;
use super::lock::RunLock;
use super::metrics::{MetricsWriter, Row, Speed, Window, row};
use super::ranks::{Ranks, Start};
use super::run_plan::RunPlan;
use super::saving::{SaveEvent, Saving};
use super::session::{Copies, Session, StepResult};
use super::snapshot::{Saved, Snapshot};
use super::start::{self, Progress};
use crate::atomic::{AtomicFile, remove_temporaries};
use crate::data::loader::{Loader, Position};
use crate::distributed::{Collective, Single};
use crate::{Error, Result};

/// What a run tells while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// It is about to begin.
    Start {
        /// Updates done already.
        step: u64,
        /// Updates in all.
        train_steps: u64,
        /// Trainable values.
        parameters: usize,
        /// Bytes that tensors take on the device.
        device_bytes: usize,
        /// Batches of one epoch.
        steps_per_epoch: u64,
        /// The checkpoint it goes on from.
        checkpoint: Option<&'a Path>,
        /// Processes that share each batch, and what carries their bytes.
        ranks: (usize, &'a str),
    },
    /// One update was done.
    Step {
        /// Its numbers.
        result: &'a StepResult,
        /// Input tokens a second since the last line of log.
        tokens_per_s: f64,
    },
    /// A line of log; see [`Row::log_line`].
    Log(&'a Row),
    /// Held-out loss was measured.
    Evaluated {
        /// Updates done.
        step: u64,
        /// Mean over predicted tokens, nats.
        loss: f64,
    },
    /// A checkpoint is complete.
    Saved(&'a Path),
    /// A checkpoint could not be written; training goes on, and tries again later.
    SaveFailed {
        /// Updates that it would have held.
        step: u64,
        /// Why.
        error: &'a Error,
        /// The newest checkpoint there is.
        kept: Option<&'a Path>,
    },
    /// A loss far above the usual ones; checkpoints wait until it is over.
    SpikeBegins {
        /// Updates done.
        step: u64,
        /// The loss.
        loss: f64,
        /// The mean of the usual ones.
        mean: f64,
    },
    /// Losses are usual again.
    SpikeEnds {
        /// Updates done.
        step: u64,
        /// Updates that were unusual.
        steps: u64,
    },
    /// Metrics could not be written; training goes on, and writes them later. Told once until they can be again.
    LogFailed(&'a Error),
}

impl<'a> From<SaveEvent<'a>> for Event<'a> {
    fn from(event: SaveEvent<'a>) -> Self {
        match event {
            SaveEvent::Saved(path) => Event::Saved(path),
            SaveEvent::Failed { step, error, kept } => Event::SaveFailed { step, error, kept },
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All updates are done.
    Finished,
    /// It was asked to stop, and saved before it did.
    Interrupted,
}

/// A run that is ready to start, or one rank of it. Every rank computes; the first one alone measures held-out loss, and
/// writes metrics and checkpoints.
pub struct Pretraining {
    plan: RunPlan,
    ranks: Ranks,
    session: Session,
    loader: Loader,
    /// Of the batch after the last one that was trained on; the loader may be further.
    position: Position,
    /// The next batch is on the device, or why not.
    uploaded: Option<Result<()>>,
    held_out: Option<HeldOut>,
    metrics: Option<MetricsWriter>,
    window: Window,
    guard: LossGuard,
    speed: Speed,
    saving: Saving,
    log_failed: bool,
    _locks: Vec<RunLock>,
}

impl Pretraining {
    /// Reads the data, builds the program and starts or resumes the weights.
    ///
    /// # Errors
    /// When data, weights or a checkpoint do not fit, a directory cannot be written, or another run uses it.
    pub fn prepare(plan: RunPlan) -> Result<Self> {
        Self::prepare_rank(plan, Box::new(Single))
    }

    /// Prepares the run as one rank of `group`; all ranks do so with the same settings. Rank 0 reads and writes the
    /// directories of the run and tells the others.
    ///
    /// # Errors
    /// Those of [`Pretraining::prepare`], and when ranks differ or one has ended.
    pub fn prepare_rank(plan: RunPlan, group: Box<dyn Collective>) -> Result<Self> {
        let mut ranks = Ranks::new(group, plan.shares())?;
        match Self::start(plan, &mut ranks) {
            Ok(start) => Ok(start(ranks)),
            Err(error) => {
                ranks.fail(&error);
                Err(error)
            }
        }
    }
    fn start(mut plan: RunPlan, ranks: &mut Ranks) -> Result<impl FnOnce(Ranks) -> Self + use<>> {
        ranks.check_plan(&plan)?;
        let first = ranks.is_first();
        let locks = if first { take_directories(&plan)? } else { vec![] };
        let found = if first { start::checkpoint_to_resume(&plan)? } else { None };
        let start = found.as_ref().map(|c| Start { path: c.path().to_owned(), state: c.state().clone() });
        let start = ranks.share_start(start)?;
        if let Some(seed) = start.as_ref().map(|start| start.state.seed)
            && seed != plan.config.seed
        {
            tracing::warn!("going on with the checkpoint's seed {seed}, not {}", plan.config.seed);
            plan.config.seed = seed;
        }
        let config = &plan.config;
        let mut loader = Loader::open_rows(&plan.records, &plan.loader(), ranks.rows())?;
        // Rank 0 alone saves.
        let copies = if config.background_save && first { Copies::Snapshot } else { Copies::None };
        let mut session = Session::open(&plan.model, plan.step_options(), plan.device, config.seed, copies)?;
        if config.check_finite {
            session = session.check_finite();
        }
        ranks.join_devices(session.exec(), config.reduce)?;
        session.set_rows(ranks.rows())?;
        session.reset_memory()?;
        let memory = match &found {
            Some(checkpoint) => start::load(checkpoint, &plan, &mut session)?,
            None if first => start::fresh_start(&plan, &mut session).map(|()| vec![])?,
            None => vec![],
        };
        session.set_step(ranks.first(session.step())?); // weights may come with their number of updates
        let (program, exec) = session.parts();
        ranks.share_weights(program, exec)?;
        let (mut window, mut guard) = (Window::default(), LossGuard::default());
        if let Some(start) = &start {
            ranks.scatter_memory(program, exec, &memory)?;
            start::resume(start, &mut session, &mut loader, &mut window, &mut guard)?;
        }
        let (mut held_out, mut metrics) = (None, None);
        if first {
            held_out = HeldOut::open(&plan)?;
            metrics = Some(MetricsWriter::open(log_dir(&plan), session.step(), config.tensorboard)?);
            write_settings(&plan)?;
            warn_of_little_room(&plan, &session);
        }
        let checkpoint = start.map(|start| start.path);
        Ok(move |ranks| Pretraining {
            saving: Saving::new(checkpoint, session.step()),
            plan,
            ranks,
            session,
            position: loader.position(),
            uploaded: None,
            loader,
            held_out,
            metrics,
            window,
            guard,
            speed: Speed::default(),
            log_failed: false,
            _locks: locks,
        })
    }

    /// The step program on its device.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
    /// This rank among those of the run.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }
    /// Leaves the group of ranks in order, when all is done.
    ///
    /// # Errors
    /// When another rank has failed.
    pub fn finish(&mut self) -> Result<()> {
        self.ranks.finish()
    }
    /// The newest checkpoint, written or read; those that are written, only at rank 0.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.saving.checkpoint()
    }

    /// Trains until all updates are done or `stop` is set; the step in progress is finished and saved either way. A
    /// save that fails on the way is told and tried again.
    ///
    /// # Errors
    /// When the loss or the gradient stops being a number or a spike of the loss lasts (nothing is saved then, older
    /// checkpoints stay), the device fails, the last checkpoint cannot be written, or another rank has failed.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        self.tell_start(observe);
        let trained = self.train(stop, observe);
        let saved = self.finish_saving(trained.is_ok(), observe);
        let logged = self.metrics.as_mut().map_or(Ok(()), MetricsWriter::flush);
        self.tell_log(logged, observe);
        trained.and(saved).inspect_err(|error| self.ranks.fail(error))?;
        let finished = self.session.step() >= self.plan.config.train_steps;
        Ok(if finished { Outcome::Finished } else { Outcome::Interrupted })
    }
    fn tell_start(&mut self, observe: &mut dyn FnMut(Event)) {
        let program = self.session.program();
        let (step, parameters) = (self.session.step(), program.parameter_count());
        observe(Event::Start {
            step,
            train_steps: self.plan.config.train_steps,
            parameters,
            device_bytes: self.session.exec().held_bytes(),
            steps_per_epoch: self.loader.steps_per_epoch(),
            checkpoint: self.saving.checkpoint(),
            ranks: (self.ranks.ranks(), self.ranks.engine()),
        });
    }
    fn train(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let tokens = self.plan.tokens_per_step();
        self.speed = Speed::default();
        self.evaluate_when_due(stop, observe)?; // a run that was stopped while it did
        // Ranks stop and save together, whoever is asked to.
        while self.session.step() < self.plan.config.train_steps && !self.ranks.any(stop.load(Ordering::Relaxed))? {
            let result = self.step()?;
            self.speed.add(tokens);
            observe(Event::Step { result: &result, tokens_per_s: self.speed.rate() });
            self.log_when_due(&result, observe);
            self.watch(&result, observe)?;
            self.evaluate_when_due(stop, observe)?;
            self.saving.poll(&mut |event| observe(event.into()));
            let config = &self.plan.config;
            let due = self.saving.is_due(result.step, Some(config.save_steps), config.save_minutes);
            self.saving.waits |= self.ranks.any(due)?;
            if self.saving.waits && !self.guard.in_spike() {
                self.save(observe)?;
            }
        }
        Ok(())
    }

    /// One update on the next batch.
    ///
    /// # Errors
    /// When the loss or the gradient is no number, a record file changed, or the device fails.
    pub fn step(&mut self) -> Result<StepResult> {
        let result = if self.ranks.ranks() == 1 { self.step_alone()? } else { self.step_with_others()? };
        if result.diverged() {
            let StepResult { step, loss, gradient_norm, .. } = result;
            return Err(self.diverged(format!("step {step} has loss {loss} and gradient norm {gradient_norm}")));
        }
        self.window.add(result.loss);
        Ok(result)
    }
    fn step_with_others(&mut self) -> Result<StepResult> {
        let batch = self.loader.next_batch()?;
        self.position = self.loader.position();
        self.ranks.train(&mut self.session, &batch)
    }
    /// The next batch is read and uploaded while this one's step runs. Where that fails, it is the next step that does.
    fn step_alone(&mut self) -> Result<StepResult> {
        let upload = |session: &mut Session, loader: &mut Loader| session.upload_batch(&loader.next_batch()?);
        match self.uploaded.take() {
            Some(uploaded) => uploaded?,
            None => upload(&mut self.session, &mut self.loader)?,
        }
        self.position = self.loader.position();
        let (loader, uploaded) = (&mut self.loader, &mut self.uploaded);
        let is_last = self.session.step() + 1 >= self.plan.config.train_steps;
        self.session.train_and(|session| {
            if !is_last {
                *uploaded = Some(upload(session, loader));
            }
        })
    }
    /// The sentence that ends a run whose numbers are none, with all that can be found out.
    fn diverged(&mut self, what: String) -> Error {
        let good = self.last_good();
        guard::diverged(&mut self.session, &what, &good)
    }
    fn last_good(&mut self) -> String {
        let good = self.saving.last_good();
        if self.ranks.is_first() { good } else { "rank 0 says which checkpoint is the last good one".into() }
    }
    /// Tells of losses that jump, and stops when they stay up. A usual loss proves the weights that were saved last.
    fn watch(&mut self, result: &StepResult, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let (StepResult { step, loss, .. }, config) = (*result, &self.plan.config);
        match self.guard.watch(loss, config.loss_spike) {
            Verdict::Usual => return self.saving.write(&config.model_dir, config.max_save),
            Verdict::SpikeBegins { mean } => {
                observe(Event::SpikeBegins { step, loss, mean });
                self.saving.discard();
                self.saving.waits = true;
            }
            Verdict::SpikeEnds { steps } => observe(Event::SpikeEnds { step, steps }),
            Verdict::Spike { steps, mean } if steps >= config.loss_spike_steps => {
                let height = config.loss_spike;
                let good = self.last_good();
                return Err(guard::spike_lasts(result, steps, mean, height, &good));
            }
            Verdict::Spike { .. } | Verdict::NotFinite => {}
        }
        Ok(())
    }

    fn log_when_due(&mut self, result: &StepResult, observe: &mut dyn FnMut(Event)) {
        let config = &self.plan.config;
        if result.step.is_multiple_of(config.iterations) || result.step == config.train_steps {
            let row = row(result, &self.window, &self.speed);
            observe(Event::Log(&row));
            self.write_metrics(row, observe);
            (self.window, self.speed) = (Window::default(), Speed::default());
        }
    }
    fn write_metrics(&mut self, row: Row, observe: &mut dyn FnMut(Event)) {
        let written = self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.write(row));
        self.tell_log(written, observe);
    }
    /// Tells a failure to log once, until logging works again.
    fn tell_log(&mut self, logged: Result<()>, observe: &mut dyn FnMut(Event)) {
        match &logged {
            Err(error) if !self.log_failed => observe(Event::LogFailed(error)),
            _ => {}
        }
        self.log_failed = logged.is_err();
    }

    /// Measures held-out loss where the step asks for it and it is not yet among the metrics.
    fn evaluate_when_due(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let (step, config) = (self.session.step(), &self.plan.config);
        let every = config.eval_every_steps.unwrap_or(config.save_steps);
        let due = step > 0 && (step.is_multiple_of(every) || step == config.train_steps);
        let measured = |rows: &[Row]| rows.iter().rev().any(|row| row.step == step && row.eval_loss.is_some());
        let known = self.metrics.as_ref().is_some_and(|metrics| measured(metrics.rows()));
        let Some(held_out) = self.held_out.as_mut().filter(|_| due && !known) else { return Ok(()) };
        let Some(loss) = held_out.loss(&mut self.session, stop)? else { return Ok(()) };
        if !loss.is_finite() {
            return Err(self.diverged(format!("held-out loss is {loss} after step {step}")));
        }
        observe(Event::Evaluated { step, loss });
        self.write_metrics(Row { step, eval_loss: Some(loss), ..Row::default() }, observe);
        self.speed = Speed::default(); // evaluating is no training
        Ok(())
    }

    /// Writes a checkpoint, or takes the snapshot that the next loss lets write, and draws the loss curve.
    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.session.step();
        self.saving.begin(step, &mut |event| observe(event.into()));
        let (program, exec) = self.session.parts();
        self.ranks.check_weights(program, exec)?;
        let memory = self.ranks.gather_memory(program, exec)?;
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let drawn = metrics.plot();
        let logs = metrics.handles();
        self.tell_log(drawn, observe);
        let max_save = self.checkpoints_kept();
        let (plan, session) = (&self.plan, &mut self.session);
        let progress = Progress { memory, position: self.position, window: &self.window, guard: &self.guard };
        if plan.config.background_save {
            let snapshot = start::snapshot(plan, session, progress)?;
            // A step can overflow a weight although its own loss was a number.
            if !snapshot.is_finite() {
                return Err(self.diverged(format!("step {step} left values that are no finite numbers")));
            }
            self.saving.hold(snapshot, logs);
        } else {
            if find_state_not_finite(session)?.is_some() {
                return Err(self.diverged(format!("step {step} left values that are no finite numbers")));
            }
            let result = start::save(plan, session, &progress, max_save);
            self.saving.tell(Saved { step, result }, &mut |event| observe(event.into()));
        }
        self.speed = Speed::default(); // saving is no training
        Ok(())
    }
    /// The end of a run in a spike is saved, but those from before it stay.
    fn checkpoints_kept(&self) -> usize {
        if self.guard.in_spike() { 0 } else { self.plan.config.max_save }
    }
    /// Finishes the save in progress and, when training went well, saves the last step.
    fn finish_saving(&mut self, well: bool, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let dir = self.plan.config.model_dir.clone();
        self.saving.wait(&mut |event| observe(event.into()));
        self.saving.write(&dir, self.checkpoints_kept())?;
        self.saving.wait(&mut |event| observe(event.into()));
        let step = self.session.step();
        // Rank 0 may have found that the save of this step failed.
        if !well || !self.ranks.any(!self.saving.has(step))? {
            return Ok(());
        }
        let mut failure = None;
        let mut watch = |event: Event| match event {
            Event::SaveFailed { error, kept, .. } => failure = Some(unsaved_end(step, error, kept)),
            other => observe(other),
        };
        self.save(&mut watch)?;
        self.saving.write(&dir, self.checkpoints_kept())?;
        self.saving.wait(&mut |event| watch(event.into()));
        failure.map_or(Ok(()), Err)
    }
}

/// The sentence of a run whose last step cannot be saved.
pub(crate) fn unsaved_end(step: u64, error: &Error, kept: Option<&Path>) -> Error {
    let kept = kept.map_or("there is no checkpoint".into(), |kept| format!("the last good one is {}", kept.display()));
    Error::config(format!("the run ends at step {step}, which cannot be saved: {error}; {kept}; make room and repeat"))
}

/// Where metrics go.
fn log_dir(plan: &RunPlan) -> &Path {
    plan.config.log_dir.as_ref().unwrap_or(&plan.config.model_dir)
}

/// Creates the directories that the run writes, keeps other runs out of them, and clears away what a killed one left.
fn take_directories(plan: &RunPlan) -> Result<Vec<RunLock>> {
    let (model_dir, log_dir) = (plan.config.model_dir.as_path(), log_dir(plan));
    let mut locks = vec![];
    for dir in [model_dir, log_dir] {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        if locks.is_empty() || !same_directory(model_dir, log_dir) {
            locks.push(RunLock::acquire(dir)?);
        }
        remove_temporaries(dir);
    }
    remove_leftovers(model_dir);
    Ok(locks)
}

fn same_directory(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Saves the decided settings, complete, as a file that starts the same run.
fn write_settings(plan: &RunPlan) -> Result<()> {
    let path = plan.config.model_dir.join("run.toml");
    let mut file = AtomicFile::create(&path)?;
    file.append(b"# Written by `xlnet pretrain`; a run of this file is the same run.\n")?;
    file.append(plan.config.to_toml()?.as_bytes())?;
    file.commit()
}

/// Tells before the work, not after it, that the disk takes no checkpoint.
fn warn_of_little_room(plan: &RunPlan, session: &Session) {
    let (dir, needed) = (&plan.config.model_dir, Snapshot::bytes(session.program()) as u64);
    match disk::space(dir) {
        Some((_, free)) if free < needed => {
            let dir = dir.display();
            tracing::warn!("the disk of {dir} has {free} bytes free, but a checkpoint needs {needed}; make room");
        }
        _ => {}
    }
}

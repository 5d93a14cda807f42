//! The pretraining loop: batches, steps, metrics, checkpoints.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checkpoint::remove_leftovers;
use super::held_out::HeldOut;
use super::lock::RunLock;
use super::metrics::{MetricsWriter, Row, Speed, Window, row};
use super::run_plan::RunPlan;
use super::session::{Session, StepResult};
use super::snapshot::{Saved, Saver};
use super::start;
use crate::atomic::{AtomicFile, remove_temporaries};
use crate::data::loader::Loader;
use crate::{Error, Result};

/// A save that failed is tried again after this time, or when the next one is due.
const RETRY: Duration = Duration::from_secs(60);

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
    /// Metrics could not be written; training goes on, and writes them later. Told once until they can be again.
    LogFailed(&'a Error),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All updates are done.
    Finished,
    /// It was asked to stop, and saved before it did.
    Interrupted,
}

/// A run that is ready to start.
pub struct Pretraining {
    plan: RunPlan,
    session: Session,
    loader: Loader,
    held_out: Option<HeldOut>,
    metrics: MetricsWriter,
    window: Window,
    speed: Speed,
    saver: Saver,
    /// When the last save began.
    save_began: Instant,
    /// The step of the newest checkpoint, or of the one that is being written.
    saved: Option<u64>,
    /// Why the last save failed.
    save_error: Option<Error>,
    log_failed: bool,
    checkpoint: Option<PathBuf>,
    _locks: Vec<RunLock>,
}

impl Pretraining {
    /// Reads the data, builds the program and starts or resumes the weights.
    ///
    /// # Errors
    /// When data, weights or a checkpoint do not fit, a directory cannot be written, or another run uses it.
    pub fn prepare(mut plan: RunPlan) -> Result<Self> {
        let locks = take_directories(&plan)?;
        let found = start::checkpoint_to_resume(&plan)?;
        if let Some(seed) = found.as_ref().map(|checkpoint| checkpoint.state().seed)
            && seed != plan.config.seed
        {
            tracing::warn!("going on with the checkpoint's seed {seed}, not {}", plan.config.seed);
            plan.config.seed = seed;
        }
        let config = &plan.config;
        let mut loader = Loader::open(&plan.records, &plan.loader())?;
        let mut session = Session::new(&plan.model, plan.step_options(), plan.device, config.seed)?;
        session.reset_memory()?;
        let mut window = Window::default();
        match &found {
            Some(checkpoint) => start::resume(checkpoint, &mut session, &mut loader, &mut window)?,
            None => start::fresh_start(&plan, &mut session)?,
        }
        let held_out = HeldOut::open(&plan)?;
        let metrics = MetricsWriter::open(log_dir(&plan), session.step(), config.tensorboard)?;
        write_settings(&plan)?;
        let checkpoint = found.map(|checkpoint| checkpoint.path().to_owned());
        Ok(Pretraining {
            saved: checkpoint.is_some().then_some(session.step()),
            plan,
            session,
            loader,
            held_out,
            metrics,
            window,
            speed: Speed::default(),
            saver: Saver::default(),
            save_began: Instant::now(),
            save_error: None,
            log_failed: false,
            checkpoint,
            _locks: locks,
        })
    }

    /// The step program on its device.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
    /// The newest checkpoint, written or read.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// Trains until all updates are done or `stop` is set; the step in progress is finished and saved either way. A
    /// save that fails on the way is told and tried again.
    ///
    /// # Errors
    /// When the loss or the gradient stops being a number (nothing is saved then, older checkpoints stay), the device
    /// fails, or the last checkpoint cannot be written.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        self.tell_start(observe);
        self.save_began = Instant::now();
        let trained = self.train(stop, observe);
        let saved = self.finish_saving(trained.is_ok(), observe);
        let logged = self.metrics.flush();
        self.tell_log(logged, observe);
        trained.and(saved)?;
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
            checkpoint: self.checkpoint.as_deref(),
        });
    }
    fn train(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let tokens = self.plan.tokens_per_step();
        self.speed = Speed::default();
        self.evaluate_when_due(stop, observe)?; // a run that was stopped while it did
        while self.session.step() < self.plan.config.train_steps && !stop.load(Ordering::Relaxed) {
            let result = self.step()?;
            self.speed.add(tokens);
            observe(Event::Step { result: &result, tokens_per_s: self.speed.rate() });
            self.log_when_due(&result, observe);
            self.evaluate_when_due(stop, observe)?;
            if let Some(saved) = self.saver.poll() {
                self.tell_saved(saved, observe);
            }
            if self.save_is_due() {
                self.save(observe)?;
            }
        }
        Ok(())
    }

    /// One update on the next batch.
    ///
    /// # Errors
    /// When the loss or the gradient is no number, or the device fails.
    pub fn step(&mut self) -> Result<StepResult> {
        let batch = self.loader.next_batch();
        self.session.upload_batch(&batch)?;
        let result = self.session.train()?;
        if !(result.loss.is_finite() && result.gradient_norm.is_finite()) {
            return Err(self.diverged(&result));
        }
        self.window.add(result.loss);
        Ok(result)
    }
    fn diverged(&mut self, result: &StepResult) -> Error {
        if let Some(Saved { result: Ok(path), .. }) = self.saver.wait() {
            self.checkpoint = Some(path);
        }
        let StepResult { step, loss, gradient_norm, .. } = result;
        let kept = match &self.checkpoint {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".into(),
        };
        Error::config(format!(
            "step {step} has loss {loss} and gradient norm {gradient_norm}, so training stops; {kept}; lower \
             learning_rate, raise warmup_steps or lower clip"
        ))
    }

    fn log_when_due(&mut self, result: &StepResult, observe: &mut dyn FnMut(Event)) {
        let config = &self.plan.config;
        if result.step.is_multiple_of(config.iterations) || result.step == config.train_steps {
            let row = row(result, &self.window, &self.speed);
            observe(Event::Log(&row));
            let written = self.metrics.write(row);
            self.tell_log(written, observe);
            (self.window, self.speed) = (Window::default(), Speed::default());
        }
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
        let Some(held_out) = self.held_out.as_mut().filter(|_| due && !measured(self.metrics.rows())) else {
            return Ok(());
        };
        let Some(loss) = held_out.loss(&mut self.session, stop)? else { return Ok(()) };
        observe(Event::Evaluated { step, loss });
        let written = self.metrics.write(Row { step, eval_loss: Some(loss), ..Row::default() });
        self.tell_log(written, observe);
        self.speed = Speed::default(); // evaluating is no training
        Ok(())
    }

    fn save_is_due(&self) -> bool {
        let (config, since) = (&self.plan.config, self.save_began.elapsed());
        let by_time = config.save_minutes > 0.0 && since.as_secs_f64() >= config.save_minutes * 60.0;
        let again = self.save_error.is_some() && since >= RETRY;
        self.session.step().is_multiple_of(config.save_steps) || by_time || again
    }
    /// Writes a checkpoint, or starts to, and draws the loss curve.
    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        if let Some(before) = self.saver.wait() {
            self.tell_saved(before, observe); // never two at a time
        }
        (self.save_began, self.saved) = (Instant::now(), Some(self.session.step()));
        let drawn = self.metrics.plot();
        self.tell_log(drawn, observe);
        let (plan, session, position) = (&self.plan, &mut self.session, self.loader.position());
        if plan.config.background_save {
            let snapshot = start::snapshot(plan, session, position, &self.window)?;
            let (dir, max_save, logs) = (&plan.config.model_dir, plan.config.max_save, self.metrics.handles());
            self.saver.start(snapshot, dir, max_save, logs)?;
        } else {
            let (step, result) = (session.step(), start::save(plan, session, position, &self.window));
            self.tell_saved(Saved { step, result }, observe);
        }
        self.speed = Speed::default(); // saving is no training
        Ok(())
    }
    fn tell_saved(&mut self, Saved { step, result }: Saved, observe: &mut dyn FnMut(Event)) {
        match result {
            Ok(path) => {
                observe(Event::Saved(&path));
                (self.checkpoint, self.save_error) = (Some(path), None);
            }
            Err(error) => {
                observe(Event::SaveFailed { step, error: &error, kept: self.checkpoint.as_deref() });
                (self.saved, self.save_error) = (None, Some(error));
            }
        }
    }
    /// Waits for the save in progress and, when training went well, saves the last step.
    fn finish_saving(&mut self, well: bool, observe: &mut dyn FnMut(Event)) -> Result<()> {
        if let Some(before) = self.saver.wait() {
            self.tell_saved(before, observe);
        }
        let step = self.session.step();
        if !well || self.saved == Some(step) {
            return Ok(());
        }
        let mut failure = None;
        let mut watch = |event: Event| match event {
            Event::SaveFailed { error, kept, .. } => failure = Some(unsaved_end(step, error, kept)),
            other => observe(other),
        };
        self.save(&mut watch)?;
        if let Some(last) = self.saver.wait() {
            self.tell_saved(last, &mut watch);
        }
        failure.map_or(Ok(()), Err)
    }
}

fn unsaved_end(step: u64, error: &Error, kept: Option<&Path>) -> Error {
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

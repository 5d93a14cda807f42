//! The pretraining loop: batches, steps, metrics, checkpoints.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::keys::Keyed;
use super::metrics::{MetricsWriter, Row, Speed, Window, row};
use super::run_plan::RunPlan;
use super::session::{Session, StepResult};
use super::start;
use crate::atomic::AtomicFile;
use crate::data::loader::{Loader, LoaderOptions, Position};
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
    checkpoint: Option<PathBuf>,
}

impl Pretraining {
    /// Reads the data, builds the program and starts or resumes the weights.
    ///
    /// # Errors
    /// When data, weights or a checkpoint do not fit, or a directory cannot be written.
    pub fn prepare(mut plan: RunPlan) -> Result<Self> {
        let found = start::checkpoint_to_resume(&plan)?;
        if let Some(seed) = found.as_ref().map(|checkpoint| checkpoint.state().seed)
            && seed != plan.config.seed
        {
            tracing::warn!("going on with the checkpoint's seed {seed}, not {}", plan.config.seed);
            plan.config.seed = seed;
        }
        let config = &plan.config;
        std::fs::create_dir_all(&config.model_dir).map_err(|e| Error::io("create", &config.model_dir, e))?;
        let mut loader = Loader::open(&plan.records, &plan.loader())?;
        let mut session = Session::new(&plan.model, plan.step_options(), plan.device, config.seed)?;
        session.reset_memory()?;
        let mut window = Window::default();
        match &found {
            Some(checkpoint) => start::resume(checkpoint, &mut session, &mut loader, &mut window)?,
            None => start::fresh_start(&plan, &mut session)?,
        }
        let held_out = HeldOut::open(&plan)?;
        let log_dir = config.log_dir.as_ref().unwrap_or(&config.model_dir);
        let metrics = MetricsWriter::open(log_dir, session.step(), config.tensorboard)?;
        write_settings(&plan)?;
        let checkpoint = found.map(|checkpoint| checkpoint.path().to_owned());
        Ok(Pretraining { plan, session, loader, held_out, metrics, window, checkpoint })
    }

    /// The step program on its device.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
    /// The newest checkpoint, written or read.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// Trains until all updates are done or `stop` is set; the step in progress is finished and saved either way.
    ///
    /// # Errors
    /// When the loss or the gradient stops being a number (nothing is saved then, older checkpoints stay), the device
    /// fails, or a file cannot be written.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let (train_steps, iterations, save_steps) =
            (self.plan.config.train_steps, self.plan.config.iterations, self.plan.config.save_steps);
        let tokens = self.plan.tokens_per_step();
        let program = self.session.program();
        let (step, parameters) = (self.session.step(), program.parameter_count());
        let (device_bytes, steps_per_epoch) = (self.session.exec().held_bytes(), self.loader.steps_per_epoch());
        let checkpoint = self.checkpoint.as_deref();
        observe(Event::Start { step, train_steps, parameters, device_bytes, steps_per_epoch, checkpoint });
        let mut saved = Some(step).filter(|_| self.checkpoint.is_some());
        let mut speed = Speed::default();
        while self.session.step() < train_steps && !stop.load(Ordering::Relaxed) {
            let result = self.step()?;
            speed.add(tokens);
            observe(Event::Step { result: &result, tokens_per_s: speed.rate() });
            if result.step.is_multiple_of(iterations) || result.step == train_steps {
                let row = row(&result, &self.window, &speed);
                observe(Event::Log(&row));
                self.metrics.write(row)?;
                (self.window, speed) = (Window::default(), Speed::default());
            }
            if result.step.is_multiple_of(save_steps) {
                self.save(observe)?;
                saved = Some(result.step);
                speed = Speed::default(); // saving is no training
            }
        }
        if saved != Some(self.session.step()) {
            self.save(observe)?;
        }
        let finished = self.session.step() >= train_steps;
        Ok(if finished { Outcome::Finished } else { Outcome::Interrupted })
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
    fn diverged(&self, result: &StepResult) -> Error {
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

    /// Measures held-out loss and writes a checkpoint.
    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.session.step();
        if let Some(held_out) = &mut self.held_out {
            let loss = held_out.loss(&mut self.session)?;
            observe(Event::Evaluated { step, loss });
            self.metrics.write(Row { step, eval_loss: Some(loss), ..Row::default() })?;
        }
        let path = start::save(&self.plan, &mut self.session, self.loader.position(), &self.window)?;
        self.metrics.plot()?;
        observe(Event::Saved(&path));
        self.checkpoint = Some(path);
        Ok(())
    }
}

/// Held-out data and the program without gradients that reads it.
struct HeldOut {
    loader: Loader,
    session: Session,
    steps: u64,
}

impl HeldOut {
    fn open(plan: &RunPlan) -> Result<Option<Self>> {
        let (Some(set), Some(options)) = (&plan.held_out, plan.eval_options()) else { return Ok(None) };
        let reading = LoaderOptions { prefetch: 0, shuffle_files: false, ..plan.loader() };
        let loader = Loader::open(set, &reading)?;
        let session = Session::new(&plan.model, options, plan.device, plan.config.seed)?;
        let all = loader.steps_per_epoch();
        let steps = if plan.config.eval_steps == 0 { all } else { plan.config.eval_steps.min(all) };
        Ok(Some(HeldOut { loader, session, steps }))
    }
    /// Mean loss over predicted tokens of the same first batches every time, memories from zeros.
    fn loss(&mut self, trained: &mut Session) -> Result<f64> {
        let pairs: Vec<_> =
            trained.program().params.iter().copied().zip(self.session.program().params.iter().copied()).collect();
        for (from, to) in pairs {
            let values = trained.exec().download_f32(from)?;
            self.session.exec().upload_f32(to, &values)?;
        }
        self.session.reset_memory()?;
        self.loader.seek(Position::default());
        let (mut sum, mut targets) = (0.0, 0.0);
        for _ in 0..self.steps {
            let batch = self.loader.next_batch();
            let weight: f64 = batch.target_mask.iter().map(|&w| f64::from(w)).sum();
            if weight > 0.0 {
                self.session.upload_batch(&batch)?;
                sum += weight * self.session.evaluate()?;
                targets += weight;
            }
        }
        if targets == 0.0 {
            return Err(Error::config("the held-out batches have no predicted token; raise eval_steps"));
        }
        Ok(sum / targets)
    }
}

/// Saves the decided settings, complete, as a file that starts the same run.
fn write_settings(plan: &RunPlan) -> Result<()> {
    let path = plan.config.model_dir.join("run.toml");
    let mut file = AtomicFile::create(&path)?;
    file.append(b"# Written by `xlnet pretrain`; a run of this file is the same run.\n")?;
    file.append(plan.config.to_toml()?.as_bytes())?;
    file.commit()
}

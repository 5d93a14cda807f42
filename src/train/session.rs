//! A step program on a device: uploads batches, runs phases, applies updates.

use std::sync::Arc;

use super::fit;
use super::loss_scale::{DynamicScale, LossScale};
use super::step::{OptimizerOptions, StepOptions, StepProgram, Update};
use crate::backend::{CheckFinite, Device, Executor};
use crate::config::XlnetConfig;
use crate::data::batch::Batch;
use crate::op::{KEY_LEN, philox};
use crate::program::Program;
use crate::tensor::{DType, Role, TensorId};
use crate::{Error, Result};

/// What one update reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Number of the update, counted from 1.
    pub step: u64,
    /// Weighted mean loss of the batch.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// What the loss was multiplied by while gradients were computed; neither loss nor norm tell it.
    pub loss_scale: f64,
    /// Loss or gradient was no finite number, nothing was updated, and the next step has a smaller `loss_scale`.
    pub overflowed: bool,
}

impl StepResult {
    /// Loss or gradient is no finite number, and no other scale of the loss can help.
    pub fn diverged(&self) -> bool {
        !(self.overflowed || self.loss.is_finite() && self.gradient_norm.is_finite())
    }
}

/// What lies in memory beside what a program plans, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// Nothing of size.
    #[default]
    None,
    /// A snapshot that is being saved, in this machine's memory.
    Snapshot,
    /// Parameters are those of another program.
    Shared,
}

/// A program, a device and the number of updates done.
pub struct Session {
    step_program: StepProgram,
    options: StepOptions,
    exec: Box<dyn Executor>,
    seed: u64,
    step: u64,
    rows: Vec<u32>, // [A*B], numbers in the whole batch
    loss_scale: LossScale,
    /// Weights of the next step's loss, uploaded when its scale is known.
    weights: Option<Vec<f32>>,
}

/// Random key of one step: a counter-based draw, so a resumed run has the same keys.
pub fn dropout_key(seed: u64, step: u64) -> [u32; 2] {
    const DOMAIN: u32 = 0x584c_4e54; // keeps these draws apart from dropout's own counters
    let key = [seed as u32, (seed >> 32) as u32];
    let bits = philox::block([step as u32, (step >> 32) as u32, 0, DOMAIN], key);
    [bits[0], bits[1]]
}

impl Session {
    /// Builds the program and opens the device; parameters are zeros until they are uploaded.
    ///
    /// # Errors
    /// When sizes do not fit together, the device is missing, or it has not the memory that is planned; then the sentence
    /// names the largest batch that fits.
    pub fn new(config: &XlnetConfig, options: StepOptions, device: Device, seed: u64) -> Result<Self> {
        Self::open(config, options, device, seed, Copies::None)
    }
    /// [`Session::new`] with room in memory for copies of what the device holds.
    ///
    /// # Errors
    /// Those of [`Session::new`].
    pub fn open(config: &XlnetConfig, options: StepOptions, device: Device, seed: u64, copies: Copies) -> Result<Self> {
        let step_program = StepProgram::build(config, &options)?;
        fit::check(config, &options, device, &step_program, copies)?;
        let exec = step_program.open(device)?;
        Self::with(step_program, options, exec, seed)
    }
    /// Another program of the same model on the same device. It uses the weights of this one, which nothing may change any
    /// more; they stay as long as one of the two is there.
    ///
    /// # Errors
    /// Those of [`Session::new`], and when one of the two programs trains.
    pub fn beside(&mut self, config: &XlnetConfig, options: StepOptions, device: Device) -> Result<Self> {
        let step_program = StepProgram::build(config, &options)?;
        fit::check(config, &options, device, &step_program, Copies::Shared)?;
        let exec = self.exec.open_beside(step_program.program.clone())?;
        Self::with(step_program, options, exec, self.seed)
    }
    fn with(step_program: StepProgram, options: StepOptions, exec: Box<dyn Executor>, seed: u64) -> Result<Self> {
        let rows = (0..).take(options.accumulate * options.transformer.batch).collect();
        let setting = options.optimizer.map_or(1.0, |optimizer| optimizer.loss_scale);
        let loss_scale = LossScale::new(setting, options.transformer.products)?;
        let mut session = Session { step_program, options, exec, seed, step: 0, rows, loss_scale, weights: None };
        session.upload_constants()?;
        Ok(session)
    }
    /// Goes on with another executor of the program, which `open` makes: parameters, optimiser, memories and inputs move
    /// there.
    ///
    /// # Errors
    /// Those of `open`, and when one of the two executors fails.
    pub fn move_to(&mut self, open: impl FnOnce(Arc<Program>) -> Result<Box<dyn Executor>>) -> Result<()> {
        let program = self.step_program.program.clone();
        let mut exec = open(program.clone())?;
        for (id, desc) in program.iter() {
            let moves = matches!(desc.role, Role::Param | Role::OptState | Role::Memory | Role::Input);
            let bytes = exec.plan().placement(id).bytes;
            // A view moves with its base; what no op touches has no memory.
            if moves && desc.view.is_none() && bytes == desc.bytes() {
                let mut data = vec![0; bytes];
                self.exec.read(id, &mut data)?;
                exec.write(id, &data)?;
            }
        }
        self.exec = exec;
        Ok(())
    }
    /// The same session, but every op is run alone and what it writes is looked at: the first one that makes a NaN or an
    /// infinity ends the run with its name. Slow.
    #[must_use]
    pub fn check_finite(mut self) -> Self {
        self.exec = Box::new(CheckFinite::new(self.exec));
        self
    }
    /// The program's tensors.
    pub fn program(&self) -> &StepProgram {
        &self.step_program
    }
    /// What shaped the program.
    pub fn options(&self) -> &StepOptions {
        &self.options
    }
    /// The device, for uploads and downloads.
    pub fn exec(&mut self) -> &mut dyn Executor {
        &mut *self.exec
    }
    /// Program and device together, for checkpoints.
    pub fn parts(&mut self) -> (&StepProgram, &mut dyn Executor) {
        (&self.step_program, &mut *self.exec)
    }
    /// Updates done.
    pub fn step(&self) -> u64 {
        self.step
    }
    /// Continues from another number of updates.
    pub fn set_step(&mut self, step: u64) {
        self.step = step;
    }
    /// Seed of all dropout.
    pub fn seed(&self) -> u64 {
        self.seed
    }
    /// Continues with another seed, that of a resumed run.
    pub fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }
    /// What the loss of the next step is multiplied by.
    pub fn loss_scale(&self) -> &LossScale {
        &self.loss_scale
    }
    /// Continues with the scale of a resumed run.
    pub fn resume_loss_scale(&mut self, state: Option<DynamicScale>) {
        self.loss_scale.resume(state);
    }
    /// Which rows of the whole batch are this session's, in its order; all of them unless told. Dropout is drawn by row of
    /// the whole batch, so that ranks and micro-batches drop what the undivided batch drops.
    ///
    /// # Errors
    /// When there are not as many as the program has.
    pub fn set_rows(&mut self, rows: &[usize]) -> Result<()> {
        let (expected, got) = (self.rows.len(), rows.len());
        if expected != got {
            return Err(Error::plan(format!("a session of {expected} rows cannot be told which {got} rows it has")));
        }
        self.rows = rows.iter().map(|&row| row as u32).collect();
        Ok(())
    }
    /// Gradients of all trained parameters, those of the backward phase.
    pub fn gradients(&self) -> Vec<TensorId> {
        self.step_program.update.iter().flat_map(|update| &update.trained).map(|trained| trained.grad).collect()
    }

    /// Inputs that never change.
    fn upload_constants(&mut self) -> Result<()> {
        let t = &self.options.transformer;
        let (rows, batch, length) = (self.options.accumulate * t.batch, t.batch, t.length);
        let groups: Vec<i32> = (0..rows).map(|row| (row % batch) as i32).collect(); // [A*B]
        let examples: Vec<i32> = (0..rows * length).map(|i| (i / length % batch) as i32).collect(); // [A*B, L]
        for (name, data) in [("row_group", groups), ("example_rows", examples)] {
            if let Some(id) = self.step_program.program.find(name) {
                self.exec.upload_i32(id, &data)?;
            }
        }
        if let Some(id) = self.step_program.program.find("nothing") {
            let zeros = vec![0.0; self.step_program.program.tensor(id).shape.len()];
            self.exec.upload_f32(id, &zeros)?;
        }
        Ok(())
    }

    /// Uploads an integer input by name; does nothing when the program has no such input.
    ///
    /// # Errors
    /// When the length differs.
    pub fn input_i32(&mut self, name: &str, data: &[i32]) -> Result<()> {
        self.step_program.program.find(name).map_or(Ok(()), |id| self.exec.upload_i32(id, data))
    }
    /// Uploads a floating-point input by name; does nothing when the program has no such input.
    ///
    /// # Errors
    /// When the length differs.
    pub fn input_f32(&mut self, name: &str, data: &[f32]) -> Result<()> {
        let Some(id) = self.step_program.program.find(name) else { return Ok(()) };
        // The step before may still run, and decides which scale these are multiplied by.
        if self.step_program.weights == Some(id) && self.loss_scale != LossScale::Fixed(1.0) {
            let expected = self.step_program.program.tensor(id).shape;
            if expected.len() != data.len() {
                return Err(Error::shape("upload", name, expected, format_args!("{} values", data.len())));
            }
            self.weights = Some(data.to_vec());
            return Ok(());
        }
        self.exec.upload_f32(id, data)
    }
    /// Uploads the weights of the loss, multiplied by its scale, where it has one.
    fn upload_weights(&mut self) -> Result<()> {
        let (Some(id), Some(weights)) = (self.step_program.weights, &self.weights) else { return Ok(()) };
        let scale = self.loss_scale.factor();
        let scaled: Vec<f32> = weights.iter().map(|&weight| (f64::from(weight) * scale) as f32).collect();
        self.exec.upload_f32(id, &scaled)
    }
    /// The loss that was computed, without its scale.
    fn read_loss(&mut self) -> Result<f64> {
        Ok(self.exec.download_f64(self.step_program.loss)?[0] / self.loss_scale.factor())
    }

    /// Uploads a pretraining batch; every target weighs the same, whichever micro-batch it is in.
    ///
    /// # Errors
    /// When the batch has other sizes than the program, or no target at all.
    pub fn upload_batch(&mut self, batch: &Batch) -> Result<()> {
        self.upload_share(batch, batch.target_mask.iter().sum())
    }

    /// Uploads a share of a batch that has `targets` targets in all; shares then have losses that add up to the batch's.
    ///
    /// # Errors
    /// When the share has other sizes than the program, or the batch no target at all.
    pub fn upload_share(&mut self, batch: &Batch, targets: f32) -> Result<()> {
        if targets <= 0.0 {
            return Err(Error::config(
                "a batch without a single target has no loss; raise num_predict or the batch size",
            ));
        }
        let weights: Vec<f32> = batch.target_mask.iter().map(|w| w / targets).collect();
        self.input_i32("input_ids", &batch.input_ids)?;
        self.input_i32("segment_ids", &batch.segment_ids)?;
        self.input_i32("query_rank", &batch.query_rank)?;
        self.input_i32("key_rank", &batch.key_rank)?;
        self.input_i32("target_positions", &batch.target_positions)?;
        self.input_i32("direction", &batch.direction)?;
        self.input_i32("targets", &batch.targets)?;
        self.input_f32("input_q", &batch.input_q)?;
        self.input_f32("target_weights", &weights)
    }

    /// Draws this step's dropout key; each part of the program has it with the rows that it works on.
    fn upload_keys(&mut self) -> Result<()> {
        let key = dropout_key(self.seed, self.step);
        let find = |name: &str| self.step_program.program.find(name);
        let keyed = |rows: &[u32]| key.iter().chain(rows).copied().collect::<Vec<u32>>();
        if let Some(id) = find("dropout_key") {
            let keys: Vec<u32> = self.rows.chunks(self.options.transformer.batch).flat_map(keyed).collect();
            self.exec.upload_u32(id, &keys)?;
        }
        if let Some(id) = find("position_key") {
            let tables = self.step_program.program.tensor(id).shape.len() - KEY_LEN;
            let keys = keyed(&(0..).take(tables).collect::<Vec<u32>>());
            self.exec.upload_u32(id, &keys)?;
        }
        Ok(())
    }

    /// Runs the program's forward phase and returns the loss, for programs without gradients.
    ///
    /// # Errors
    /// When the device fails.
    pub fn evaluate(&mut self) -> Result<f64> {
        self.exec.run_phase("forward")?;
        Ok(self.exec.download_f64(self.step_program.loss)?[0])
    }

    /// Reads the uploaded batch for its memories alone: an earlier window of texts whose loss is at their end.
    ///
    /// # Errors
    /// When the program has no memories of this kind, see [`TransformerOptions::forget_padding`], or the device fails.
    ///
    /// [`TransformerOptions::forget_padding`]: crate::model::TransformerOptions::forget_padding
    pub fn remember(&mut self) -> Result<()> {
        let training = self.options.optimizer.is_some();
        self.exec.run_phase(if training { "remember" } else { "forward" })
    }

    /// Forward and backward of the uploaded batch; returns the loss. Gradients are [`Self::loss_scale`] times its own.
    ///
    /// # Errors
    /// When the device fails.
    pub fn backward(&mut self) -> Result<f64> {
        self.upload_keys()?;
        self.upload_weights()?;
        self.exec.run_phase("backward")?;
        self.read_loss()
    }

    /// Clip and update after [`Self::backward`], whose loss, or the sum of all ranks', is given. Where the gradient has no
    /// finite norm no weight changes.
    ///
    /// # Errors
    /// When the program has no update, or the device fails.
    pub fn update(&mut self, loss: f64) -> Result<StepResult> {
        self.upload_hyper()?;
        self.exec.run_phase("update")?;
        self.updated(loss)
    }
    /// Goes on without an update after a [`Self::backward`] whose loss, or the sum of all ranks', is no finite number.
    ///
    /// # Errors
    /// When the program has no update.
    pub fn skip_update(&mut self, loss: f64) -> Result<StepResult> {
        self.count(loss, f64::NAN)
    }
    /// The optimiser and the tensors of its update.
    fn updating(&self) -> Result<(OptimizerOptions, &Update)> {
        let missing = || Error::plan("a program without gradients cannot be updated");
        Ok((self.options.optimizer.ok_or_else(missing)?, self.step_program.update.as_ref().ok_or_else(missing)?))
    }
    /// Uploads this step's constants of the optimiser.
    fn upload_hyper(&mut self) -> Result<()> {
        let (optimizer, update) = self.updating()?;
        let hyper = update.hyper;
        self.exec.upload_f64(hyper, &optimizer.hyper(self.step, self.loss_scale.factor()))
    }
    /// Counts the update that was run.
    fn updated(&mut self, loss: f64) -> Result<StepResult> {
        let square_norm = self.updating()?.1.square_norm;
        let norm = self.exec.download_f64(square_norm)?[0].sqrt() / self.loss_scale.factor();
        self.count(loss, norm)
    }
    /// Counts a step, updated or not, and adapts the scale of the loss.
    fn count(&mut self, loss: f64, gradient_norm: f64) -> Result<StepResult> {
        let learning_rate = self.updating()?.0.schedule.rate(self.step);
        let loss_scale = self.loss_scale.factor();
        self.step += 1;
        let (step, overflowed) = (self.step, self.loss_scale.follow(loss.is_finite() && gradient_norm.is_finite()));
        if overflowed {
            let next = self.loss_scale.factor();
            tracing::info!(
                "step {step} overflows with loss_scale {loss_scale} and changes no weight; it is {next} now"
            );
        }
        Ok(StepResult { step, loss, gradient_norm, learning_rate, loss_scale, overflowed })
    }

    /// A whole training step on the uploaded batch, handed to the device at once. Where the gradient has no finite norm
    /// the step changes no weight.
    ///
    /// # Errors
    /// When the program has no update, or the device fails.
    pub fn train(&mut self) -> Result<StepResult> {
        self.train_and(|_| ())
    }

    /// As [`Self::train`], but `meanwhile` has the time between the step's start and its numbers: what it uploads is for
    /// the next step, and reaches a GPU while that computes; its place it takes when the step is over.
    ///
    /// # Errors
    /// Those of `train`.
    pub fn train_and(&mut self, meanwhile: impl FnOnce(&mut Session)) -> Result<StepResult> {
        self.upload_keys()?;
        self.upload_weights()?;
        self.upload_hyper()?;
        let program = &self.step_program.program;
        self.exec.run(program.phase("backward").start..program.phase("update").end)?;
        meanwhile(self);
        let loss = self.read_loss()?;
        self.updated(loss)
    }

    /// Sets all memories to zeros, as at the start of training.
    ///
    /// # Errors
    /// When the device fails.
    pub fn reset_memory(&mut self) -> Result<()> {
        for &id in &self.step_program.memory {
            let desc = self.step_program.program.tensor(id);
            let zeros = vec![0.0f32; desc.shape.len()];
            debug_assert!(matches!(desc.dtype, DType::F32 | DType::F64));
            self.exec.upload_f32(id, &zeros)?;
        }
        Ok(())
    }
}

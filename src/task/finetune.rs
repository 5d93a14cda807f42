//! The fine-tuning loop: shuffled features, steps, evaluation at every checkpoint, the best model kept.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::batch::upload;
use super::cache::{Dataset, Reading};
use super::config::FinetuneConfig;
use super::evaluate::Setup;
use super::fine_tuned::{self, BEST, TaskFile, description, write_directory};
use super::metrics::Scores;
use super::start::Origin;
use crate::atomic::{AtomicFile, remove_temporaries};
use crate::backend::Device;
use crate::data::record_info::Split;
use crate::data::tokenizer::Tokenizer;
use crate::model::hugging_face::ModelWeights;
use crate::model::{AttentionType, MaskKind, TransformerOptions};
use crate::tensor::DType;
use crate::train::checkpoint::{ModelDescription, remove_leftovers, save_checkpoint};
use crate::train::guard::{self, LossGuard, Verdict, find_state_not_finite};
use crate::train::keys::Keyed;
use crate::train::load::download_weights;
use crate::train::lock::RunLock;
use crate::train::metrics::{MetricsWriter, Row, Speed, Window, row};
use crate::train::pretrain::{Outcome, unsaved_end};
use crate::train::saving::{SaveEvent, Saving};
use crate::train::session::{Copies, Session, StepResult};
use crate::train::snapshot::{Saved, Snapshot};
use crate::train::state::TrainState;
use crate::train::step::StepOptions;
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
        /// Training features.
        features: usize,
        /// Tokens of a row.
        length: usize,
    },
    /// One update was done.
    Step(&'a StepResult),
    /// A line of log.
    Log(&'a Row),
    /// A checkpoint was evaluated.
    Evaluated {
        /// Updates done.
        step: u64,
        /// Its scores.
        scores: &'a Scores,
        /// It is the best so far.
        best: bool,
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
    /// Nothing got better for so many evaluations that the run ends.
    Patience,
}

impl<'a> From<SaveEvent<'a>> for Event<'a> {
    fn from(event: SaveEvent<'a>) -> Self {
        match event {
            SaveEvent::Saved(path) => Event::Saved(path),
            SaveEvent::Failed { step, error, kept } => Event::SaveFailed { step, error, kept },
        }
    }
}

/// The best evaluation of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Updates it had seen.
    pub step: u64,
    /// Its scores.
    #[serde(with = "exact_scores")]
    pub scores: Scores,
}

/// Scores as text: a run that goes on compares them with others to the last bit.
mod exact_scores {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::task::metrics::Scores;

    pub fn serialize<S: Serializer>(scores: &Scores, s: S) -> Result<S::Ok, S::Error> {
        scores.iter().map(|(name, value)| (name, value.to_string())).collect::<BTreeMap<_, _>>().serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Scores, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(d)?;
        let parsed = |(name, text): (String, String)| match text.parse() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(D::Error::custom(format!("{text:?} is no number"))),
        };
        texts.into_iter().map(parsed).collect()
    }
}

/// A run that is ready to start.
pub struct Finetuning {
    config: FinetuneConfig,
    setup: Setup,
    file: TaskFile,
    tokenizer: Tokenizer,
    session: Session,
    /// The next batch is on the device, or why not.
    uploaded: Option<Result<()>>,
    train: Dataset,
    dev: Option<Dataset>,
    metrics: MetricsWriter,
    window: Window,
    order: Order,
    progress: Progress,
    /// Weights of the best evaluation, while the disk has not taken them.
    unwritten: Option<ModelWeights>,
    guard: LossGuard,
    speed: Speed,
    saving: Saving,
    log_failed: bool,
    _lock: RunLock,
}

impl Finetuning {
    /// Reads and converts the data, builds the program and starts or resumes the weights.
    ///
    /// # Errors
    /// When data, weights or a checkpoint do not fit, or a directory cannot be written.
    pub fn prepare(mut config: FinetuneConfig) -> Result<Self> {
        if config.model_dir.as_os_str().is_empty() {
            return Err(Error::config("model_dir is missing: name the directory for checkpoints"));
        }
        let device = config.device.parse::<Device>()?.resolve()?;
        let task = config.task()?;
        std::fs::create_dir_all(&config.model_dir).map_err(|e| Error::io("create", &config.model_dir, e))?;
        let lock = RunLock::acquire(&config.model_dir)?;
        remove_temporaries(&config.model_dir);
        remove_leftovers(&config.model_dir);
        fine_tuned::remove_leftovers(&config.model_dir);
        let origin = Origin::find(&config, &task)?;
        let tokenizer = origin.tokenizer(&config)?;
        let conversion = config.conversion(&task);
        conversion.validate(&task)?;
        let reading = |most| Reading {
            labelled: true,
            training: false,
            most,
            cache: config.output_dir.as_deref(),
            fresh: config.overwrite_data,
        };
        let training = Reading { training: true, ..reading(config.train_examples) };
        let train = Dataset::load(&task, &config.place(Split::Train)?, &conversion, &tokenizer, training)?;
        if train.features.is_empty() {
            return Err(Error::data(&train.path, "no example could be converted"));
        }
        let dev = match config.do_eval {
            true => Some(Dataset::load(
                &task,
                &config.eval_place()?,
                &conversion,
                &tokenizer,
                reading(config.eval_examples),
            )?),
            false => None,
        };
        config.resolve(&task, train.features.len())?;
        let model = origin.sizes().clone();
        if tokenizer.vocab_size() > model.n_token {
            let (pieces, tokens) = (tokenizer.vocab_size(), model.n_token);
            let what = format!(
                "has {pieces} pieces, but the model's vocabulary has {tokens} (n_token); use the model's own vocabulary"
            );
            return Err(Error::data(tokenizer.path(), what));
        }
        let setup = Setup {
            summary: config.summary(),
            clamp_len: usize::try_from(config.clamp_len).ok().filter(|&len| len > 0),
            layer_norm_eps: origin.layer_norm_eps(),
            attention: AttentionType::Bi,
            max_seq_length: conversion.max_seq_length,
            mem_len: config.memory(&task),
            batch: config.eval_batch_size,
            search: config.search(),
            task,
            model,
            device,
        };
        let length = setup.length(train.longest());
        let options = step_options(&config, &setup, length);
        let copies = if config.background_save { Copies::Snapshot } else { Copies::None };
        let mut session = Session::open(&setup.model, options, device, config.seed, copies)?;
        if config.check_finite {
            session = session.check_finite();
        }
        let file = TaskFile::new(&config, &setup.task, &tokenizer);
        let checkpoint = origin.checkpoint().map(Path::to_owned);
        let state = origin.fill(&config, &mut session, &file)?;
        let mut progress = Progress::default();
        let (mut window, mut guard) = (Window::default(), LossGuard::default());
        if let Some(state) = state {
            let readable =
                |e| Error::data(checkpoint.clone().unwrap_or_default(), format!("its state is not readable: {e}"));
            progress = serde_json::from_value(state.data).map_err(readable)?;
            (window, guard) = (Window { losses: state.loss_window }, state.guard);
            session.resume_loss_scale(state.loss_scale);
        }
        file.write(&config.model_dir, &tokenizer)?;
        write_settings(&config)?;
        let metrics = MetricsWriter::open(&config.model_dir, session.step(), config.tensorboard)?;
        let order = Order::new(train.features.len(), session.seed());
        Ok(Finetuning {
            saving: Saving::new(checkpoint, session.step()),
            config,
            setup,
            file,
            tokenizer,
            session,
            uploaded: None,
            train,
            dev,
            metrics,
            window,
            order,
            progress,
            unwritten: None,
            guard,
            speed: Speed::default(),
            log_failed: false,
            _lock: lock,
        })
    }

    /// The settings with every derived value filled in.
    pub fn config(&self) -> &FinetuneConfig {
        &self.config
    }
    /// How the model answers.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
    /// Training examples and features.
    pub fn train_set(&self) -> &Dataset {
        &self.train
    }
    /// Examples and features that checkpoints are judged by.
    pub fn dev_set(&self) -> Option<&Dataset> {
        self.dev.as_ref()
    }
    /// The best evaluation so far.
    pub fn best(&self) -> Option<&Best> {
        self.progress.best.as_ref()
    }
    /// The newest checkpoint, written or read.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.saving.checkpoint()
    }

    /// Trains until all updates are done, patience is lost or `stop` is set; the step in progress is finished and saved.
    /// A save that fails on the way is told and tried again.
    ///
    /// # Errors
    /// When the loss or the gradient stops being a number or a spike of the loss lasts (nothing is saved then, older
    /// checkpoints and the best model stay), the device fails, or the last checkpoint cannot be written.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        self.tell_start(observe);
        let trained = self.train(stop, observe);
        if trained.is_err()
            && let Err(error) = self.write_best()
        {
            tracing::warn!("the best model is lost: {error}");
        }
        let saved = self.finish_saving(trained.is_ok(), observe);
        let logged = self.metrics.flush();
        self.tell_log(logged, observe);
        let outcome = trained?;
        saved.map(|()| outcome)
    }
    fn tell_start(&mut self, observe: &mut dyn FnMut(Event)) {
        observe(Event::Start {
            step: self.session.step(),
            train_steps: self.config.train_steps.unwrap_or(0),
            parameters: self.session.program().parameter_count(),
            device_bytes: self.session.exec().held_bytes(),
            features: self.train.features.len(),
            length: self.session.options().transformer.length,
        });
    }
    fn train(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let train_steps = self.config.train_steps.unwrap_or(0);
        let length = self.session.options().transformer.length;
        let tokens = (self.config.train_batch_size.unwrap_or(1) * self.setup.task.rows() * length) as u64;
        self.speed = Speed::default();
        loop {
            let step = self.session.step();
            if self.is_out_of_patience() && step < train_steps {
                observe(Event::Patience);
                return Ok(Outcome::Finished);
            }
            if step >= train_steps {
                return Ok(Outcome::Finished);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let result = self.step()?;
            self.speed.add(tokens);
            observe(Event::Step(&result));
            if result.step.is_multiple_of(self.config.iterations) || result.step == train_steps {
                let row = row(&result, &self.window, &self.speed);
                observe(Event::Log(&row));
                self.write_metrics(row, observe);
                (self.window, self.speed) = (Window::default(), Speed::default());
            }
            self.watch(&result, observe)?;
            if self.config.save_steps.is_some_and(|every| result.step.is_multiple_of(every))
                || result.step == train_steps
            {
                self.judge(observe)?;
                self.speed = Speed::default();
            }
            self.saving.poll(&mut |event| observe(event.into()));
            let FinetuneConfig { save_steps, save_minutes, .. } = self.config;
            self.saving.waits |= self.saving.is_due(result.step, save_steps, save_minutes);
            if self.saving.waits && !self.guard.in_spike() {
                self.save(observe)?;
            }
        }
    }
    fn is_out_of_patience(&self) -> bool {
        self.config.patience > 0 && self.progress.stale >= self.config.patience
    }

    /// One update on the next features.
    ///
    /// # Errors
    /// When the loss or the gradient is no number, or the device fails.
    pub fn step(&mut self) -> Result<StepResult> {
        let (task, step) = (&self.setup.task, self.session.step());
        let (order, features, size) =
            (&mut self.order, &self.train.features, self.config.train_batch_size.unwrap_or(1));
        let mut upload = |session: &mut Session, step: u64| {
            let batch = order.batch(step, size);
            upload(session, task, &batch.into_iter().map(|i| &features[i]).collect::<Vec<_>>())
        };
        match self.uploaded.take() {
            Some(uploaded) => uploaded?,
            None => upload(&mut self.session, step)?,
        }
        // Meanwhile the next batch is uploaded; but not where earlier windows of its texts are read first.
        let ahead = step + 1 < self.config.train_steps.unwrap_or(0) && self.setup.mem_len == 0;
        let uploaded = &mut self.uploaded;
        let result = self.session.train_and(|session| {
            if ahead {
                *uploaded = Some(upload(session, step + 1));
            }
        })?;
        if result.diverged() {
            let StepResult { step, loss, gradient_norm, .. } = result;
            return Err(self.diverged(&format!("step {step} has loss {loss} and gradient norm {gradient_norm}")));
        }
        self.window.add(result.loss);
        Ok(result)
    }
    fn diverged(&mut self, what: &str) -> Error {
        let good = self.saving.last_good();
        guard::diverged(&mut self.session, what, &good)
    }
    /// Tells of losses that jump, and stops when they stay up. A usual loss proves the weights that were saved last.
    fn watch(&mut self, result: &StepResult, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let StepResult { step, loss, .. } = *result;
        let height = self.config.loss_spike.unwrap_or(0.0);
        match self.guard.watch(loss, height) {
            Verdict::Usual => return self.saving.write(&self.config.model_dir, self.config.max_save),
            Verdict::SpikeBegins { mean } => {
                observe(Event::SpikeBegins { step, loss, mean });
                self.saving.discard();
                self.saving.waits = true;
            }
            Verdict::SpikeEnds { steps } => observe(Event::SpikeEnds { step, steps }),
            Verdict::Spike { steps, mean } if steps >= self.config.loss_spike_steps => {
                let good = self.saving.last_good();
                return Err(guard::spike_lasts(result, steps, mean, height, &good));
            }
            Verdict::Spike { .. } | Verdict::NotFinite => {}
        }
        Ok(())
    }

    fn write_metrics(&mut self, row: Row, observe: &mut dyn FnMut(Event)) {
        let written = self.metrics.write(row);
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

    /// Scores of the weights as they are now on a set.
    ///
    /// # Errors
    /// When the device fails, or the examples have no labels.
    pub fn evaluate(&mut self, dataset: &Dataset) -> Result<Scores> {
        let (program, exec) = self.session.parts();
        let weights = download_weights(exec, program)?;
        let outputs = self.setup.answer(&weights, &dataset.features, &mut |_| ())?;
        self.setup.score(dataset, &outputs, self.config.null_threshold)
    }

    /// Evaluates the weights and keeps them where they are the best so far.
    fn judge(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.session.step();
        let Some(dev) = self.dev.take() else { return self.keep(step, Scores::new()) };
        let scores = self.evaluate(&dev);
        self.dev = Some(dev);
        let scores = scores?;
        let before = self.progress.best.as_ref();
        let best = before.is_none_or(|best| self.setup.rank(&scores) > self.setup.rank(&best.scores));
        observe(Event::Evaluated { step, scores: &scores, best });
        if let Some(&loss) = scores.get("eval_loss") {
            self.write_metrics(Row { step, eval_loss: Some(loss), ..Row::default() }, observe);
        }
        if best {
            self.keep(step, scores)?;
        }
        self.progress.stale = if best { 0 } else { self.progress.stale + 1 };
        Ok(())
    }

    /// Takes the weights as the best model. Where the disk refuses them they wait for the next save, which tells of it.
    fn keep(&mut self, step: u64, scores: Scores) -> Result<()> {
        let (program, exec) = self.session.parts();
        self.unwritten = Some(download_weights(exec, program)?);
        self.progress.best = Some(Best { step, scores });
        if let Err(error) = self.write_best() {
            tracing::debug!(step, "the best model waits in memory: {error}");
        }
        Ok(())
    }
    /// Writes the best model, where it is not on the disk yet.
    fn write_best(&mut self) -> Result<()> {
        let (Some(weights), Some(Best { step, scores })) = (&self.unwritten, &self.progress.best) else {
            return Ok(());
        };
        let settings = description(&self.setup.task, self.setup.summary, &self.session.options().transformer);
        let file = TaskFile { step: *step, scores: scores.clone(), ..self.file.clone() };
        let dir = self.config.model_dir.join(BEST);
        write_directory(&dir, &self.setup.model, &settings, weights, &file, &self.tokenizer)?;
        self.unwritten = None;
        Ok(())
    }

    /// Writes a checkpoint, or takes the snapshot that the next loss lets write, and draws the loss curve.
    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let json = |e| Error::config(format!("the state of the run is not JSON: {e}"));
        let step = self.session.step();
        self.saving.begin(step, &mut |event| observe(event.into()));
        // A checkpoint knows the best model: from one that is not on the disk, no run could go on as if never stopped.
        if let Err(error) = self.write_best() {
            self.saving.tell(Saved { step, result: Err(error) }, &mut |event| observe(event.into()));
            return Ok(());
        }
        let state = TrainState {
            step,
            data: serde_json::to_value(&self.progress).map_err(json)?,
            seed: self.session.seed(),
            loss_window: self.window.losses.clone(),
            guard: self.guard.clone(),
            loss_scale: self.session.loss_scale().state(),
            vocabulary: Some(self.file.vocabulary.clone()),
            settings: serde_json::to_value(&self.config).map_err(json)?,
        };
        let settings = description(&self.setup.task, self.setup.summary, &self.session.options().transformer);
        let model = ModelDescription { config: self.setup.model.clone(), settings };
        let drawn = self.metrics.plot();
        let logs = self.metrics.handles();
        self.tell_log(drawn, observe);
        if self.config.background_save {
            let (program, exec) = self.session.parts();
            let snapshot = Snapshot::take(program, exec, vec![], model, state)?;
            // A step can overflow a weight although its own loss was a number.
            if !snapshot.is_finite() {
                return Err(self.diverged(&format!("step {step} left values that are no finite numbers")));
            }
            self.saving.hold(snapshot, logs);
        } else {
            if find_state_not_finite(&mut self.session)?.is_some() {
                return Err(self.diverged(&format!("step {step} left values that are no finite numbers")));
            }
            let max_save = self.checkpoints_kept();
            let (program, exec) = self.session.parts();
            let result = save_checkpoint(&self.config.model_dir, program, exec, &model, &state, max_save);
            self.saving.tell(Saved { step, result }, &mut |event| observe(event.into()));
        }
        self.speed = Speed::default(); // saving is no training
        Ok(())
    }
    /// The end of a run in a spike is saved, but those from before it stay.
    fn checkpoints_kept(&self) -> usize {
        if self.guard.in_spike() { 0 } else { self.config.max_save }
    }
    /// Finishes the save in progress and, when training went well, saves the last step.
    fn finish_saving(&mut self, well: bool, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let (dir, step) = (self.config.model_dir.clone(), self.session.step());
        self.saving.wait(&mut |event| observe(event.into()));
        self.saving.write(&dir, self.checkpoints_kept())?;
        self.saving.wait(&mut |event| observe(event.into()));
        if !well || self.saving.has(step) {
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

/// What of a run is neither tensor nor loss; part of its checkpoints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    /// The best evaluation so far. The directory of the best model may be ahead of the checkpoint that a run goes on
    /// from; it is written again then.
    #[serde(default)]
    best: Option<Best>,
    /// Evaluations since.
    #[serde(default)]
    stale: u64,
}

/// The training program.
fn step_options(config: &FinetuneConfig, setup: &Setup, length: usize) -> StepOptions {
    let rows = config.train_batch_size.unwrap_or(1) / config.accumulate * setup.task.rows();
    let transformer = TransformerOptions {
        batch: rows,
        length,
        clamp_len: setup.clamp_len,
        mask: MaskKind::Padding,
        memory: setup.mem_len,
        mem_len: setup.mem_len,
        forget_padding: true,
        dropout: config.dropout as f32,
        dropatt: config.dropatt as f32,
        position_dropout: config.position_dropout,
        recompute: config.recompute,
        frozen_layers: config.frozen_layers,
        products: config.products(),
        layer_norm_eps: setup.layer_norm_eps,
        ..TransformerOptions::default()
    };
    StepOptions {
        transformer,
        objective: setup.task.objective(setup.summary),
        accumulate: config.accumulate,
        float: DType::F32,
        optimizer: Some(config.optimizer()),
    }
}

/// Saves the decided settings, complete, as a file that starts the same run.
fn write_settings(config: &FinetuneConfig) -> Result<()> {
    let mut config = config.clone();
    config.seeds = Default::default();
    config.settings = None;
    let mut file = AtomicFile::create(&config.model_dir.join("run.toml"))?;
    file.append(b"# Written by `xlnet finetune`; a run of this file is the same run.\n")?;
    file.append(config.to_toml()?.as_bytes())?;
    file.commit()
}

/// Which features are in which batch: every epoch is a permutation of its own, and batches run across epochs.
#[derive(Debug)]
struct Order {
    features: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    fn new(features: usize, seed: u64) -> Self {
        Order { features, seed, epoch: None }
    }
    /// The features of the update that follows `step` updates.
    fn batch(&mut self, step: u64, size: usize) -> Vec<usize> {
        (0..size as u64).map(|i| self.at(step * size as u64 + i)).collect()
    }
    fn at(&mut self, position: u64) -> usize {
        let (epoch, at) = (position / self.features as u64, (position % self.features as u64) as usize);
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(epoch);
            let mut order: Vec<usize> = (0..self.features).collect();
            order.shuffle(&mut rng);
            self.epoch = Some((epoch, order));
        }
        self.epoch.as_ref().map_or(0, |(_, order)| order[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_feature_once() {
        let mut order = Order::new(10, 7);
        let all: Vec<usize> = (0..10).flat_map(|step| order.batch(step, 3)).collect();
        for epoch in all.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(all[..10], all[10..20]);
        // A resumed run goes on with the same features.
        assert_eq!(Order::new(10, 7).batch(5, 3), all[15..18]);
        assert_ne!(Order::new(10, 8).batch(0, 10), all[..10]);
    }
}

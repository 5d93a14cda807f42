//! The fine-tuning loop: shuffled features, steps, evaluation at every checkpoint, the best model kept.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::batch::upload;
use super::cache::{Dataset, Reading};
use super::config::FinetuneConfig;
use super::evaluate::Setup;
use super::feature::Feature;
use super::fine_tuned::{BEST, FineTuned, TaskFile, VOCABULARY_FILE, description, write_directory};
use super::metrics::Scores;
use crate::atomic::AtomicFile;
use crate::backend::Device;
use crate::config::{LAYER_NORM_EPS, XlnetConfig};
use crate::data::record_info::Split;
use crate::data::tokenizer::Tokenizer;
use crate::model::hugging_face::read_model;
use crate::model::{AttentionType, MaskKind, TransformerOptions};
use crate::tensor::DType;
use crate::train::checkpoint::{ModelDescription, latest, save_checkpoint};
use crate::train::guard::LossGuard;
use crate::train::keys::Keyed;
use crate::train::load::{LoadOptions, download_weights, load_into};
use crate::train::lock::RunLock;
use crate::train::metrics::{MetricsWriter, Row, Speed, Window, row};
use crate::train::pretrain::Outcome;
use crate::train::session::{Session, StepResult};
use crate::train::start::model_directory;
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
    /// Nothing got better for so many evaluations that the run ends.
    Patience,
}

/// The best evaluation of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Best {
    /// Updates it had seen.
    pub step: u64,
    /// Its scores.
    pub scores: Scores,
}

/// A run that is ready to start.
pub struct Finetuning {
    config: FinetuneConfig,
    setup: Setup,
    file: TaskFile,
    tokenizer: Tokenizer,
    session: Session,
    train: Dataset,
    dev: Option<Dataset>,
    metrics: MetricsWriter,
    window: Window,
    order: Order,
    best: Option<Best>,
    stale: u64,
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
        let tokenizer = vocabulary(&config)?;
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
        let model = model_sizes(&config)?;
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
            layer_norm_eps: LAYER_NORM_EPS,
            attention: AttentionType::Bi,
            max_seq_length: conversion.max_seq_length,
            mem_len: config.memory(&task),
            batch: config.eval_batch_size,
            search: config.search(),
            task,
            model,
            device,
        };
        let length = match setup.mem_len {
            0 => setup.task.length(train.longest(), setup.max_seq_length, setup.summary),
            _ => setup.max_seq_length,
        };
        let options = step_options(&config, &setup, length);
        let mut session = Session::new(&setup.model, options, device, config.seed)?;
        if config.check_finite {
            session = session.check_finite();
        }
        let file = TaskFile::new(&config, &setup.task, &tokenizer);
        std::fs::create_dir_all(&config.model_dir).map_err(|e| Error::io("create", &config.model_dir, e))?;
        let lock = RunLock::acquire(&config.model_dir)?;
        let (best, window) = start(&config, &mut session, &file)?;
        file.write(&config.model_dir, &tokenizer)?;
        write_settings(&config)?;
        let metrics = MetricsWriter::open(&config.model_dir, session.step(), config.tensorboard)?;
        let order = Order::new(train.features.len(), config.seed);
        Ok(Finetuning {
            config,
            setup,
            file,
            tokenizer,
            session,
            train,
            dev,
            metrics,
            window,
            order,
            best,
            stale: 0,
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
        self.best.as_ref()
    }

    /// Trains until all updates are done, patience is lost or `stop` is set; the step in progress is finished and saved.
    ///
    /// # Errors
    /// When the loss stops being a number, the device fails, or a file cannot be written.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let (train_steps, iterations) = (self.config.train_steps.unwrap_or(0), self.config.iterations);
        let (parameters, length) =
            (self.session.program().parameter_count(), self.session.options().transformer.length);
        let (step, device_bytes) = (self.session.step(), self.session.exec().held_bytes());
        observe(Event::Start {
            step,
            train_steps,
            parameters,
            device_bytes,
            features: self.train.features.len(),
            length,
        });
        let tokens = (self.config.train_batch_size.unwrap_or(1) * self.setup.task.rows() * length) as u64;
        let mut speed = Speed::default();
        let mut saved = None;
        while self.session.step() < train_steps && !stop.load(Ordering::Relaxed) {
            let result = self.step()?;
            speed.add(tokens);
            observe(Event::Step(&result));
            if result.step.is_multiple_of(iterations) || result.step == train_steps {
                let row = row(&result, &self.window, &speed);
                observe(Event::Log(&row));
                self.metrics.write(row)?;
                (self.window, speed) = (Window::default(), Speed::default());
            }
            if self.config.save_steps.is_some_and(|every| result.step.is_multiple_of(every))
                || result.step == train_steps
            {
                self.checkpoint(observe)?;
                saved = Some(result.step);
                speed = Speed::default();
                if self.config.patience > 0 && self.stale >= self.config.patience && result.step < train_steps {
                    observe(Event::Patience);
                    return Ok(Outcome::Finished);
                }
            }
        }
        let step = self.session.step();
        if step >= train_steps {
            return Ok(Outcome::Finished);
        }
        if saved != Some(step) {
            self.save(observe)?;
        }
        Ok(Outcome::Interrupted)
    }

    /// One update on the next features.
    ///
    /// # Errors
    /// When the loss or the gradient is no number, or the device fails.
    pub fn step(&mut self) -> Result<StepResult> {
        let size = self.config.train_batch_size.unwrap_or(1);
        let batch = self.order.batch(self.session.step(), size);
        let features: Vec<&Feature> = batch.iter().map(|&i| &self.train.features[i]).collect();
        upload(&mut self.session, &self.setup.task, &features)?;
        let result = self.session.train()?;
        if !(result.loss.is_finite() && result.gradient_norm.is_finite()) {
            let StepResult { step, loss, gradient_norm, .. } = result;
            return Err(Error::config(format!(
                "step {step} has loss {loss} and gradient norm {gradient_norm}; lower learning_rate or raise warmup_steps"
            )));
        }
        self.window.add(result.loss);
        Ok(result)
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

    /// Evaluates, keeps the best, saves.
    fn checkpoint(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.session.step();
        let Some(dev) = self.dev.take() else {
            self.keep(step, Scores::new())?;
            return self.save(observe);
        };
        let scores = self.evaluate(&dev);
        self.dev = Some(dev);
        let scores = scores?;
        let best = self.best.as_ref().is_none_or(|best| self.setup.rank(&scores) > self.setup.rank(&best.scores));
        observe(Event::Evaluated { step, scores: &scores, best });
        if best {
            self.keep(step, scores)?;
        }
        self.stale = if best { 0 } else { self.stale + 1 };
        self.save(observe)
    }

    /// Writes the weights as the best model.
    fn keep(&mut self, step: u64, scores: Scores) -> Result<()> {
        let (program, exec) = self.session.parts();
        let weights = download_weights(exec, program)?;
        let settings = description(&self.setup.task, self.setup.summary, &self.session.options().transformer);
        let file = TaskFile { step, scores: scores.clone(), ..self.file.clone() };
        let dir = self.config.model_dir.join(BEST);
        write_directory(&dir, &self.setup.model, &settings, &weights, &file, &self.tokenizer)?;
        self.best = Some(Best { step, scores });
        Ok(())
    }

    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let json = |e| Error::config(format!("the state of the run is not JSON: {e}"));
        let state = TrainState {
            step: self.session.step(),
            data: serde_json::json!({"stale": self.stale}),
            seed: self.session.seed(),
            loss_window: self.window.losses.clone(),
            guard: LossGuard::default(),
            vocabulary: Some(self.file.vocabulary.clone()),
            settings: serde_json::to_value(&self.config).map_err(json)?,
        };
        let settings = description(&self.setup.task, self.setup.summary, &self.session.options().transformer);
        let model = ModelDescription { config: self.setup.model.clone(), settings };
        let (program, exec) = self.session.parts();
        let path = save_checkpoint(&self.config.model_dir, program, exec, &model, &state, self.config.max_save)?;
        observe(Event::Saved(&path));
        Ok(())
    }
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
        bf16: config.use_bfloat16,
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

/// Weights of the newest checkpoint, of `init_checkpoint`, or at random.
fn start(config: &FinetuneConfig, session: &mut Session, file: &TaskFile) -> Result<(Option<Best>, Window)> {
    let found = if config.model_dir.is_dir() { latest(&config.model_dir)? } else { None };
    if let Some(checkpoint) = found {
        if config.resume == "never" {
            let what = "resume = never, but this checkpoint is there; use another model_dir, or resume = auto";
            return Err(Error::data(checkpoint.path(), what));
        }
        let state = checkpoint.state();
        let same = FineTuned::open(&config.model_dir, Device::Cpu, 1)
            .is_ok_and(|there| there.file.task == file.task && there.file.conversion == file.conversion);
        if !same || state.vocabulary.as_ref() != Some(&file.vocabulary) {
            let what = "was trained for another task, vocabulary or lengths; use another model_dir";
            return Err(Error::data(checkpoint.path(), what));
        }
        let (program, exec) = session.parts();
        checkpoint.load(program, exec)?;
        session.set_step(state.step);
        session.set_seed(state.seed);
        let best = config.model_dir.join(BEST);
        let best = best.exists().then(|| FineTuned::open(&best, Device::Cpu, 1)).transpose()?;
        let best = best.map(|there| Best { step: there.file.step, scores: there.file.scores });
        return Ok((best, Window { losses: state.loss_window.clone() }));
    }
    let init = config.init_options(config.seed);
    let (program, exec) = session.parts();
    match &config.init_checkpoint {
        None => crate::train::init::initialize(exec, program, &init)?,
        Some(named) => {
            let directory = model_directory(named)?;
            let model = read_model(&directory)?;
            let options = LoadOptions { init, reset_heads: config.reset_heads, ..LoadOptions::default() };
            let report = load_into(exec, program, &model.weights, &options)?;
            tracing::info!("weights of {}:\n{report}", directory.display());
        }
    }
    Ok((None, Window::default()))
}

/// Sizes from `model_config_path` or from `init_checkpoint`.
fn model_sizes(config: &FinetuneConfig) -> Result<XlnetConfig> {
    let checkpoint = config.init_checkpoint.as_ref().map(|named| {
        let directory = model_directory(named)?;
        XlnetConfig::read(&directory.join("config.json"))
    });
    let own = config.model_config_path.as_ref().map(|path| XlnetConfig::read(path));
    match (checkpoint.transpose()?, own.transpose()?) {
        (None, None) => Err(Error::config(
            "init_checkpoint is missing: name a pretrained model; or name sizes with model_config_path to start from nothing",
        )),
        (Some(model), None) | (None, Some(model)) => Ok(model),
        (Some(there), Some(own)) => {
            if own != there {
                let path = config.model_config_path.clone().unwrap_or_default();
                let what = format!("does not fit init_checkpoint, which has {there:?}; drop model_config_path");
                return Err(Error::data(path, what));
            }
            Ok(own)
        }
    }
}

/// The vocabulary that is named, or the one beside the pretrained model.
fn vocabulary(config: &FinetuneConfig) -> Result<Tokenizer> {
    let path: PathBuf = match (&config.spiece_model_file, &config.init_checkpoint) {
        (Some(path), _) => path.clone(),
        (None, Some(named)) => {
            let path = model_directory(named)?.join(VOCABULARY_FILE);
            if !path.exists() {
                return Err(Error::config(format!(
                    "spiece_model_file is missing, and there is no {}: name the vocabulary of the pretrained model",
                    path.display()
                )));
            }
            path
        }
        (None, None) => return Err(Error::config("spiece_model_file is missing: name the SentencePiece model")),
    };
    let tokenizer = Tokenizer::open(path)?;
    tokenizer.check_special_symbols()?;
    Ok(tokenizer)
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

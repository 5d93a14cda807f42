//! Weights of a file onto a device, with an account of every tensor.

use std::fmt;

use super::init::{InitOptions, initialize_params};
use super::step::StepProgram;
use crate::backend::Executor;
use crate::model::hugging_face::{ModelWeights, Weight};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// What may be missing when weights are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct LoadOptions {
    /// How parameters start that the file does not have.
    pub init: InitOptions,
    /// Parameters of the transformer may be missing; they are initialised. Heads always may.
    pub allow_missing: bool,
    /// Heads of the file are not used, for example because they were trained for other classes.
    pub reset_heads: bool,
}

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// The parameter has the values of this tensor.
    Loaded(String),
    /// The parameter starts afresh, for this reason.
    Initialised(String),
    /// The file's tensor is not used, for this reason.
    Skipped(String),
}

impl fmt::Display for LoadOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadOutcome::Loaded(from) => write!(f, "loaded from {from}"),
            LoadOutcome::Initialised(why) => write!(f, "initialised ({why})"),
            LoadOutcome::Skipped(why) => write!(f, "skipped ({why})"),
        }
    }
}

/// One row for every parameter of the program and every tensor of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Name and outcome: parameters in order of declaration, then what was skipped.
    pub rows: Vec<(String, LoadOutcome)>,
}

impl LoadReport {
    /// Numbers of loaded, initialised and skipped tensors.
    pub fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for (_, outcome) in &self.rows {
            counts[match outcome {
                LoadOutcome::Loaded(_) => 0,
                LoadOutcome::Initialised(_) => 1,
                LoadOutcome::Skipped(_) => 2,
            }] += 1;
        }
        counts
    }
    /// The outcome of one tensor.
    pub fn outcome(&self, name: &str) -> Option<&LoadOutcome> {
        self.rows.iter().find(|(row, _)| row == name).map(|(_, outcome)| outcome)
    }
}

impl fmt::Display for LoadReport {
    /// A table, and the counts below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, outcome) in &self.rows {
            writeln!(f, "{name:width$}  {outcome}")?;
        }
        let [loaded, initialised, skipped] = self.counts();
        write!(f, "{loaded} loaded, {initialised} initialised, {skipped} skipped")
    }
}

/// Uploads `weights` into the program's parameters and initialises what the weights lack. Nothing is uploaded unless
/// everything fits.
///
/// # Errors
/// When a tensor has another shape than its parameter, when a parameter of the transformer is missing and that is not
/// allowed, or when the device fails.
pub fn load_into(
    exec: &mut dyn Executor,
    step: &StepProgram,
    weights: &ModelWeights,
    options: &LoadOptions,
) -> Result<LoadReport> {
    options.init.validate()?;
    let program = exec.program().clone();
    let mut report = LoadReport::default();
    let mut loaded: Vec<(TensorId, &Weight)> = vec![];
    let mut fresh: Vec<TensorId> = vec![];
    for &id in &step.params {
        let desc = program.tensor(id);
        let (name, expected) = (desc.name.as_str(), desc.shape.dims());
        let head = !name.starts_with("transformer.");
        let outcome = match weights.tensors.get(name) {
            Some(_) if head && options.reset_heads => LoadOutcome::Initialised("heads start afresh".into()),
            Some(weight) => {
                check_shape(weights, name, weight, expected, head)?;
                loaded.push((id, weight));
                LoadOutcome::Loaded(weights.origin(name))
            }
            None if head || options.allow_missing => LoadOutcome::Initialised("not in the file".into()),
            None => return Err(missing(weights, name)),
        };
        if !matches!(outcome, LoadOutcome::Loaded(_)) {
            fresh.push(id);
        }
        report.rows.push((name.to_owned(), outcome));
    }
    let used = |name: &String| report.rows.iter().any(|(row, _)| row == name);
    let unused: Vec<_> = weights.tensors.keys().filter(|name| !used(name)).map(|name| weights.origin(name)).collect();
    let ignored = weights.ignored.iter().cloned();
    let ignored = unused.into_iter().map(|name| (name, "the program has no such parameter".into())).chain(ignored);
    report.rows.extend(ignored.map(|(name, why)| (name, LoadOutcome::Skipped(why))));

    initialize_params(exec, &fresh, &options.init)?;
    for (id, weight) in loaded {
        exec.upload_f32(id, &weight.values)?;
    }
    let [loaded, initialised, skipped] = report.counts();
    tracing::info!(source = %weights.source.display(), loaded, initialised, skipped, "weights");
    Ok(report)
}

fn check_shape(weights: &ModelWeights, name: &str, weight: &Weight, expected: &[usize], head: bool) -> Result<()> {
    let (got, count) = (&weight.shape, weight.values.len());
    if got != expected {
        let hint = if head { "; reset the heads to train other ones" } else { "; is this another model's file?" };
        let what = format!("tensor {name} must have shape {expected:?}, but has {got:?}{hint}");
        return Err(Error::data(&weights.source, what));
    }
    // Weights made by a program, not by a file, could be inconsistent.
    if count != expected.iter().product::<usize>() {
        return Err(Error::data(&weights.source, format!("tensor {name} of shape {expected:?} has {count} elements")));
    }
    Ok(())
}

fn missing(weights: &ModelWeights, name: &str) -> Error {
    let why = weights.ignored.iter().find(|(ignored, _)| ignored == name);
    let why = why.map_or(String::new(), |(_, why)| format!(" (it {why})"));
    let what = format!("has no weights for {name}{why}; use a whole model, or allow missing weights to initialise it");
    Error::data(&weights.source, what)
}

/// Parameters of a device, for export.
///
/// # Errors
/// When the device fails.
pub fn download_weights(exec: &mut dyn Executor, step: &StepProgram) -> Result<ModelWeights> {
    let program = exec.program().clone();
    let mut weights = ModelWeights { source: "device".into(), ..Default::default() };
    for &id in &step.params {
        let desc = program.tensor(id);
        let weight = Weight { shape: desc.shape.dims().to_vec(), values: exec.download_f32(id)? };
        weights.tensors.insert(desc.name.clone(), weight);
    }
    Ok(weights)
}

//! `xlnet evaluate`.

use std::path::{Path, PathBuf};

use super::features::show_remarks;
use super::finetune::score_line;
use crate::backend::Device;
use crate::cli::args::EvaluateArgs;
use crate::cli::output::{bar, print};
use crate::task::cache::{Dataset, Reading};
use crate::task::config::FinetuneConfig;
use crate::task::evaluate::Output;
use crate::task::fine_tuned::FineTuned;
use crate::task::metrics::Scores;
use crate::train::keys::Keyed;

/// Scores a model, or all checkpoints of a run.
pub fn run(args: EvaluateArgs) -> anyhow::Result<()> {
    let config = FinetuneConfig::load(args.run.as_deref(), args.flags.0)?;
    let paths: Vec<PathBuf> = match config.eval_all_ckpt {
        true => FineTuned::all(&config.model_dir)?.into_iter().map(|(_, path)| path).collect(),
        false => vec![config.predict_ckpt.clone().unwrap_or_else(|| config.model_dir.clone())],
    };
    let mut dataset = None;
    let mut results: Vec<(f64, String)> = vec![];
    for path in paths {
        let model = open(&path, &config)?;
        if dataset.is_none() {
            let made = read(&model, &config, true)?;
            show_remarks(&made.remarks);
            dataset = Some(made);
        }
        let Some(dataset) = &dataset else { continue };
        let outputs = answer(&model, dataset)?;
        let scores = model.setup.score(dataset, &outputs, config.null_threshold)?;
        let text = result(&scores, &model);
        print(&format!("Eval result | {text}"));
        results.push((model.setup.rank(&scores), text));
    }
    // Stable: of equals the earlier step is better.
    results.sort_by(|a, b| b.0.total_cmp(&a.0));
    if let Some((_, best)) = results.first().filter(|_| config.eval_all_ckpt) {
        print(&format!("Best result | {best}"));
    }
    Ok(())
}

/// Opens the fine-tuned model at `path`, ours or another program's, on the device of `config`.
pub fn open(path: &Path, config: &FinetuneConfig) -> anyhow::Result<FineTuned> {
    if path.as_os_str().is_empty() {
        anyhow::bail!("model_dir is missing: name the directory that `xlnet finetune` made");
    }
    let device = config.device.parse::<Device>()?.resolve()?;
    // What another program trained says nothing of its task; the settings do.
    if !FineTuned::is_one(path) && !config.task_name.is_empty() {
        return Ok(FineTuned::import(path, config, device)?);
    }
    Ok(FineTuned::open(path, device, config.eval_batch_size)?)
}

/// Reads the set that `config` names, converted as in training.
pub fn read(model: &FineTuned, config: &FinetuneConfig, labelled: bool) -> anyhow::Result<Dataset> {
    let reading = Reading {
        labelled,
        training: false,
        most: config.eval_examples,
        cache: config.output_dir.as_deref(),
        fresh: config.overwrite_data,
    };
    let (task, conversion) = (&model.file.task, &model.file.conversion);
    Ok(Dataset::load(task, &config.eval_place()?, conversion, &model.tokenizer, reading)?)
}

/// Answers a set with a bar.
pub fn answer(model: &FineTuned, dataset: &Dataset) -> anyhow::Result<Vec<Output>> {
    let bar = bar(dataset.features.len() as u64, "{wide_bar} {pos}/{len}  {eta} left");
    let outputs = model.setup.answer(&model.weights, &dataset.features, &mut |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    Ok(outputs?)
}

fn result(scores: &Scores, model: &FineTuned) -> String {
    let step = model.path.file_name().and_then(|n| n.to_str()?.strip_prefix("step-")?.parse().ok());
    let step = step.unwrap_or(model.file.step);
    format!("{}global_step {step} | path {}", score_line(scores), model.path.display())
}

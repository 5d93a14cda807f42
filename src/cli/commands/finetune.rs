//! `xlnet finetune`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use serde_json::json;

use super::features::show_remarks;
use super::pretrain::{stop_on_signal, warn_spike, warn_spike_end, warn_unsaved};
use crate::atomic::AtomicFile;
use crate::cli::args::FinetuneArgs;
use crate::cli::output::{bar, line, print};
use crate::cli::run::Done;
use crate::cli::size::{bytes, grouped};
use crate::task::config::FinetuneConfig;
use crate::task::fine_tuned::BEST;
use crate::task::finetune::{Best, Event, Finetuning};
use crate::task::metrics::Scores;
use crate::train::keys::Keyed;
use crate::train::pretrain::Outcome;

/// Fine-tunes as the arguments say, once for each seed.
pub fn run(args: FinetuneArgs) -> anyhow::Result<Done> {
    let config = FinetuneConfig::load(args.run.as_deref(), args.flags.0)?;
    if args.dry_run {
        let mut config = config;
        let task = config.task()?;
        config.resolve(&task, 0)?;
        print(config.to_toml()?.trim_end());
        return Ok(Done::Completely);
    }
    let stop = stop_on_signal()?;
    let seeds = config.seeds()?;
    if seeds.len() == 1 {
        let config = FinetuneConfig { seed: seeds[0], ..config };
        return Ok(one(config, &stop)?.0);
    }
    let mut all = vec![];
    for &seed in &seeds {
        print(&format!("seed {seed}"));
        let model_dir = config.model_dir.join(format!("seed-{seed}"));
        let (done, best) = one(FinetuneConfig { seed, model_dir, ..config.clone() }, &stop)?;
        if done == Done::Interrupted {
            return Ok(done);
        }
        all.push((seed, best.unwrap_or_default()));
    }
    summarize(&config.model_dir, &all)?;
    Ok(Done::Completely)
}

/// One run.
fn one(config: FinetuneConfig, stop: &Arc<AtomicBool>) -> anyhow::Result<(Done, Option<Best>)> {
    let mut run = Finetuning::prepare(config)?;
    show_remarks(&run.train_set().remarks);
    if let Some(dev) = run.dev_set() {
        show_remarks(&dev.remarks);
    }
    let bar = bar(0, "{wide_bar} {pos}/{len}  {msg}  {eta} left");
    let outcome = run.run(stop, &mut |event| show(&bar, event));
    bar.finish_and_clear();
    let model_dir = &run.config().model_dir;
    if outcome? == Outcome::Interrupted {
        print(&format!("stopped; the same command goes on from {}", model_dir.display()));
        return Ok((Done::Interrupted, None));
    }
    if let Some(best) = run.best() {
        if !best.scores.is_empty() {
            print(&format!("Best result | {}global_step {}", score_line(&best.scores), best.step));
        }
        print(&format!("the best model is {}", model_dir.join(BEST).display()));
    }
    Ok((Done::Completely, run.best().cloned()))
}

/// `key value | ` for every score.
pub fn score_line(scores: &Scores) -> String {
    scores.iter().map(|(name, value)| format!("{name} {value} | ")).collect()
}

fn show(bar: &ProgressBar, event: Event) {
    match event {
        Event::Start { step, train_steps, parameters, device_bytes, features, length } => {
            bar.set_length(train_steps);
            bar.set_position(step);
            bar.reset_eta();
            let (parameters, held) = (grouped(parameters as u64), bytes(device_bytes));
            line(
                bar,
                &format!("{parameters} parameters, {held} on the device, {features} features of {length} tokens"),
            );
            if step > 0 {
                line(bar, &format!("going on at step {step}"));
            }
        }
        Event::Step(result) => {
            bar.set_position(result.step);
            bar.set_message(format!("loss {:.3}", result.loss));
        }
        Event::Log(row) => line(bar, &row.log_line()),
        Event::Evaluated { step, scores, best } => {
            let mark = if best { " | best so far" } else { "" };
            line(bar, &format!("Eval result | {}global_step {step}{mark}", score_line(scores)));
        }
        Event::Saved(path) => line(bar, &format!("saved {}", path.display())),
        Event::SaveFailed { step, error, kept } => bar.suspend(|| warn_unsaved(step, error, kept)),
        Event::SpikeBegins { step, loss, mean } => bar.suspend(|| warn_spike(step, loss, mean)),
        Event::SpikeEnds { step, steps } => bar.suspend(|| warn_spike_end(step, steps)),
        Event::LogFailed(error) => bar.suspend(|| tracing::warn!("{error}; training goes on, metrics come later")),
        Event::Patience => line(bar, "nothing got better for long enough: done"),
    }
}

/// Maximum and mean over seeds, as the Chinese tables have them, printed and written to `seeds.json`.
fn summarize(dir: &Path, all: &[(u64, Best)]) -> anyhow::Result<()> {
    let mut by_score: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (seed, best) in all {
        print(&format!("seed {seed} | {}global_step {}", score_line(&best.scores), best.step));
        for (name, value) in &best.scores {
            by_score.entry(name).or_default().push(*value);
        }
    }
    let mut summary = BTreeMap::new();
    for (name, values) in by_score {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        print(&format!("{name:24} maximum {most:.4}  mean {mean:.4}  deviation {std:.4}"));
        summary.insert(name, json!({"maximum": most, "mean": mean, "deviation": std}));
    }
    let seeds: Vec<_> = (all.iter())
        .map(|(seed, best)| json!({"seed": seed, "global_step": best.step, "scores": best.scores}))
        .collect();
    let mut file = AtomicFile::create(&dir.join("seeds.json"))?;
    file.append(format!("{:#}\n", json!({"seeds": seeds, "summary": summary})).as_bytes())?;
    file.commit()?;
    Ok(())
}

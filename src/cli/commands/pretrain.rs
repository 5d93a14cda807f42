//! `xlnet pretrain`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use indicatif::ProgressBar;

use crate::cli::args::PretrainArgs;
use crate::cli::output::{bar, line, print};
use crate::cli::run::Done;
use crate::cli::size::{bytes, grouped};
use crate::train::pretrain::{Event, Outcome, Pretraining};
use crate::train::run_config::RunConfig;
use crate::train::run_plan::RunPlan;

/// Pretrains as the arguments say.
pub fn run(args: PretrainArgs) -> anyhow::Result<Done> {
    let config = RunConfig::load(args.run.as_deref(), args.flags.0)?;
    let plan = RunPlan::new(config)?;
    if args.dry_run {
        print(plan.config.to_toml()?.trim_end());
        return Ok(Done::Completely);
    }
    pretrain(plan)
}

/// Runs `plan` with a bar until it is done or a signal arrives.
pub fn pretrain(plan: RunPlan) -> anyhow::Result<Done> {
    let stop = stop_on_signal()?;
    let mut run = Pretraining::prepare(plan)?;
    let bar = bar(0, "{wide_bar} {pos}/{len}  {msg}  {eta} left");
    let outcome = run.run(&stop, &mut |event| show(&bar, event));
    bar.finish_and_clear();
    Ok(match outcome? {
        Outcome::Finished => Done::Completely,
        Outcome::Interrupted => {
            let at = run.checkpoint().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
            print(&format!("stopped; the same command goes on from {at}"));
            Done::Interrupted
        }
    })
}

/// A flag that the first Ctrl-C or SIGTERM sets; the second ends the process at once.
fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).context("signals cannot be caught here")?;
    Ok(stop)
}

fn show(bar: &ProgressBar, event: Event) {
    match event {
        Event::Start { step, train_steps, parameters, device_bytes, steps_per_epoch, checkpoint } => {
            bar.set_length(train_steps);
            bar.set_position(step);
            bar.reset_eta();
            let (parameters, held) = (grouped(parameters as u64), bytes(device_bytes));
            line(bar, &format!("{parameters} parameters, {held} on the device, {steps_per_epoch} steps an epoch"));
            if let Some(path) = checkpoint {
                line(bar, &format!("going on from {} at step {step}", path.display()));
            }
        }
        Event::Step { result, tokens_per_s } => {
            bar.set_position(result.step);
            bar.set_message(format!("loss {:.3}  {tokens_per_s:.0} tokens/s", result.loss));
        }
        Event::Log(row) => line(bar, &row.log_line()),
        Event::Evaluated { step, loss } => {
            line(bar, &format!("[{step}] | held out: loss {loss:.2} | pplx {:>7.2}", loss.exp()));
        }
        Event::Saved(path) => line(bar, &format!("saved {}", path.display())),
        Event::SaveFailed { step, error, kept } => bar.suspend(|| {
            let kept = kept.map_or("there is no checkpoint yet".into(), |kept| format!("{} stays", kept.display()));
            tracing::warn!("step {step} is not saved: {error}; training goes on and tries again, {kept}");
        }),
        Event::LogFailed(error) => bar.suspend(|| tracing::warn!("{error}; training goes on, metrics come later")),
    }
}

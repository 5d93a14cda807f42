//! `xlnet pretrain`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow};
use indicatif::ProgressBar;

use crate::cli::args::PretrainArgs;
use crate::cli::output::{bar, line, print};
use crate::cli::run::Done;
use crate::cli::size::{bytes, grouped};
use crate::distributed::launch::{self, Launch};
use crate::distributed::{Collective, Single};
use crate::train::keys::Keyed;
use crate::train::pretrain::{Event, Outcome, Pretraining};
use crate::train::run_config::RunConfig;
use crate::train::run_plan::RunPlan;

/// Pretrains as the arguments say, alone or as the rank that the environment names.
pub fn run(args: PretrainArgs) -> anyhow::Result<Done> {
    let load = || RunConfig::load(args.run.as_deref(), args.flags.0.clone());
    if args.dry_run {
        print(RunPlan::new(load()?)?.config.to_toml()?.trim_end());
        return Ok(Done::Completely);
    }
    let launch = Launch::from_env()?;
    if launch == Launch::Single {
        return pretrain(RunPlan::new(load()?)?);
    }
    let (local_rank, local_ranks) = launch::local()?;
    share_processors(local_ranks)?;
    let mut group = launch.start()?;
    let ranks = group.ranks();
    let plan = load().and_then(|config| RunPlan::for_ranks(config, ranks)).inspect_err(|error| group.fail(error));
    let run = plan.map_err(anyhow::Error::from).and_then(|mut plan| {
        if !plan.config.device.contains(':') {
            plan.device = plan.device.nth(local_rank);
        }
        run_rank(plan, group)
    });
    run.map_err(|error| anyhow!("rank {}: {error}", launch.rank()))
}

/// Runs `plan` in this process alone, with a bar, until it is done or a signal arrives.
pub fn pretrain(plan: RunPlan) -> anyhow::Result<Done> {
    run_rank(plan, Box::new(Single))
}

fn run_rank(plan: RunPlan, group: Box<dyn Collective>) -> anyhow::Result<Done> {
    let stop = stop_on_signal()?;
    let mut run = Pretraining::prepare_rank(plan, group)?;
    let first = run.ranks().is_first();
    let bar = if first { bar(0, "{wide_bar} {pos}/{len}  {msg}  {eta} left") } else { ProgressBar::hidden() };
    let outcome = run.run(&stop, &mut |event| {
        if first {
            show(&bar, event)
        }
    });
    bar.finish_and_clear();
    let outcome = outcome?;
    run.finish()?;
    Ok(match outcome {
        Outcome::Finished => Done::Completely,
        Outcome::Interrupted => {
            let at = run.checkpoint().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
            if first {
                print(&format!("stopped; the same command goes on from {at}"));
            }
            Done::Interrupted
        }
    })
}

/// Gives each rank of a machine its part of the processors, unless the user or the launcher has done so.
fn share_processors(local_ranks: usize) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    if local_ranks < 2 || std::env::var_os("RAYON_NUM_THREADS").is_some() || is_bound() {
        return Ok(());
    }
    let threads = (cores / local_ranks).max(1);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("no threads")
}

/// True where this process may use some processors of the machine only, as `mpirun --bind-to` arranges.
fn is_bound() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (status, online) = (read("/proc/self/status"), read("/sys/devices/system/cpu/online"));
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.is_some_and(|allowed| allowed.trim() != online.trim())
}

/// A flag that the first Ctrl-C or SIGTERM sets; the second ends the process at once.
pub(super) fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
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
        Event::Start { step, train_steps, parameters, device_bytes, steps_per_epoch, checkpoint, ranks } => {
            bar.set_length(train_steps);
            bar.set_position(step);
            bar.reset_eta();
            let (parameters, held) = (grouped(parameters as u64), bytes(device_bytes));
            line(bar, &format!("{parameters} parameters, {held} on the device, {steps_per_epoch} steps an epoch"));
            if let (2.., engine) = ranks {
                let threads = rayon::current_num_threads();
                line(bar, &format!("{} ranks by {engine}; threads of the first: {threads}", ranks.0));
            }
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
        Event::SaveFailed { step, error, kept } => bar.suspend(|| warn_unsaved(step, error, kept)),
        Event::SpikeBegins { step, loss, mean } => bar.suspend(|| warn_spike(step, loss, mean)),
        Event::SpikeEnds { step, steps } => bar.suspend(|| warn_spike_end(step, steps)),
        Event::LogFailed(error) => bar.suspend(|| tracing::warn!("{error}; training goes on, metrics come later")),
    }
}

/// Of a checkpoint that could not be written.
pub(super) fn warn_unsaved(step: u64, error: &crate::Error, kept: Option<&Path>) {
    let kept = kept.map_or("there is no checkpoint yet".into(), |kept| format!("{} stays", kept.display()));
    tracing::warn!("step {step} is not saved: {error}; training goes on and tries again, {kept}");
}

/// Of a loss that jumped.
pub(super) fn warn_spike(step: u64, loss: f64, mean: f64) {
    tracing::warn!("step {step} has loss {loss:.2}, the last ones had {mean:.2}; checkpoints wait for its end");
}

/// Of one that came down again.
pub(super) fn warn_spike_end(step: u64, steps: u64) {
    tracing::warn!("the loss is usual again at step {step}, after {steps} steps");
}

//! `xlnet memory`: the largest batch that fits, found by planning programs that never run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Result;
use crate::cli::args::{MemoryArgs, ShapeArgs, Task};
use crate::cli::output::print;
use crate::cli::shape;
use crate::cli::size::{bytes, grouped};
use crate::config::XlnetConfig;
use crate::program::{Plan, Program};
use crate::tensor::{Role, TensorId};
use crate::train::fit;
use crate::train::session::Copies;
use crate::train::snapshot::Snapshot;

/// What the original managed on one 16 GB card with its default fine-tuning scripts, as published.
const PUBLISHED: [(&str, [(usize, usize); 4]); 2] =
    [("base", [(64, 120), (128, 56), (256, 24), (512, 8)]), ("large", [(64, 16), (128, 8), (256, 2), (512, 1)])];

/// Finds the largest batch, or prints the table of them.
pub fn run(args: &MemoryArgs) -> anyhow::Result<()> {
    if args.table {
        return table(args);
    }
    let config = shape::model(&args.model)?;
    let budget = format!("{} ({}, f32)", bytes(args.budget), args.shape.device);
    match largest(&config, args.task, &args.shape, args.copies(), args.budget)? {
        Some(fit) => {
            print(&format!("largest batch in {budget}: {}", grouped(fit.batch as u64)));
            if let Some(published) = published(&config, args.shape.seq_len).filter(|_| args.task == Task::Classify) {
                print(&format!("the original, TensorFlow 1.13 on one 16 GB card: {published}"));
            }
            print(&breakdown(&fit));
        }
        None => {
            let fit = Fit::plan(&config, args.task, &args.shape, args.copies(), args.shape.accumulate)?;
            let least = bytes(fit.total());
            print(&format!("no batch fits {budget}; the smallest, {}, takes {least}", fit.batch));
            print(&breakdown(&fit));
        }
    }
    Ok(())
}

/// A planned batch.
struct Fit {
    batch: usize,
    program: std::sync::Arc<Program>,
    plan: Plan,
    /// Bytes of a snapshot that is being saved, and whether they lie in the device's memory.
    snapshot: (usize, bool),
}

impl Fit {
    fn plan(config: &XlnetConfig, task: Task, shape: &ShapeArgs, copies: Copies, batch: usize) -> Result<Fit> {
        let step = shape::build(config, task, shape, batch)?;
        let plan = shape.device.plan(&step.program)?;
        let bytes = if copies == Copies::Snapshot { Snapshot::bytes(&step) } else { 0 };
        Ok(Fit { batch, plan, snapshot: (bytes, shape.device.is_host()), program: step.program })
    }
    /// Bytes of the device's memory.
    fn total(&self) -> usize {
        let (bytes, here) = self.snapshot;
        self.plan.total_bytes() + if here { bytes } else { 0 }
    }
}

/// The largest batch. Counts micro-batches' examples, so that every batch is a multiple of `accumulate`.
fn largest(config: &XlnetConfig, task: Task, shape: &ShapeArgs, copies: Copies, budget: usize) -> Result<Option<Fit>> {
    let plan = |micro: usize| Fit::plan(config, task, shape, copies, micro * shape.accumulate);
    Ok(fit::largest(plan, |fit| fit.total() <= budget)?.map(|(_, fit)| fit))
}

fn published(config: &XlnetConfig, seq_len: usize) -> Option<usize> {
    let (_, limits) = PUBLISHED.iter().find(|(name, _)| XlnetConfig::named(name).as_ref() == Some(config))?;
    limits.iter().find(|(length, _)| *length == seq_len).map(|&(_, batch)| batch)
}

/// Arenas, then what is alive where activations are at their peak, layers together.
fn breakdown(fit: &Fit) -> String {
    let mut text = String::from("\n");
    for role in Role::ALL {
        let _ = writeln!(text, "{:<28} {:>12}", role.to_string(), bytes(fit.plan.arena_bytes(role)));
    }
    let (snapshot, here) = fit.snapshot;
    if snapshot > 0 && here {
        let _ = writeln!(text, "{:<28} {:>12}", "snapshot being saved", bytes(snapshot));
    }
    let _ = writeln!(text, "{:<28} {:>12}", "total", bytes(fit.total()));
    if snapshot > 0 && !here {
        let _ = writeln!(text, "{:<28} {:>12}", "this machine's, for snapshots", bytes(snapshot));
    }
    let Some((op, alive)) = peak(fit) else { return text.trim_end().to_owned() };
    let (name, scope) = (fit.program.steps[op].op.name(), fit.program.scope(op));
    let _ = writeln!(text, "\nactivations alive at their peak, {name} in {scope}:");
    let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new(); // bytes, tensors
    for id in alive {
        let desc = fit.program.tensor(id);
        let group = groups.entry(group(&desc.name)).or_default();
        group.0 += desc.bytes();
        group.1 += 1;
    }
    if let Some(scratch) = fit.plan.workspace(op) {
        groups.insert("scratch of this op".into(), (scratch.bytes, 1));
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(name, (size, _))| (std::cmp::Reverse(*size), name.clone()));
    for (name, (size, count)) in groups {
        let _ = writeln!(text, "  {name:<26} {:>12}  {count} tensors", bytes(size));
    }
    text.trim_end().to_owned()
}

/// The op at which most bytes of activations are alive, with those activations.
fn peak(fit: &Fit) -> Option<(usize, Vec<TensorId>)> {
    let lives: Vec<(TensorId, usize, usize, usize)> = fit
        .program
        .iter()
        .filter(|(_, desc)| desc.role == Role::Activation && desc.view.is_none())
        .filter_map(|(id, desc)| fit.plan.life(id).map(|(first, last)| (id, first, last, desc.bytes())))
        .collect();
    let ops = fit.program.steps.len();
    let mut change = vec![0i64; ops + 1];
    for &(_, first, last, size) in &lives {
        change[first] += size as i64;
        change[last + 1] -= size as i64;
    }
    let mut now = 0;
    let scratch = |op: usize| fit.plan.workspace(op).map_or(0, |p| p.bytes as i64);
    let alive_at = change.into_iter().take(ops).enumerate().map(|(op, change)| {
        now += change;
        (now + scratch(op), op)
    });
    let (_, op) = alive_at.max_by_key(|&(size, op)| (size, std::cmp::Reverse(op)))?;
    let alive = lives.iter().filter(|&&(_, first, last, _)| first <= op && op <= last).map(|life| life.0).collect();
    Some((op, alive))
}

/// A tensor's name without its layer.
fn group(name: &str) -> String {
    let numbered = |part: &&str| !part.starts_with("layer.");
    name.split('/').filter(numbered).collect::<Vec<_>>().join("/")
}

/// Largest batches of Base and Large at the published lengths, in micro-batches of what fits.
fn table(args: &MemoryArgs) -> anyhow::Result<()> {
    let task = format!("{:?}", args.task).to_lowercase();
    print(&format!(
        "largest batch in {} ({}, f32), {task}, beside the original's (TensorFlow 1.13, one 16 GB card)\n",
        bytes(args.budget),
        args.shape.device
    ));
    print("model  tokens   here  original");
    for (name, limits) in PUBLISHED {
        for (seq_len, original) in limits {
            let shape = ShapeArgs { seq_len, ..args.shape.clone() };
            let here = largest(&shape::model(name)?, args.task, &shape, args.copies(), args.budget)?
                .map_or(0, |fit| fit.batch);
            let original = if args.task == Task::Classify { original.to_string() } else { "-".into() };
            print(&format!("{name:<6} {seq_len:>6} {here:>6}  {original:>8}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn memory(line: &str) -> MemoryArgs {
        match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Memory(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_next_batch_does_not_fit() {
        for line in
            ["xlnet memory --task classify", "xlnet memory --task race --accumulate 2", "xlnet memory --task pretrain"]
        {
            let args = memory(line);
            let config = XlnetConfig { n_layer: 2, n_token: 100, ..XlnetConfig::base() };
            let (copies, shape) = (args.copies(), ShapeArgs { seq_len: 32, ..args.shape });
            let budget = 800 << 20;
            let best = largest(&config, args.task, &shape, copies, budget).unwrap().unwrap();
            assert!(best.total() <= budget);
            let alone = largest(&config, args.task, &shape, Copies::None, budget).unwrap().unwrap();
            assert!(alone.batch > best.batch && breakdown(&best).contains("snapshot being saved"), "{line}");
            let next = Fit::plan(&config, args.task, &shape, copies, best.batch + shape.accumulate).unwrap();
            assert!(next.total() > budget, "{line}: {}", best.batch);
            assert!(breakdown(&best).contains("gradients"));
            assert!(largest(&config, args.task, &shape, copies, 1 << 20).unwrap().is_none());
        }
    }
    #[test]
    fn published_limits_are_found_by_size() {
        assert_eq!(published(&XlnetConfig::large(), 512), Some(1));
        assert_eq!(published(&XlnetConfig::chinese_mid(), 512), None);
        assert_eq!(group("layer.3/ff_pre"), "ff_pre");
    }
}

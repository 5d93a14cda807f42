//! `xlnet checkpoint`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;

use super::convert::export;
use crate::cli::checkpoint_args::{AverageArgs, CleanArgs, DiffArgs, InspectArgs, Target};
use crate::cli::output::print;
use crate::cli::size::grouped;
use crate::config::XlnetConfig;
use crate::model::weights::Weight;
use crate::train::export::new_directory;
use crate::train::import::{Format, ImportOptions, Imported, Located, import, locate, sources};

/// Prints a checkpoint.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let located = locate(&args.checkpoint)?;
    let (mut tensors, mut elements, mut broken) = (0u64, 0u64, 0u64);
    for source in &mut *sources(&located)?.tensors {
        match &located {
            // What it was unpacked to is gone soon.
            Located::Archive(zip) => {
                let member = source.path().file_name().unwrap_or_default();
                print(&format!("{}: {}", zip.display(), member.display()));
            }
            _ => print(&format!("{}", source.path().display())),
        }
        for name in source.names() {
            let Some(info) = source.info(&name) else { continue };
            let count: usize = info.shape.iter().product();
            tensors += 1;
            elements += count as u64;
            let mut line = format!("  {name}  {} {:?}", info.dtype, info.shape);
            if !args.names
                && let Some(values) = source.read_f32(&name)?
            {
                let statistics = Statistics::of(&values);
                broken += statistics.broken;
                line += &format!("  {statistics}");
            }
            print(&line);
        }
    }
    let total = format!("{} tensors, {} values", grouped(tensors), grouped(elements));
    if broken > 0 {
        print(&format!("{total}, {} of them NaN or infinite", grouped(broken)));
    } else {
        print(&total);
    }
    // A checkpoint that no model can be read from still has its tensors listed.
    match import(&args.checkpoint, &args.source.options(true)) {
        Ok(model) => print(&describe(&model)),
        Err(error) => print(&format!("not usable as a model: {error}")),
    }
    Ok(())
}

/// Mean, spread and range of a tensor.
struct Statistics {
    mean: f64,
    deviation: f64,
    least: f32,
    most: f32,
    broken: u64,
}

impl Statistics {
    fn of(values: &[f32]) -> Self {
        let finite = || values.iter().filter(|x| x.is_finite());
        let count = finite().count();
        let n = count.max(1) as f64;
        let mean = finite().map(|&x| f64::from(x)).sum::<f64>() / n;
        let deviation = (finite().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let least = finite().copied().reduce(f32::min).unwrap_or(0.0);
        let most = finite().copied().reduce(f32::max).unwrap_or(0.0);
        Statistics { mean, deviation, least, most, broken: (values.len() - count) as u64 }
    }
}

impl std::fmt::Display for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Statistics { mean, deviation, least, most, broken } = self;
        write!(f, "mean {mean:.4}, deviation {deviation:.4}, {least:.4} to {most:.4}")?;
        if *broken > 0 { write!(f, ", {broken} NaN or infinite") } else { Ok(()) }
    }
}

fn describe(model: &Imported) -> String {
    let XlnetConfig { n_layer, d_model, n_head, d_head, d_inner, ff_activation, untie_r, n_token } = &model.config;
    let parameters: usize = model.weights.tensors.values().map(|weight| weight.values.len()).sum();
    let mut text = format!(
        "{}, {}: n_layer {n_layer}, d_model {d_model}, n_head {n_head}, d_head {d_head}, d_inner {d_inner}, n_token \
         {n_token}, untie_r {untie_r}, ff_activation {}; {} parameters",
        model.format,
        model.settings.architecture.name(),
        serde_json::to_value(ff_activation).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
        grouped(parameters as u64)
    );
    if let Some(head) = &model.head {
        text += &format!("; head {head}");
    }
    if let Some(state) = &model.optimizer {
        let kind = state.kind.map_or("an optimiser".into(), |kind| format!("{kind:?}"));
        text += &format!("; state of {kind} after {} updates", grouped(state.step));
    } else if let Some(updates) = model.settings.updates() {
        text += &format!("; weights after {} updates", grouped(updates));
    }
    text
}

/// Whose files a checkpoint's results are by default.
fn target(format: Format) -> Target {
    match format {
        Format::TensorFlow => Target::TensorFlow,
        Format::HuggingFace | Format::Training => Target::HuggingFace,
    }
}

/// Writes a checkpoint without the optimiser's state.
pub fn clean(args: &CleanArgs) -> anyhow::Result<()> {
    let located = locate(&args.input)?;
    if let Located::TensorFlow(prefix) = &located {
        new_directory(&args.output)?;
        let cleaned = crate::model::original::clean_bundle(prefix, &args.output)?;
        cleaned.dropped.iter().for_each(|name| print(&format!("dropped {name}")));
        let (kept, dropped) = (cleaned.kept, cleaned.dropped.len());
        print(&format!("wrote {}: {kept} variables kept, {dropped} dropped", cleaned.prefix.display()));
        return Ok(());
    }
    let model = import(&args.input, &ImportOptions::default())?;
    new_directory(&args.output)?;
    let to = target(model.format);
    export(&args.output, model, to, &args.result)
}

/// Writes the mean of several checkpoints.
pub fn average(args: &AverageArgs) -> anyhow::Result<()> {
    let Some((first, others)) = args.checkpoints.split_first() else { bail!("name at least two checkpoints") };
    let options = args.source.options(false);
    let mut model = import(first, &options)?;
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, weight) in &model.weights.tensors {
        sums.insert(name.clone(), weight.values.iter().map(|&x| f64::from(x)).collect());
    }
    for path in others {
        let other = import(path, &options)?;
        if other.config != model.config {
            bail!("{}: its sizes or activation differ from those of {}", path.display(), first.display());
        }
        same_tensors((first, &model.weights.tensors), (path, &other.weights.tensors))?;
        for (name, weight) in &other.weights.tensors {
            let sum = sums.get_mut(name).into_iter().flatten();
            sum.zip(&weight.values).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }
    let n = args.checkpoints.len() as f64;
    for (name, weight) in &mut model.weights.tensors {
        let sum = sums.remove(name).unwrap_or_default();
        weight.values = sum.into_iter().map(|sum| (sum / n) as f32).collect();
    }
    if model.head.is_none() {
        model.head.clone_from(&args.source.head);
    }
    model.settings.set_updates(None); // no run made these weights
    new_directory(&args.output)?;
    let to = args.to.unwrap_or(target(model.format));
    export(&args.output, model, to, &args.result)?;
    print(&format!("mean of {} checkpoints", args.checkpoints.len()));
    Ok(())
}

type Named<'a> = (&'a Path, &'a BTreeMap<String, Weight>);

/// Both have the same names and shapes.
fn same_tensors((path_a, a): Named, (path_b, b): Named) -> anyhow::Result<()> {
    for ((path_a, a), (path_b, b)) in [((path_a, a), (path_b, b)), ((path_b, b), (path_a, a))] {
        for (name, weight) in a {
            let (here, there) = (path_a.display(), path_b.display());
            match b.get(name) {
                None => bail!("{there} has no {name}, which {here} has"),
                Some(other) if other.shape != weight.shape => {
                    bail!("{name} has shape {:?} in {there}, but {:?} in {here}", other.shape, weight.shape);
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Prints the largest differences.
pub fn diff(args: &DiffArgs) -> anyhow::Result<()> {
    let options = args.source.options(false);
    let (a, b) = (import(&args.a, &options)?, import(&args.b, &options)?);
    if a.config != b.config {
        print(&format!("configurations differ:\n  {}\n  {}", describe(&a), describe(&b)));
    }
    let (a, b) = (&a.weights.tensors, &b.weights.tensors);
    let (mut differences, mut same) = (vec![], 0);
    for (name, x) in a {
        match b.get(name) {
            None => print(&format!("only in {}: {name}", args.a.display())),
            Some(y) if x.shape != y.shape => print(&format!("{name}: shape {:?}, there {:?}", x.shape, y.shape)),
            Some(y) if x.same_bits(y) => same += 1,
            Some(y) => differences.push((Difference::of(x, y), name)),
        }
    }
    b.keys().filter(|name| !a.contains_key(*name)).for_each(|name| {
        print(&format!("only in {}: {name}", args.b.display()));
    });
    differences.sort_by(|(x, _), (y, _)| y.largest.total_cmp(&x.largest));
    let width = differences.iter().take(args.top).map(|(_, name)| name.len()).max().unwrap_or(0);
    for (difference, name) in differences.iter().take(args.top) {
        let Difference { largest, mean, relative } = difference;
        print(&format!("{name:width$}  largest {largest:.3e}  mean {mean:.3e}  relative {relative:.3e}"));
    }
    let (n, more) = (differences.len(), differences.len().saturating_sub(args.top));
    let more = if more > 0 { format!(" ({more} not shown)") } else { String::new() };
    print(&format!("{n} tensors differ{more}, {same} are equal bit for bit"));
    Ok(())
}

/// How far two tensors of one shape are apart.
struct Difference {
    /// Largest absolute difference; infinite where only one side is a number.
    largest: f64,
    /// Mean absolute difference.
    mean: f64,
    /// Norm of the difference over the norm of the first.
    relative: f64,
}

impl Difference {
    fn of(a: &Weight, b: &Weight) -> Self {
        let (mut largest, mut sum, mut squares, mut norm) = (0f64, 0f64, 0f64, 0f64);
        for (&x, &y) in a.values.iter().zip(&b.values).filter(|(x, y)| x.to_bits() != y.to_bits()) {
            let d = (f64::from(x) - f64::from(y)).abs();
            let d = if d.is_nan() { f64::INFINITY } else { d };
            largest = largest.max(d);
            sum += d;
            squares += d * d;
        }
        for &x in &a.values {
            norm += f64::from(x).powi(2);
        }
        let relative = if squares == 0.0 { 0.0 } else { (squares / norm).sqrt() };
        Difference { largest, mean: sum / a.values.len().max(1) as f64, relative }
    }
}

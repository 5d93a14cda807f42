//! Which batch fits a memory: programs are planned, never run.

use super::session::Copies;
use super::snapshot::Snapshot;
use super::step::{Objective, StepOptions, StepProgram};
use crate::backend::{Device, Parameters};
use crate::config::XlnetConfig;
use crate::size::bytes;
use crate::{Error, Result};

const LARGEST: usize = 1 << 20; // nobody asks for more

/// The largest count, with its plan, that `fits`; `None` when 1 does not. Doubles until it does not fit, then halves the
/// gap.
///
/// # Errors
/// Those of `plan`.
pub fn largest<T>(plan: impl Fn(usize) -> Result<T>, fits: impl Fn(&T) -> bool) -> Result<Option<(usize, T)>> {
    let mut best = plan(1)?;
    if !fits(&best) {
        return Ok(None);
    }
    let (mut low, mut high) = (1, 2);
    while high < LARGEST {
        let next = plan(high)?;
        if !fits(&next) {
            break;
        }
        (best, low, high) = (next, high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let next = plan(middle)?;
        if fits(&next) {
            (best, low) = (next, middle);
        } else {
            high = middle;
        }
    }
    Ok(Some((low, best)))
}

/// Bytes of `device` that a program needs, with copies of it that lie in the same memory and without what it shares.
///
/// # Errors
/// When the program does not fit the device's limits.
pub fn needed(device: Device, step: &StepProgram, copies: Copies) -> Result<usize> {
    let plan = device.plan(&step.program)?;
    Ok(match copies {
        Copies::Snapshot if device.is_host() => plan.total_bytes() + Snapshot::bytes(step),
        Copies::Shared => Parameters::Borrowed.held_bytes(&plan),
        _ => plan.total_bytes(),
    })
}

/// Requires that what the program needs is free on `device`, before anything is allocated.
///
/// # Errors
/// Says what is needed, what is free and which batch would fit.
pub fn check(
    config: &XlnetConfig,
    options: &StepOptions,
    device: Device,
    step: &StepProgram,
    copies: Copies,
) -> Result<()> {
    let Some(free) = device.free_bytes() else { return Ok(()) };
    let need = needed(device, step, copies)?;
    if need <= free { Ok(()) } else { Err(refusal(config, options, device, copies, need, free)?) }
}

/// The sentence of [`check`].
fn refusal(
    config: &XlnetConfig,
    options: &StepOptions,
    device: Device,
    copies: Copies,
    need: usize,
    free: usize,
) -> Result<Error> {
    // What a micro-batch can grow by: examples with all their choices, pairs of directions.
    let unit = match options.objective {
        Objective::Choice { choices, .. } => choices,
        _ if options.transformer.bi_data => 2,
        _ => 1,
    };
    let planned = |units: usize| {
        let mut options = options.clone();
        options.transformer.batch = units * unit;
        needed(device, &StepProgram::build(config, &options)?, copies)
    };
    let micro = options.accumulate;
    let asked = options.transformer.batch * micro;
    let advice = match largest(planned, |&bytes| bytes <= free)? {
        Some((units, _)) => format!("the largest batch that fits is {} sequences", units * unit * micro),
        None => format!("not even {} fit; use shorter sequences or a smaller model", unit * micro),
    };
    let (need, free) = (bytes(need), bytes(free));
    let what =
        format!("a batch of {asked} sequences needs {need} of memory, but {free} are free on {device}; {advice}");
    Ok(Error::device(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{QueryKind, TransformerOptions};
    use crate::tensor::DType;
    use crate::train::step::OptimizerOptions;

    fn tiny() -> XlnetConfig {
        XlnetConfig { n_layer: 2, d_model: 32, n_head: 2, d_head: 16, d_inner: 64, n_token: 100, ..XlnetConfig::base() }
    }
    fn options(batch: usize) -> StepOptions {
        let query = QueryKind::Targets(3);
        let transformer = TransformerOptions { batch, length: 16, bi_data: true, query, ..Default::default() };
        let (objective, optimizer) = (Objective::LanguageModel, Some(OptimizerOptions::default()));
        StepOptions { transformer, objective, accumulate: 3, float: DType::F32, optimizer }
    }

    #[test]
    fn the_batch_that_is_named_fits_and_the_next_does_not() {
        let need = |batch| {
            let program = StepProgram::build(&tiny(), &options(batch)).unwrap().program;
            Device::Cpu.plan(&program).unwrap().total_bytes()
        };
        let free = need(10) + 1;
        assert!(free < need(12));
        let text = refusal(&tiny(), &options(64), Device::Cpu, Copies::None, need(64), free).unwrap().to_string();
        assert!(text.starts_with("a batch of 192 sequences needs "), "{text}");
        assert!(text.ends_with("free on cpu; the largest batch that fits is 30 sequences"), "{text}");
        let text = refusal(&tiny(), &options(64), Device::Cpu, Copies::None, need(64), 1000).unwrap().to_string();
        assert!(
            text.ends_with("1000 B are free on cpu; not even 6 fit; use shorter sequences or a smaller model"),
            "{text}"
        );
    }

    /// Parameters and both moments once more, in the device's memory only where that is this machine's.
    #[test]
    fn a_snapshot_counts() {
        let step = StepProgram::build(&tiny(), &options(4)).unwrap();
        let alone = needed(Device::Cpu, &step, Copies::None).unwrap();
        let values = step.parameter_count();
        let more = needed(Device::Cpu, &step, Copies::Snapshot).unwrap() - alone;
        let memory: usize = step.memory.iter().map(|&id| step.program.tensor(id).bytes()).sum();
        assert_eq!(more, 3 * 4 * values + memory);
        let free = alone + more - 1;
        let refused = refusal(&tiny(), &options(4), Device::Cpu, Copies::Snapshot, alone + more, free).unwrap();
        assert!(refused.to_string().contains("the largest batch that fits is "), "{refused}");
    }

    #[test]
    fn a_session_asks_before_it_allocates() {
        // Small enough for the system to promise more than it has, large enough for no machine to have it.
        let config = XlnetConfig { n_token: 1 << 24, d_model: 1 << 16, ..tiny() };
        if Device::Cpu.free_bytes().is_none() {
            return;
        }
        let error = crate::train::session::Session::new(&config, options(2), Device::Cpu, 1).err().expect("refused");
        let text = error.to_string();
        assert!(text.contains("TiB of memory, but ") && text.contains("not even 6 fit"), "{text}");
    }
}

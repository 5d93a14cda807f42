//! Losses that jump and values that are no numbers: noticed before checkpoints are worth nothing.

use serde::{Deserialize, Serialize};

use super::loss_scale::LossScale;
use super::session::{Session, StepResult};
use crate::tensor::TensorId;
use crate::{Error, Result};

const RECENT: usize = 100; // losses whose mean is the usual one
const FEWEST: usize = 20; // that are needed to call a loss unusual

/// Compares each loss with the ones before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossGuard {
    /// Usual losses, the last one at the end.
    #[serde(with = "super::state::exact")]
    recent: Vec<f64>,
    /// Updates that the present spike has lasted; 0 when there is none.
    spike: u64,
}

/// What a loss is among those before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing to tell.
    Usual,
    /// The first one that is far above the mean of the last ones.
    SpikeBegins {
        /// That mean, nats.
        mean: f64,
    },
    /// Another one.
    Spike {
        /// Updates that it has lasted.
        steps: u64,
        /// The mean before it, nats.
        mean: f64,
    },
    /// The first usual one after a spike.
    SpikeEnds {
        /// Updates that it lasted.
        steps: u64,
    },
    /// No finite number: of a step that overflowed and changed nothing, which proves nothing.
    NotFinite,
}

impl LossGuard {
    /// Takes in a loss; one `height` nats above the mean of about the last hundred usual ones belongs to a spike. A
    /// `height` of 0 finds none.
    pub fn watch(&mut self, loss: f64, height: f64) -> Verdict {
        if !loss.is_finite() {
            return Verdict::NotFinite;
        }
        let mean = self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64;
        if height > 0.0 && self.recent.len() >= FEWEST && loss > mean + height {
            self.spike += 1;
            return match self.spike {
                1 => Verdict::SpikeBegins { mean },
                steps => Verdict::Spike { steps, mean },
            };
        }
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(loss);
        match std::mem::take(&mut self.spike) {
            0 => Verdict::Usual,
            steps => Verdict::SpikeEnds { steps },
        }
    }
    /// Whether the last loss belonged to a spike.
    pub fn in_spike(&self) -> bool {
        self.spike > 0
    }
}

/// Says which values are no finite numbers after a backward pass or an update, and how large the weights are; `None`
/// when parameters, moments, memories and gradients are all numbers.
///
/// # Errors
/// When the device fails.
pub fn find_not_finite(session: &mut Session) -> Result<Option<String>> {
    let state = find_state_not_finite(session)?;
    if state.is_some() {
        return Ok(state);
    }
    // Gradients go down from the loss, so the last one declared is nearest to it.
    let gradients = session.gradients().into_iter().rev().collect();
    find_in(session, vec![("gradient", gradients)])
}

/// As [`find_not_finite`], in what a checkpoint holds: everything but gradients.
///
/// # Errors
/// When the device fails.
pub fn find_state_not_finite(session: &mut Session) -> Result<Option<String>> {
    let program = session.program();
    let trained = program.update.as_ref().map_or(&[][..], |update| &update.trained);
    // Causes come before what follows from them. The memory of a layer is what enters it, so the first bad one tells
    // how deep the trouble is.
    let groups = vec![
        ("parameter", program.params.clone()),
        ("moment", trained.iter().flat_map(|t| [t.m, t.v]).collect()),
        ("tensor", program.memory.clone()),
    ];
    find_in(session, groups)
}

fn find_in(session: &mut Session, groups: Vec<(&str, Vec<TensorId>)>) -> Result<Option<String>> {
    for (kind, ids) in groups {
        let (mut first, mut tensors, all) = (None, 0, ids.len());
        for id in ids {
            let values = session.exec().download_f32(id)?;
            let wrong = values.iter().filter(|x| !x.is_finite()).count();
            if wrong > 0 {
                tensors += 1;
                first.get_or_insert((id, wrong, values.len()));
            }
        }
        if let Some((id, wrong, values)) = first {
            let name = &session.program().program.tensor(id).name;
            let rest = if tensors > 1 { format!(", {} more of {all} have some", tensors - 1) } else { String::new() };
            let what = format!("{kind} {name} has {wrong} of {values} values that are no finite numbers{rest}");
            return Ok(Some(format!("{what}; {}", largest_weight(session)?)));
        }
    }
    Ok(None)
}

/// The sentence that ends a run whose numbers are none, with all that can be found out.
pub fn diverged(session: &mut Session, what: &str, last_good: &str) -> Error {
    let found = match find_not_finite(session) {
        Ok(Some(found)) => format!(" ({found})"),
        _ => String::new(),
    };
    let mut advice = "lower learning_rate, raise warmup_steps or lower clip".to_owned();
    if matches!(session.loss_scale(), LossScale::Fixed(scale) if *scale > 1.0) {
        advice += ", or loss_scale = 0, which adapts itself in f16";
    }
    Error::config(format!("{what}{found}, so training stops; {last_good}; {advice}"))
}

/// The sentence that ends a run whose loss jumped `steps` updates ago from `mean` by more than `height` and stays there.
pub fn spike_lasts(result: &StepResult, steps: u64, mean: f64, height: f64, last_good: &str) -> Error {
    let StepResult { step, loss, .. } = *result;
    let (began, high) = (step + 1 - steps, mean + height);
    Error::config(format!(
        "the loss jumped at step {began} from {mean:.2} to more than {high:.2} and is {loss:.2} at step {step}, so training \
         stops; {last_good}; lower learning_rate, raise warmup_steps, or set loss_spike = 0 to go on regardless"
    ))
}

fn largest_weight(session: &mut Session) -> Result<String> {
    let mut largest = (0.0, None);
    for id in session.program().params.clone() {
        let finite = session.exec().download_f32(id)?.into_iter().filter(|x| x.is_finite());
        let most = finite.fold(0.0, |most: f32, x| most.max(x.abs()));
        if most > largest.0 {
            largest = (most, Some(id));
        }
    }
    Ok(match largest {
        (most, Some(id)) => {
            format!("the largest weight is {most:.3e}, in {}", session.program().program.tensor(id).name)
        }
        _ => "no weight is a finite number but 0".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(losses: usize) -> LossGuard {
        let mut guard = LossGuard::default();
        for i in 0..losses {
            assert_eq!(guard.watch(4.0 + (i % 2) as f64, 2.0), Verdict::Usual);
        }
        guard
    }

    #[test]
    fn spikes_begin_last_and_end() {
        let mut guard = guard(100);
        assert_eq!(guard.watch(6.5, 2.0), Verdict::Usual);
        assert!(matches!(guard.watch(6.6, 2.0), Verdict::SpikeBegins { mean } if (mean - 4.525).abs() < 1e-9));
        assert!(guard.in_spike());
        // Unusual losses do not count into what is usual.
        assert!(matches!(guard.watch(60.0, 2.0), Verdict::Spike { steps: 2, mean } if (mean - 4.525).abs() < 1e-9));
        assert_eq!((guard.watch(f64::NAN, 2.0), guard.in_spike()), (Verdict::NotFinite, true));
        assert_eq!(guard.watch(5.0, 2.0), Verdict::SpikeEnds { steps: 2 });
        assert_eq!((guard.in_spike(), guard.recent.len()), (false, 100));
    }
    #[test]
    fn few_losses_and_no_height_find_nothing() {
        assert_eq!(guard(19).watch(100.0, 2.0), Verdict::Usual);
        assert!(matches!(guard(20).watch(100.0, 2.0), Verdict::SpikeBegins { .. }));
        assert_eq!(guard(50).watch(100.0, 0.0), Verdict::Usual);
    }
    #[test]
    fn its_memory_survives_a_checkpoint() {
        let mut guard = guard(30);
        guard.watch(0.1 + 0.2, 2.0);
        guard.watch(99.0, 2.0);
        let text = serde_json::to_string(&guard).unwrap();
        assert_eq!(serde_json::from_str::<LossGuard>(&text).unwrap(), guard);
    }
}

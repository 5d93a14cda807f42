//! Learning rate by step, as the original's `get_train_op`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Shape of the decay after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayMethod {
    /// A straight line down to the final rate.
    #[default]
    Poly,
    /// Half a cosine.
    Cos,
}

/// Warm-up and decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub learning_rate: f64,
    /// Updates until it is reached; the first update has rate 0.
    pub warmup_steps: u64,
    /// Updates in all.
    pub train_steps: u64,
    /// Last rate over highest.
    pub min_lr_ratio: f64,
    /// Shape of the decay.
    pub decay_method: DecayMethod,
}

impl Default for Schedule {
    /// The original's defaults for pretraining.
    fn default() -> Self {
        let (warmup_steps, train_steps, decay_method) = (0, 100_000, DecayMethod::Poly);
        Schedule { learning_rate: 1e-4, warmup_steps, train_steps, min_lr_ratio: 0.001, decay_method }
    }
}

impl Schedule {
    /// Checks the settings.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<()> {
        let rate = self.learning_rate;
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(Error::config(format!("learning_rate must be a number of at least 0, but is {rate}")));
        }
        if !(0.0..=1.0).contains(&self.min_lr_ratio) {
            let ratio = self.min_lr_ratio;
            return Err(Error::config(format!("min_lr_ratio must lie between 0 and 1, but is {ratio}")));
        }
        if self.warmup_steps > 0 && self.warmup_steps >= self.train_steps {
            let (warmup, train) = (self.warmup_steps, self.train_steps);
            return Err(Error::config(format!("warmup_steps ({warmup}) must be below train_steps ({train})")));
        }
        Ok(())
    }
    /// Rate of the update that follows `step` updates.
    pub fn rate(&self, step: u64) -> f64 {
        let (peak, ratio) = (self.learning_rate, self.min_lr_ratio);
        if step < self.warmup_steps {
            return peak * step as f64 / self.warmup_steps as f64;
        }
        let length = self.train_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = (step - self.warmup_steps).min(length) as f64 / length as f64;
        match self.decay_method {
            DecayMethod::Poly => (peak - peak * ratio) * (1.0 - progress) + peak * ratio,
            DecayMethod::Cos => {
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                peak * ((1.0 - ratio) * cosine + ratio)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_original() {
        let mut schedule = Schedule {
            learning_rate: 1.0,
            warmup_steps: 4,
            train_steps: 10,
            min_lr_ratio: 0.1,
            decay_method: DecayMethod::Poly,
        };
        let poly = [0.0, 0.25, 0.5, 0.75, 1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.1];
        let cos = [0.0, 0.25, 0.5, 0.75, 1.0, 0.93971, 0.775, 0.55, 0.325, 0.16029, 0.1, 0.1];
        for (method, expected) in [(DecayMethod::Poly, poly), (DecayMethod::Cos, cos)] {
            schedule.decay_method = method;
            for (step, want) in expected.iter().enumerate() {
                let got = schedule.rate(step as u64);
                assert!((got - want).abs() < 5e-6, "{method:?} step {step}: {got}, expected {want}");
            }
        }
    }
}

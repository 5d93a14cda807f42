//! Initial values of parameters. Each parameter has a random stream of its own, keyed by seed and name, so its values
//! depend neither on the other parameters nor on the number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::step::StepProgram;
use crate::backend::Executor;
use crate::model::params::{Init, initializer};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Distribution of freshly made weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitMethod {
    /// Gaussian around 0, not truncated.
    #[default]
    Normal,
    /// Uniform around 0.
    Uniform,
}

/// Settings of the initialiser, named as the original's flags.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitOptions {
    /// Distribution.
    pub init: InitMethod,
    /// Standard deviation of [`InitMethod::Normal`].
    pub init_std: f32,
    /// [`InitMethod::Uniform`] draws between minus and plus this.
    pub init_range: f32,
    /// Seed of all streams.
    pub seed: u64,
}

impl Default for InitOptions {
    /// The original's defaults: normal with deviation 0.02.
    fn default() -> Self {
        InitOptions { init: InitMethod::Normal, init_std: 0.02, init_range: 0.1, seed: 0 }
    }
}

impl InitOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("init_std", self.init_std), ("init_range", self.init_range)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(format!("{name} must be a number of at least 0, but is {value}")));
            }
        }
        Ok(())
    }

    /// Initial values of the parameter called `name`, row-major.
    pub fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let len = shape.iter().product();
        let uniform = |range: f64| {
            let mut rng = stream(self.seed, name);
            (0..len).map(|_| ((2.0 * unit(&mut rng) - 1.0) * range) as f32).collect()
        };
        match (initializer(name), self.init) {
            (Init::Zeros, _) => vec![0.0; len],
            (Init::Ones, _) => vec![1.0; len],
            (Init::Glorot, _) => uniform((6.0 / (1.0 + shape.last().copied().unwrap_or(1) as f64)).sqrt()),
            (Init::Weight, InitMethod::Uniform) => uniform(f64::from(self.init_range)),
            (Init::Weight, InitMethod::Normal) => {
                let mut rng = stream(self.seed, name);
                let mut values = Vec::with_capacity(len + 1);
                while values.len() < len {
                    // Box and Muller's transform: two uniform numbers become two normal ones.
                    let radius = (-2.0 * (1.0 - unit(&mut rng)).ln()).sqrt() * f64::from(self.init_std);
                    let (sin, cos) = (std::f64::consts::TAU * unit(&mut rng)).sin_cos();
                    values.extend([(radius * cos) as f32, (radius * sin) as f32]);
                }
                values.truncate(len);
                values
            }
        }
    }
}

/// The random stream of one parameter.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize().into())
}

/// Uniform in `[0, 1)` with 53 random bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uploads initial values of every parameter.
///
/// # Errors
/// When a setting is out of range or the device fails.
pub fn initialize(exec: &mut dyn Executor, step: &StepProgram, options: &InitOptions) -> Result<()> {
    initialize_params(exec, &step.params, options)
}

/// Uploads initial values of some parameters.
pub(super) fn initialize_params(exec: &mut dyn Executor, params: &[TensorId], options: &InitOptions) -> Result<()> {
    options.validate()?;
    let program = exec.program().clone();
    // As many at a time as there are threads: the whole model need not fit the host beside the device's copy.
    for some in params.chunks(rayon::current_num_threads().max(1)) {
        let values: Vec<Vec<f32>> = some
            .par_iter()
            .map(|&id| {
                let desc = program.tensor(id);
                options.values(&desc.name, desc.shape.dims())
            })
            .collect();
        for (&id, values) in some.iter().zip(&values) {
            exec.upload_f32(id, values)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        (mean, (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn distributions() {
        let o = InitOptions::default();
        let normal = o.values("transformer.layer.0.rel_attn.q", &[100, 10, 100]);
        let (mean, std) = moments(&normal);
        assert!(mean.abs() < 3e-4 && (std - 0.02).abs() < 2e-4, "{mean} {std}");
        // About 270 of 100000 lie beyond three deviations when nothing is truncated, 6 beyond four.
        let beyond = |k: f32| normal.iter().filter(|x| x.abs() > k * 0.02).count();
        assert!((200..340).contains(&beyond(3.0)) && beyond(4.0) > 0, "{} {}", beyond(3.0), beyond(4.0));

        let uniform = InitOptions { init: InitMethod::Uniform, ..o }.values("logits_proj.weight", &[20, 1000]);
        let (mean, std) = moments(&uniform);
        assert!(mean.abs() < 2e-3 && (std - 0.1 / 3f64.sqrt()).abs() < 1e-3, "{mean} {std}");
        assert!(uniform.iter().all(|x| x.abs() <= 0.1));

        let bound = (6f32 / 1025.0).sqrt();
        let glorot = o.values("transformer.mask_emb", &[1, 1, 1024]);
        let most = glorot.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(most <= bound && most > 0.95 * bound, "{most} {bound}");

        assert_eq!(o.values("transformer.layer.3.ff.layer_norm.weight", &[3]), [1.0; 3]);
        assert_eq!(o.values("transformer.layer.3.ff.layer_1.bias", &[3]), [0.0; 3]);
        assert!(o.values("transformer.layer.3.rel_attn.r_w_bias", &[2, 2]).iter().all(|&x| x != 0.0));
    }

    #[test]
    fn streams_depend_on_seed_and_name_only() {
        let o = InitOptions::default();
        let name = "transformer.layer.1.rel_attn.k";
        let long = o.values(name, &[8, 8]);
        assert_eq!(o.values(name, &[5, 5]), long[..25]);
        assert_ne!(o.values("transformer.layer.2.rel_attn.k", &[8, 8]), long);
        assert_ne!(InitOptions { seed: 1, ..o }.values(name, &[8, 8]), long);
        // Seeds of old runs must keep giving the same model.
        let known = o.values("transformer.word_embedding.weight", &[4]);
        let expected = [0.0039301147f32, 0.03357927, 0.02629939, -0.013697664];
        assert!(known.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-8), "{known:?}");
    }

    #[test]
    fn settings_out_of_range() {
        for bad in [f32::NAN, f32::INFINITY, -0.1] {
            let error = InitOptions { init_std: bad, ..Default::default() }.validate().expect_err("out of range");
            assert!(error.to_string().contains("init_std"), "{error}");
        }
    }
}

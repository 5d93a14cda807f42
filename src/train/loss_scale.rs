//! The factor of the loss, which keeps small gradients above the smallest numbers of f16.
//!
//! f16 holds numbers from 6e-8 to 65504, and gradients of activations are often below that. The weights of the loss are
//! multiplied by the factor, so that all gradients are; the optimiser divides by it (`rescale` of [`crate::op::Adam`]), and
//! so do the losses and norms that people see. A power of two changes no bit of what stays in range.

use serde::{Deserialize, Serialize};

use crate::tensor::DType;
use crate::{Error, Result};

/// Where a factor that adapts itself starts.
const FIRST: f64 = 65536.0;
/// Above this it does not rise.
const LARGEST: f64 = 16_777_216.0;
/// Updates without an overflow after which it doubles.
const PATIENCE: u64 = 2000;

/// What the loss of the next step is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScale {
    /// Always the same.
    Fixed(f64),
    /// Halved where gradients overflow, doubled after 2000 updates in which none did.
    Dynamic(DynamicScale),
}

/// The state of a factor that adapts itself, part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicScale {
    /// The factor, a power of two from 1 to 2^24.
    scale: f64,
    /// Updates without an overflow since it changed.
    good_steps: u64,
}

impl LossScale {
    /// The factor that `setting` asks for, where 0 leaves it to `products`, the element type of operands of products: it
    /// adapts itself in f16 and is 1 otherwise.
    ///
    /// # Errors
    /// When it is negative or no finite number.
    pub fn new(setting: f64, products: Option<DType>) -> Result<Self> {
        match setting {
            0.0 if products == Some(DType::F16) => Ok(LossScale::Dynamic(DynamicScale { scale: FIRST, good_steps: 0 })),
            0.0 => Ok(LossScale::Fixed(1.0)),
            scale if scale > 0.0 && scale.is_finite() => Ok(LossScale::Fixed(scale)),
            other => Err(Error::config(format!(
                "loss_scale must be a number above 0, or 0 to adapt itself in f16, but is {other}"
            ))),
        }
    }
    /// The factor.
    pub fn factor(&self) -> f64 {
        match self {
            LossScale::Fixed(scale) | LossScale::Dynamic(DynamicScale { scale, .. }) => *scale,
        }
    }
    /// What a checkpoint remembers; `None` of a fixed factor.
    pub fn state(&self) -> Option<DynamicScale> {
        match self {
            LossScale::Fixed(_) => None,
            LossScale::Dynamic(state) => Some(*state),
        }
    }
    /// Goes on as a checkpoint was; a fixed factor stays what the settings say.
    pub fn resume(&mut self, state: Option<DynamicScale>) {
        if let (LossScale::Dynamic(mine), Some(state)) = (self, state) {
            *mine = state;
        }
    }
    /// Takes in whether a step's loss and norm were finite numbers; true where they were not but may be with the smaller
    /// factor that it has now.
    pub fn follow(&mut self, finite: bool) -> bool {
        let LossScale::Dynamic(DynamicScale { scale, good_steps }) = self else { return false };
        if !finite {
            let falls = *scale > 1.0;
            (*scale, *good_steps) = ((*scale / 2.0).max(1.0), 0);
            return falls;
        }
        *good_steps += 1;
        if *good_steps == PATIENCE {
            (*scale, *good_steps) = ((*scale * 2.0).min(LARGEST), 0);
        }
        false
    }
}

/// Requires settings of half precision that go together.
///
/// # Errors
/// When they do not.
pub fn check(bf16: bool, f16: bool, loss_scale: f64, check_finite: bool) -> Result<()> {
    if bf16 && f16 {
        let what = "use_bfloat16 and use_float16 are both true; set one: bfloat16 needs no loss scale, float16 is for cards \
                    without it";
        return Err(Error::config(what));
    }
    let scale = LossScale::new(loss_scale, products(bf16, f16))?;
    if check_finite && scale.state().is_some() {
        let what = "check_finite stops at the first overflow, and with use_float16 a loss_scale of 0 grows until one comes; \
                    set loss_scale to a number, such as the last one that was logged";
        return Err(Error::config(what));
    }
    Ok(())
}

/// The element type that operands of products are rounded to; [`check`] refuses both.
pub fn products(bf16: bool, f16: bool) -> Option<DType> {
    if bf16 { Some(DType::Bf16) } else { f16.then_some(DType::F16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_unless_asked() {
        for (setting, products, factor) in [
            (0.0, None, 1.0),
            (0.0, Some(DType::Bf16), 1.0),
            (0.0, Some(DType::F16), 65536.0),
            (128.0, Some(DType::F16), 128.0),
            (0.5, None, 0.5),
        ] {
            assert_eq!(LossScale::new(setting, products).unwrap().factor(), factor);
        }
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            let told = LossScale::new(wrong, Some(DType::F16)).unwrap_err().to_string();
            assert!(told.contains("loss_scale must be a number above 0"), "{told}");
        }
    }
    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (settings, part) in [
            ((true, true, 0.0, false), "use_bfloat16 and use_float16 are both true; set one"),
            ((false, true, 0.0, true), "set loss_scale to a number"),
            ((false, false, -2.0, false), "but is -2"),
        ] {
            let (bf16, f16, scale, check_finite) = settings;
            let told = check(bf16, f16, scale, check_finite).unwrap_err().to_string();
            assert!(told.contains(part), "{told}");
        }
        for (bf16, f16, scale, check_finite) in
            [(true, false, 0.0, true), (false, true, 256.0, true), (false, true, 0.0, false), (false, false, 8.0, true)]
        {
            check(bf16, f16, scale, check_finite).unwrap();
        }
    }
    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let mut scale = LossScale::new(0.0, Some(DType::F16)).unwrap();
        for _ in 0..1999 {
            assert!(!scale.follow(true));
        }
        assert!(scale.follow(false));
        assert_eq!(scale.factor(), 32768.0);
        for step in 0..2000 {
            assert_eq!(scale.factor(), 32768.0, "{step}");
            assert!(!scale.follow(true));
        }
        assert_eq!(scale.factor(), 65536.0);
        for _ in 0..20 * 2000 {
            scale.follow(true);
        }
        assert_eq!(scale.factor(), LARGEST);
        for _ in 0..24 {
            assert!(scale.follow(false));
        }
        assert_eq!(scale.factor(), 1.0);
        assert!(!scale.follow(false), "nothing is left to halve");
        assert_eq!(scale.factor(), 1.0);
    }
    #[test]
    fn a_fixed_one_stays() {
        let mut scale = LossScale::new(1024.0, Some(DType::F16)).unwrap();
        let state = LossScale::new(0.0, Some(DType::F16)).unwrap().state();
        assert!(!scale.follow(false) && state.is_some());
        scale.resume(state);
        assert_eq!((scale.factor(), scale.state()), (1024.0, None));
    }
    #[test]
    fn a_resumed_one_goes_on() {
        let mut scale = LossScale::new(0.0, Some(DType::F16)).unwrap();
        scale.follow(false);
        scale.follow(true);
        let mut other = LossScale::new(0.0, Some(DType::F16)).unwrap();
        let text = serde_json::to_string(&scale.state()).unwrap();
        other.resume(serde_json::from_str(&text).unwrap());
        assert_eq!(other, scale);
    }
}

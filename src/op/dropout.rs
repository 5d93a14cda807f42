//! Dropout by counter: the mask is a function of (key, site, element), so nothing is stored and every backend draws
//! the same bits. The bits themselves are defined in [`super::philox`].

use super::{Operation, Target, Tensors};
use crate::Result;
use crate::tensor::{DType, TensorId};

/// One place of the model where elements are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutSite {
    /// Random key of the step (and of the micro-batch), written by the host.
    pub key: TensorId, // [2] u32
    /// Number of the place; every place of a program has its own.
    pub site: u32,
    /// Probability that an element is dropped.
    pub rate: f32,
}

impl DropoutSite {
    /// Checks the key and the rate of an optional site.
    pub(super) fn check(site: Option<DropoutSite>, t: &Tensors) -> Result<()> {
        let Some(site) = site else { return Ok(()) };
        t.expect_dtype("dropout key", site.key, DType::U32)?;
        t.expect_len("dropout key", site.key, 2)?;
        t.expect_rate(site.rate)
    }
}

/// `out = x * mask * scale`, inverted dropout. Its own gradient: the same op on the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    /// Input.
    pub x: TensorId, // [n]
    /// Result; may be `x` itself.
    pub out: TensorId, // [n]
    /// Where the mask comes from.
    pub dropout: DropoutSite,
}

impl Operation for Dropout {
    const NAME: &'static str = "dropout";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.x, self.dropout.key]
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        t.expect_float("x", self.x)?;
        t.expect_len("out", self.out, t.shape(self.x).len())?;
        DropoutSite::check(Some(self.dropout), t)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        t.shape(self.x).len() as u64
    }
}

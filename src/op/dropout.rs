//! Dropout by counter: the mask is a function of (key, site, row of the whole batch, element of that row), so nothing is
//! stored, every backend draws the same bits, and ranks and micro-batches those of the undivided batch. The bits
//! themselves are defined in [`super::philox`].

use super::philox::Place;
use super::{Operation, Target, Tensors};
use crate::Result;
use crate::tensor::{DType, TensorId};

/// Words of a key tensor before the numbers of its batch rows.
pub const KEY_LEN: usize = 2;

/// One place of the model where elements are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutSite {
    /// Random key of the step, then the number of each batch row in the whole batch; written by the host.
    pub key: TensorId, // [2 + B] u32
    /// Number of the place; every place of a program has its own.
    pub site: u32,
    /// Probability that an element is dropped.
    pub rate: f32,
    /// Rows of a batch row in the first part of the tensor; what is left belongs to the second, see [`Place`]. Attention
    /// knows its rows without.
    pub lead: usize,
}

impl DropoutSite {
    /// Batch rows that `key` numbers.
    pub fn batch(key_len: usize) -> usize {
        key_len.saturating_sub(KEY_LEN)
    }
    /// Checks an optional site of attention over `batch` rows.
    pub(super) fn check_attention(site: Option<DropoutSite>, t: &Tensors, batch: usize) -> Result<()> {
        let Some(site) = site else { return Ok(()) };
        t.expect_dtype("dropout key", site.key, DType::U32)?;
        t.expect_len("dropout key", site.key, KEY_LEN + batch)?;
        t.expect_rate(site.rate)
    }
    /// Checks an optional site of a tensor of `rows` rows.
    pub(super) fn check(site: Option<DropoutSite>, t: &Tensors, rows: usize) -> Result<()> {
        let Some(site) = site else { return Ok(()) };
        let batch = Self::batch(t.shape(site.key).len());
        Self::check_attention(Some(site), t, batch)?;
        let fits = Place::new(rows, batch, site.lead).is_some();
        t.expect("dropout rows", fits, format_args!("{} rows or more for each of {batch}", site.lead), rows)
    }
}

/// `out = x * mask * scale`, inverted dropout. Its own gradient: the same op on the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    /// Input.
    pub x: TensorId, // [R, d]
    /// Result; may be `x` itself.
    pub out: TensorId, // [R, d]
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
        DropoutSite::check(Some(self.dropout), t, t.shape(self.x).rows())
    }
    fn flops(&self, t: &Tensors) -> u64 {
        t.shape(self.x).len() as u64
    }
}

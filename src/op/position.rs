//! Sinusoid table of relative distances.

use super::{Operation, Target, Tensors};
use crate::Result;
use crate::tensor::{DType, TensorId};

/// Which rows of a batch share one table of relative positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Groups {
    /// One table for all rows.
    Shared,
    /// Two tables: group 0 for forward rows, group 1, with negated distances, for backward rows (bi_data).
    ByDirection,
    /// A table per row, so that each row has its own position dropout, as in the original.
    ByRow,
}

/// `out[g, t] = [sin(p w) .. , cos(p w) ..]` with `p = clip(s_g (N - t))`, `w_i = 10000^(-2i/d)`, `s_g` = -1 for
/// backward groups, clip to `[-clamp_len, clamp_len]`. Row `t` stands for relative distance `N - t`; query `i` and key
/// `j` of a segment of `L` rows use row `L - i + j`.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionEncoding {
    /// Direction of each group (0 forward, 1 backward); `None`: group 1 of two is backward, all others forward.
    pub direction: Option<TensorId>, // [G] i32
    /// Result.
    pub out: TensorId, // [G, P, d]
    /// Number of keys N; distances run from N down to N - P + 1.
    pub keys: usize,
    /// Largest distance; `None` for no limit.
    pub clamp_len: Option<usize>,
}

impl Operation for PositionEncoding {
    const NAME: &'static str = "position_encoding";
    fn reads(&self) -> Vec<TensorId> {
        self.direction.into_iter().collect()
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let shape = t.shape(self.out);
        t.expect_float("out", self.out)?;
        t.expect("out", shape.dims().len() == 3 && shape.last().is_multiple_of(2), "[G, P, d] with even d", shape)?;
        let Some(direction) = self.direction else { return Ok(()) };
        t.expect_dtype("direction", direction, DType::I32)?;
        t.expect_len("direction", direction, shape.dims()[0])
    }
    fn flops(&self, t: &Tensors) -> u64 {
        20 * t.shape(self.out).len() as u64
    }
}

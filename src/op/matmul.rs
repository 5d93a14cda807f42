//! Matrix products of row-major matrices, and the column sums that are the gradients of biases.

use super::{Operation, Target, Tensors, Write};
use crate::Result;
use crate::tensor::TensorId;

/// `out (=|+=) op(a) op(b) + bias`, where op transposes on request.
///
/// `a` and `b` may be in half precision, both in the same; bias and sums are in the program's type all the same, and so is
/// the result unless it is overwritten and in the operands' type: then bias is in it too, and each sum is rounded once.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMul {
    /// Left operand.
    pub a: TensorId, // [m, k], or [k, m] when trans_a
    /// Right operand.
    pub b: TensorId, // [k, n], or [n, k] when trans_b
    /// Added to every row of the product, in the type of `out`; only with [`Write::Set`].
    pub bias: Option<TensorId>, // [n]
    /// Result.
    pub out: Target, // [m, n]
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Summed dimension.
    pub k: usize,
    /// `a` is stored transposed.
    pub trans_a: bool,
    /// `b` is stored transposed.
    pub trans_b: bool,
}

/// `out[c] (=|+=) sum over r of x[r, c]`: the gradient of a bias. `x` may be in half precision, sums are in the program's type.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSum {
    /// Input.
    pub x: TensorId, // [R, n]
    /// Sums.
    pub out: Target, // [n]
}

impl Operation for MatMul {
    const NAME: &'static str = "matmul";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = vec![self.a, self.b];
        ids.extend(self.bias);
        ids
    }
    fn writes(&self) -> Vec<Target> {
        vec![self.out]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        t.expect_float("a", self.a)?;
        t.expect_float("b", self.b)?;
        let [a, b, out] = [self.a, self.b, self.out.id].map(|id| t.get(id).dtype);
        t.expect("b", a == b, a, b)?;
        let rounded = a.is_half() && out == a;
        t.expect(
            "out",
            rounded || !out.is_half() && (a.is_half() || a == out),
            "the program's type, or that of a",
            out,
        )?;
        t.expect(
            "out",
            !rounded || self.out.write == Write::Set,
            "a sum in the program's type",
            "one in half precision",
        )?;
        t.expect_len("a", self.a, self.m * self.k)?;
        t.expect_len("b", self.b, self.k * self.n)?;
        t.expect_len("out", self.out.id, self.m * self.n)?;
        if let Some(bias) = self.bias {
            t.expect_len("bias", bias, self.n)?;
            t.expect_dtype("bias", bias, out)?;
            t.expect("bias", self.out.write == Write::Set, "a product that overwrites", "one that accumulates")?;
        }
        let distinct = self.out.id != self.a && self.out.id != self.b;
        t.expect("out", distinct, "a tensor other than the operands", "an operand")
    }
    fn flops(&self, _: &Tensors) -> u64 {
        2 * (self.m * self.n * self.k) as u64
    }
}

impl Operation for ColumnSum {
    const NAME: &'static str = "column_sum";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.x]
    }
    fn writes(&self) -> Vec<Target> {
        vec![self.out]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (n, len) = (t.shape(self.out.id).len(), t.shape(self.x).len());
        t.expect_float("x", self.x)?;
        let dtype = t.get(self.out.id).dtype;
        t.expect("out", dtype.is_float() && !dtype.is_half(), "the program's type", dtype)?;
        t.expect("out", n > 0 && len.is_multiple_of(n), "a divisor of the size of x", n)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        t.shape(self.x).len() as u64
    }
}

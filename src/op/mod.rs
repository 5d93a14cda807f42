//! The vocabulary: every computation a program can hold, as plain structs. Gradients are ops of their own.
//!
//! An op names the tensors it reads and writes, checks their shapes, and counts its FLOPs and bytes. It says nothing
//! about how it is computed: that is a backend's `match`, which is exhaustive, so a new op does not compile until every
//! backend handles it or says why not.
//!
//! Each write is [`Write::Set`] or [`Write::Add`]; accumulation is declared here, never remembered by a backend.

pub mod activation;
pub mod dropout;
pub mod layer_norm;
pub mod loss;
pub mod matmul;
pub mod movement;
pub mod optimizer;
pub mod philox;
pub mod position;
pub mod rel_attention;

use crate::tensor::{DType, Shape, TensorDesc, TensorId};
use crate::{Error, Result};

pub use activation::{Activation, ActivationGrad, ActivationKind};
pub use dropout::{Dropout, DropoutSite, KEY_LEN};
pub use layer_norm::{LayerNorm, LayerNormGrad};
pub use loss::{ElementLoss, ElementLossKind, Softmax, SoftmaxCrossEntropy, SoftmaxGrad};
pub use matmul::{ColumnSum, MatMul};
pub use movement::{
    Cast, CopyBlocks, Fill, GatherRows, GatherRowsGrad, MixRows, MixRowsGrad, WeightedRows, WeightedRowsGrad,
};
pub use optimizer::{Adam, SquareNorm};
pub use position::{Groups, PositionEncoding};
pub use rel_attention::{
    HALF_HEAD_DIM, Mask, QueryStream, QueryStreamGrad, RelAttention, RelAttentionGrad, RelativeTerms,
    RelativeTermsGrad, SegmentTerms, SegmentTermsGrad,
};

/// How an op treats what its output held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// Overwrites every element.
    Set,
    /// Adds to every element.
    Add,
}

/// An output together with how it is written: where a gradient goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The tensor written.
    pub id: TensorId,
    /// Overwrite or accumulate.
    pub write: Write,
}

impl Target {
    /// Overwrite `id`.
    pub fn set(id: TensorId) -> Self {
        Target { id, write: Write::Set }
    }
    /// Accumulate into `id`.
    pub fn add(id: TensorId) -> Self {
        Target { id, write: Write::Add }
    }
}

/// Arithmetic and traffic of one op: the yardstick of every benchmark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations, a fused multiply-add counted as two.
    pub flops: u64,
    /// Bytes that must be read and written at least once.
    pub bytes: u64,
}

/// Lookup of tensor descriptions while an op is checked; errors carry `scope`.
#[derive(Clone, Copy)]
pub struct Tensors<'a> {
    /// Descriptions by id.
    pub all: &'a [TensorDesc],
    /// Layer scope of the op, for messages.
    pub scope: &'a str,
    /// Name of the op, for messages.
    pub op: &'static str,
}

impl<'a> Tensors<'a> {
    /// Description of `id`.
    pub fn get(&self, id: TensorId) -> &'a TensorDesc {
        &self.all[id.index()]
    }
    /// Shape of `id`.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.get(id).shape
    }
    fn place(&self) -> String {
        if self.scope.is_empty() { self.op.to_owned() } else { format!("{} in {}", self.op, self.scope) }
    }
    /// Requires an element count; shapes may differ as long as the rows are the same bytes.
    pub fn expect_len(&self, what: &str, id: TensorId, len: usize) -> Result<()> {
        if self.shape(id).len() == len {
            return Ok(());
        }
        let desc = self.get(id);
        let what = format!("{what} ({})", desc.name);
        Err(Error::shape(self.place(), what, format_args!("{len} elements"), desc.shape))
    }
    /// Requires a condition between sizes.
    pub fn expect(
        &self,
        what: &str,
        ok: bool,
        expected: impl std::fmt::Display,
        got: impl std::fmt::Display,
    ) -> Result<()> {
        if ok { Ok(()) } else { Err(Error::shape(self.place(), what, expected, got)) }
    }
    /// Requires a floating-point tensor.
    pub fn expect_float(&self, what: &str, id: TensorId) -> Result<()> {
        let desc = self.get(id);
        if desc.dtype.is_float() {
            return Ok(());
        }
        Err(Error::dtype(self.place(), format!("{what} ({})", desc.name), "a floating-point type", desc.dtype))
    }
    /// Requires an integer type.
    pub fn expect_dtype(&self, what: &str, id: TensorId, dtype: DType) -> Result<()> {
        let desc = self.get(id);
        if desc.dtype == dtype {
            return Ok(());
        }
        Err(Error::dtype(self.place(), format!("{what} ({})", desc.name), dtype, desc.dtype))
    }
    /// Requires `rate` in `[0, 1)`.
    pub fn expect_rate(&self, rate: f32) -> Result<()> {
        self.expect("dropout rate", (0.0..1.0).contains(&rate), "a rate in [0, 1)", rate)
    }
    /// Bytes of all given tensors.
    pub fn bytes(&self, ids: &[TensorId]) -> u64 {
        ids.iter().map(|&id| self.get(id).bytes() as u64).sum()
    }
}

/// What every op struct answers.
pub trait Operation {
    /// snake_case name; the stem of the op's kernel files.
    const NAME: &'static str;
    /// Tensors read, accumulated outputs not counted.
    fn reads(&self) -> Vec<TensorId>;
    /// Tensors written.
    fn writes(&self) -> Vec<Target>;
    /// Checks shapes, element types and attributes.
    ///
    /// # Errors
    /// A sentence that names op, scope, tensor, expected and got.
    fn check(&self, t: &Tensors) -> Result<()>;
    /// Floating-point operations; bytes are counted from `reads` and `writes`.
    fn flops(&self, t: &Tensors) -> u64;
}

macro_rules! op_table {
    ($($name:ident)*) => {
        /// One step of a program.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $(
            #[doc = concat!("See [`", stringify!($name), "`].")]
            $name($name),
        )* }
        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })*
        impl Op {
            /// Names of all ops, in table order.
            pub const NAMES: &'static [&'static str] = &[$($name::NAME),*];
            /// snake_case name; the stem of the op's kernel files.
            pub fn name(&self) -> &'static str { match self { $(Op::$name(_) => $name::NAME),* } }
            /// Tensors read, accumulated outputs not counted.
            pub fn reads(&self) -> Vec<TensorId> { match self { $(Op::$name(op) => op.reads()),* } }
            /// Tensors written.
            pub fn writes(&self) -> Vec<Target> { match self { $(Op::$name(op) => op.writes()),* } }
            /// Checks shapes, element types and attributes against `tensors`.
            ///
            /// # Errors
            /// A sentence that names op, scope, tensor, expected and got.
            pub fn check(&self, tensors: &[TensorDesc], scope: &str) -> Result<()> {
                let t = Tensors { all: tensors, scope, op: self.name() };
                match self { $(Op::$name(op) => op.check(&t)),* }
            }
            /// FLOPs and least traffic.
            pub fn cost(&self, tensors: &[TensorDesc]) -> Cost {
                let t = Tensors { all: tensors, scope: "", op: self.name() };
                let flops = match self { $(Op::$name(op) => op.flops(&t)),* };
                let written: u64 = self.writes().iter()
                    .map(|w| t.get(w.id).bytes() as u64 * if w.write == Write::Add { 2 } else { 1 }).sum();
                Cost { flops, bytes: t.bytes(&self.reads()) + written }
            }
        }
    };
}

/// Values that an index tensor of an op may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// The index tensor.
    pub id: TensorId,
    /// Least value.
    pub low: i32,
    /// One more than the greatest value.
    pub end: usize,
}

impl IndexRange {
    /// Requires every one of `values` to be in range; `place` names op and layer, `name` the tensor.
    ///
    /// # Errors
    /// Names op, layer, tensor, index, value and limits.
    pub fn check(&self, values: &[i32], place: impl FnOnce() -> String, name: &str) -> Result<()> {
        let outside = |&x: &i32| x < self.low || i64::from(x) >= self.end as i64;
        let Some(at) = values.iter().position(outside) else { return Ok(()) };
        let expected = format!("a value from {} to {}", self.low, self.end as i64 - 1);
        Err(Error::shape(place(), format!("element {at} of {name}"), expected, values[at]))
    }
}

impl Op {
    /// The index tensors of this op and what they may hold; a backend checks them before it runs the op.
    pub fn index_ranges(&self, tensors: &[TensorDesc]) -> Vec<IndexRange> {
        let shape = |id: TensorId| tensors[id.index()].shape;
        let attention = |op: &RelAttention| {
            let query = op.query.as_ref().map(|query| IndexRange { id: query.positions, low: -1, end: op.length });
            let group = op.relative.and_then(|relative| relative.group);
            let group = group.map(|id| IndexRange { id, low: 0, end: op.groups });
            query.into_iter().chain(group).collect()
        };
        match self {
            Op::GatherRows(op) => vec![IndexRange { id: op.ids, low: i32::MIN, end: shape(op.table).rows() }],
            Op::GatherRowsGrad(op) => vec![IndexRange { id: op.ids, low: i32::MIN, end: shape(op.dtable.id).rows() }],
            Op::PositionEncoding(op) => op.direction.map(|id| IndexRange { id, low: 0, end: 2 }).into_iter().collect(),
            Op::SoftmaxCrossEntropy(op) => vec![IndexRange { id: op.labels, low: 0, end: shape(op.logits).last() }],
            Op::RelAttention(op) => attention(op),
            Op::RelAttentionGrad(op) => attention(&op.forward),
            _ => vec![],
        }
    }
}

op_table! {
    Fill CopyBlocks Cast
    GatherRows GatherRowsGrad MixRows MixRowsGrad WeightedRows WeightedRowsGrad
    PositionEncoding Dropout
    MatMul ColumnSum
    LayerNorm LayerNormGrad
    Activation ActivationGrad
    RelAttention RelAttentionGrad
    Softmax SoftmaxGrad SoftmaxCrossEntropy ElementLoss
    SquareNorm Adam
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let check = |values: &[i32], low| {
            let range = IndexRange { id: TensorId(0), low, end: 5 };
            range.check(values, || "gather_rows in embedding".into(), "ids").map_err(|error| error.to_string())
        };
        assert_eq!(check(&[-1, 0, 4], -1), Ok(()));
        let text = "gather_rows in embedding: element 1 of ids: expected a value from 0 to 4, got 5";
        assert_eq!(check(&[0, 5], 0), Err(text.to_owned()));
        assert!(check(&[-2], -1).is_err());
    }
}

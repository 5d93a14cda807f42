//! Every op as its documentation states it, in f64 and in the plainest loops: the executable definition that all fast
//! implementations are tested against. Nothing is shared with them but the dropout bits of [`crate::op::philox`].

mod attention;
mod elementwise;
mod loss;
mod rows;

use crate::op::{DropoutSite, KEY_LEN, Op, Target, Write, philox};
use crate::tensor::{TensorDesc, TensorId};
use crate::{Error, Result};

/// Tensors by id, whatever their element type and wherever their bytes.
pub(crate) trait Store {
    /// All elements of a tensor. Integers are exact in f64, so copies may read integer tensors this way too.
    fn floats(&self, id: TensorId) -> Vec<f64>;
    /// All elements of an i32 tensor.
    fn ints(&self, id: TensorId) -> Vec<i32>;
    /// All elements of a u32 tensor.
    fn words(&self, id: TensorId) -> Vec<u32>;
    /// Overwrites a tensor, rounding to its element type.
    fn set_floats(&mut self, id: TensorId, values: &[f64]);
}

/// Runs one op.
///
/// # Errors
/// When an index tensor holds a value out of range.
pub(crate) fn run(op: &Op, tensors: &[TensorDesc], store: &mut dyn Store) -> Result<()> {
    let t = &mut Env { op: op.name(), tensors, store };
    match op {
        Op::Fill(op) => rows::fill(op, t),
        Op::Cast(op) => rows::cast(op, t),
        Op::CopyBlocks(op) => rows::copy_blocks(op, t),
        Op::GatherRows(op) => rows::gather_rows(op, t),
        Op::GatherRowsGrad(op) => rows::gather_rows_grad(op, t),
        Op::MixRows(op) => rows::mix_rows(op, t),
        Op::MixRowsGrad(op) => rows::mix_rows_grad(op, t),
        Op::WeightedRows(op) => rows::weighted_rows(op, t),
        Op::WeightedRowsGrad(op) => rows::weighted_rows_grad(op, t),
        Op::PositionEncoding(op) => rows::position_encoding(op, t),
        Op::MatMul(op) => rows::matmul(op, t),
        Op::ColumnSum(op) => rows::column_sum(op, t),
        Op::LayerNorm(op) => rows::layer_norm(op, t),
        Op::LayerNormGrad(op) => rows::layer_norm_grad(op, t),
        Op::Dropout(op) => elementwise::dropout(op, t),
        Op::Activation(op) => elementwise::activation(op, t),
        Op::ActivationGrad(op) => elementwise::activation_grad(op, t),
        Op::SquareNorm(op) => elementwise::square_norm(op, t),
        Op::Adam(op) => elementwise::adam(op, t),
        Op::Softmax(op) => loss::softmax(op, t),
        Op::SoftmaxGrad(op) => loss::softmax_grad(op, t),
        Op::SoftmaxCrossEntropy(op) => loss::softmax_cross_entropy(op, t),
        Op::ElementLoss(op) => loss::element_loss(op, t),
        Op::RelAttention(op) => attention::forward(op, t),
        Op::RelAttentionGrad(op) => attention::backward(op, t),
    }
}

/// The tensors of one op while it runs.
struct Env<'a> {
    op: &'static str,
    tensors: &'a [TensorDesc],
    store: &'a mut dyn Store,
}

impl Env<'_> {
    fn desc(&self, id: TensorId) -> &TensorDesc {
        &self.tensors[id.index()]
    }
    /// Number of elements.
    fn len(&self, id: TensorId) -> usize {
        self.desc(id).shape.len()
    }
    /// Size of the last dimension.
    fn last(&self, id: TensorId) -> usize {
        self.desc(id).shape.last()
    }
    fn floats(&self, id: TensorId) -> Vec<f64> {
        self.store.floats(id)
    }
    /// Integers, each in `low..high`.
    fn indices(&self, id: TensorId, low: i32, high: usize) -> Result<Vec<i32>> {
        let ints = self.store.ints(id);
        match ints.iter().find(|&&i| i < low || i64::from(i) >= high as i64) {
            None => Ok(ints),
            Some(wrong) => {
                let expected = format_args!("values from {low} to {}", high as i64 - 1).to_string();
                Err(Error::shape(self.op, self.desc(id).name.clone(), expected, wrong))
            }
        }
    }
    fn set(&mut self, id: TensorId, values: &[f64]) {
        self.store.set_floats(id, values);
    }
    /// Overwrites or accumulates, as the target says.
    fn put(&mut self, target: Target, values: &[f64]) {
        if target.write == Write::Set {
            return self.set(target.id, values);
        }
        let old = self.floats(target.id);
        let sum: Vec<f64> = old.iter().zip(values).map(|(old, new)| old + new).collect();
        self.set(target.id, &sum);
    }
    fn bits(&self, site: &DropoutSite) -> Result<Bits> {
        let mut key = self.store.words(site.key);
        let batch_rows = key.split_off(KEY_LEN);
        let keep = philox::Keep::new([key[0], key[1]], f64::from(site.rate))?;
        Ok(Bits { keep, batch_rows, site: site.site })
    }
    /// Factor of every element of `[B*lead; B*tail, width]`: 0, or the scale of kept elements; 1 without dropout.
    fn dropout_factors(&self, site: Option<DropoutSite>, len: usize, width: usize) -> Result<Vec<f64>> {
        let Some(site) = site else { return Ok(vec![1.0; len]) };
        let (bits, lead) = (self.bits(&site)?, site.lead);
        let batch = bits.batch_rows.len();
        let tail = (len / width - batch * lead) / batch;
        let rows = (0..batch).flat_map(|b| (0..lead).map(move |i| (b, i)));
        let trailing = (0..batch).flat_map(|b| (0..tail).map(move |i| (b, lead + i)));
        let factors = |(b, i): (usize, usize)| -> Vec<f64> {
            (0..width).map(|c| bits.factor([(c >> 3) as u32, i as u32, bits.batch_rows[b]], c)).collect()
        };
        Ok(rows.chain(trailing).flat_map(factors).collect())
    }
}

/// Dropout decisions of one site.
struct Bits {
    keep: philox::Keep,
    batch_rows: Vec<u32>, // [B], numbers in the whole batch
    site: u32,
}

impl Bits {
    /// 0 or the scale of kept elements: half-word `lane % 8` of the block at `counter` decides.
    fn factor(&self, counter: [u32; 3], lane: usize) -> f64 {
        let [c0, c1, c2] = counter;
        let word = philox::block([c0, c1, c2, self.site], self.keep.key())[lane % 8 / 2];
        let half = if lane.is_multiple_of(2) { word & 0xFFFF } else { word >> 16 };
        if half >= self.keep.threshold() { self.keep.scale() } else { 0.0 }
    }
}

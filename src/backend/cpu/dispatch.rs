//! One op of a program: which tensors its kernel gets, and the checks that need their values.

use half::{bf16, f16};

use super::arena::{Access, Element};
use super::dropout::DropoutMask;
use super::loss::Labelled;
use super::matmul::Matmul;
use super::real::Real;
use super::widened::{self, Widened};
use super::{activation, attention, dropout, layer_norm, loss, matmul, movement, optimizer, position};
use crate::op::{CopyBlocks, DropoutSite, LayerNorm, LayerNormGrad, MatMul, MixRowsGrad, Op, Target, Write};
use crate::program::Program;
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

/// Bytes of scratch that the fast implementation of `op` needs on this machine.
pub fn workspace_bytes(op: &Op, program: &Program) -> usize {
    let len = |id: TensorId| program.tensor(id).shape.len();
    let elements = match op {
        Op::LayerNormGrad(op) => {
            let d = len(op.gamma).max(1);
            layer_norm::grad_workspace_len(len(op.dout) / d, d)
        }
        Op::MixRowsGrad(op) => op.drow.map_or(0, |drow| {
            let d = len(drow.id).max(1);
            movement::mix_rows_grad_workspace_len(len(op.dout) / d, d)
        }),
        Op::MatMul(op) => {
            let threads = rayon::current_num_threads();
            match program.float {
                DType::F64 => matmul::workspace_len::<f64>(&product(op), threads),
                _ => matmul::workspace_len::<f32>(&product(op), threads),
            }
        }
        Op::RelAttention(op) => attention::workspace_len(op),
        Op::RelAttentionGrad(op) => attention::grad_workspace_len(op),
        _ => 0,
    };
    let copies = match op {
        Op::MatMul(_)
        | Op::LayerNorm(_)
        | Op::LayerNormGrad(_)
        | Op::ColumnSum(_)
        | Op::Activation(_)
        | Op::ActivationGrad(_)
        | Op::RelAttention(_)
        | Op::RelAttentionGrad(_) => widened::workspace_len(op, program),
        _ => 0,
    };
    (elements + copies) * program.float.size()
}

/// The mask of a tensor of `len` elements in rows of `width`.
fn mask<'a>(
    site: Option<DropoutSite>,
    len: usize,
    width: usize,
    access: &mut Access<'a>,
) -> Result<Option<DropoutMask<'a>>> {
    let rows = len / width.max(1);
    site.map(|site| DropoutMask::new(access.read(site.key)?, site, [rows, width])).transpose()
}

/// A tensor to write, and how.
fn target<'a, R: Element>(target: Option<Target>, access: &mut Access<'a>) -> Result<Option<(&'a mut [R], Write)>> {
    target.map(|target| Ok((access.write(target.id)?, target.write))).transpose()
}

/// Writes a sum of one element.
fn store<R: Real + Element>(target: Target, value: f64, access: &mut Access) -> Result<()> {
    let out = access.write::<R>(target.id)?;
    let old = if target.write == Write::Add { out[0].to_f64() } else { 0.0 };
    out[0] = R::from_f64(old + value);
    Ok(())
}

/// Requires that every index tensor of `op` holds values in range.
///
/// # Errors
/// Names op, layer, tensor, index, value and limits.
pub fn check_indices(op: &Op, program: &Program, access: &mut Access) -> Result<()> {
    op.index_ranges(&program.tensors).iter().try_for_each(|range| access.check_range(range))
}

/// Runs `op`, whose indices have been checked.
///
/// # Errors
/// When tensors of the op share memory where that is not allowed, or have other element types than `R`.
pub fn run<R: Real + Element>(op: &Op, program: &Program, a: &mut Access) -> Result<()> {
    let last = |id: TensorId| program.tensor(id).shape.last();
    let len = |id: TensorId| program.tensor(id).shape.len();
    let real = |x: f32| R::from_f64(f64::from(x));
    match op {
        Op::Fill(op) => movement::fill(a.write::<R>(op.out)?, real(op.value)),
        Op::CopyBlocks(op) => match program.tensor(op.src).dtype {
            DType::I32 => copy_blocks(op, a, i32::wrapping_add)?,
            DType::U32 => copy_blocks(op, a, u32::wrapping_add)?,
            DType::F16 => copy_blocks::<f16>(op, a, |x, y| x + y)?,
            DType::Bf16 => copy_blocks::<bf16>(op, a, |x, y| x + y)?,
            _ => copy_blocks::<R>(op, a, |x, y| x + y)?,
        },
        Op::Cast(op) => match program.tensor(op.out).dtype {
            DType::F16 => movement::cast(a.write(op.out)?, a.read::<R>(op.src)?, |x| f16::from_f64(x.to_f64())),
            _ => movement::cast(a.write(op.out)?, a.read::<R>(op.src)?, |x| bf16::from_f64(x.to_f64())),
        },
        Op::GatherRows(op) => {
            movement::gather_rows::<R>(a.write(op.out)?, a.read(op.table)?, a.read(op.ids)?, last(op.table));
        }
        Op::GatherRowsGrad(op) => {
            let (table, d) = (op.dtable, last(op.dtable.id));
            movement::gather_rows_grad::<R>(a.write(table.id)?, table.write, a.read(op.dout)?, a.read(op.ids)?, d);
        }
        Op::MixRows(op) => {
            let mixed = a.read_some(op.x)?.zip(a.read_some(op.weight)?);
            movement::mix_rows::<R>(a.write(op.out)?, a.read(op.row)?, mixed);
        }
        Op::MixRowsGrad(op) => mix_rows_grad::<R>(op, a)?,
        Op::WeightedRows(op) => {
            let sizes = three(program, op.x);
            movement::weighted_rows::<R>(a.write(op.out)?, a.read(op.x)?, a.read(op.weight)?, sizes);
        }
        Op::WeightedRowsGrad(op) => {
            let (sizes, dweight) = (three(program, op.x), a.write_some(op.dweight)?);
            let (x, weight, dout) = (a.read(op.x)?, a.read(op.weight)?, a.read(op.dout)?);
            movement::weighted_rows_grad::<R>(a.write(op.dx.id)?, op.dx.write, dweight, x, weight, dout, sizes);
        }
        Op::PositionEncoding(op) => {
            let [groups, positions, d] = three(program, op.out);
            let direction = a.read_some::<i32>(op.direction)?;
            let backward = |g: usize| direction.map_or(groups == 2 && g == 1, |direction| direction[g] == 1);
            position::position_encoding::<R>(a.write(op.out)?, [positions, d], op.keys, op.clamp_len, backward);
        }
        Op::Dropout(op) => {
            if let Some(mask) = mask(Some(op.dropout), len(op.x), last(op.x), a)? {
                dropout::dropout::<R>(a.write(op.out)?, a.read_unless(op.x, op.out)?, mask);
            }
        }
        Op::MatMul(op) => {
            let mut w = Widened::<R>::new(a)?;
            let (out, left, right, bias) = (w.write(op.out.id)?, w.read(op.a)?, w.read(op.b)?, w.read_some(op.bias)?);
            matmul::matmul::<R>(out, left, right, bias, &product(op), w.rest());
            w.store(op.out.id, out)?;
        }
        Op::ColumnSum(op) => {
            let mut w = Widened::<R>::new(a)?;
            let (out, x) = (w.write(op.out.id)?, w.read(op.x)?);
            let (rows, columns) = (x.len() / out.len(), out.len());
            matmul::column_sum(out, x, rows, columns, op.out.write == Write::Add);
        }
        Op::LayerNorm(op) => run_layer_norm::<R>(op, a)?,
        Op::LayerNormGrad(op) => run_layer_norm_grad::<R>(op, a)?,
        Op::Activation(op) if program.tensor(op.x).dtype.is_half() => {
            let mask = mask(op.dropout, len(op.x), last(op.x), a)?;
            let mut w = Widened::<R>::new(a)?;
            let (x, out) = (w.read(op.x)?, w.write(op.out)?);
            activation::activation(out, Some(x), op.kind, mask);
            w.store(op.out, out)?;
        }
        Op::ActivationGrad(op) if program.tensor(op.x).dtype.is_half() => {
            let mask = mask(op.dropout, len(op.x), last(op.x), a)?;
            let mut w = Widened::<R>::new(a)?;
            let (x, dout, dx) = (w.read(op.x)?, w.read(op.dout)?, w.write(op.dx)?);
            activation::activation_grad(dx, x, Some(dout), op.kind, mask);
            w.store(op.dx, dx)?;
        }
        Op::Activation(op) => {
            let mask = mask(op.dropout, len(op.x), last(op.x), a)?;
            activation::activation::<R>(a.write(op.out)?, a.read_unless(op.x, op.out)?, op.kind, mask);
        }
        Op::ActivationGrad(op) => {
            let (mask, dout) = (mask(op.dropout, len(op.x), last(op.x), a)?, a.read_unless(op.dout, op.dx)?);
            activation::activation_grad::<R>(a.write(op.dx)?, a.read(op.x)?, dout, op.kind, mask);
        }
        Op::RelAttention(op) => attention::forward::<R>(op, a)?,
        Op::RelAttentionGrad(op) => attention::backward::<R>(op, a)?,
        Op::Softmax(op) => {
            let (x, hidden) = (a.read_unless(op.x, op.out)?, a.read_some(op.hidden)?);
            loss::softmax::<R>(a.write(op.out)?, x, hidden, last(op.x), op.log);
        }
        Op::SoftmaxGrad(op) => {
            let (y, dy, hidden) = (a.read(op.y)?, a.read(op.dy)?, a.read_some(op.hidden)?);
            loss::softmax_grad::<R>(a.write(op.dx.id)?, op.dx.write, y, dy, hidden, last(op.y));
        }
        Op::SoftmaxCrossEntropy(op) => {
            let logits = match op.dlogits {
                Some(dlogits) => a.read_unless(op.logits, dlogits)?,
                None => Some(a.read(op.logits)?),
            };
            let (hidden, labels, weights) = (a.read_some(op.hidden)?, a.read(op.labels)?, a.read(op.weights)?);
            let inputs = Labelled { logits, hidden, labels, weights };
            let (row_loss, dlogits) = (a.write_some(op.row_loss)?, a.write_some(op.dlogits)?);
            let sum = loss::softmax_cross_entropy::<R>(row_loss, dlogits, &inputs, last(op.logits));
            store::<R>(op.loss, sum, a)?;
        }
        Op::ElementLoss(op) => {
            let (row_loss, dx) = (a.write_some(op.row_loss)?, a.write_some(op.dx)?);
            let (x, labels, weights) = (a.read(op.x)?, a.read(op.labels)?, a.read(op.weights)?);
            let sum = loss::element_loss::<R>(row_loss, dx, op.kind, x, labels, weights);
            store::<R>(op.loss, sum, a)?;
        }
        Op::SquareNorm(op) => {
            let sum = optimizer::square_norm::<R>(a.read(op.x)?);
            store::<R>(op.out, sum, a)?;
        }
        Op::Adam(op) => {
            let (param, m, v) = (a.write(op.param)?, a.write(op.m)?, a.write(op.v)?);
            let norm = a.read::<R>(op.square_norm)?[0];
            optimizer::adam(op, param, m, v, a.read(op.grad)?, norm, a.read(op.hyper)?);
        }
    }
    Ok(())
}

fn product(op: &MatMul) -> Matmul {
    let accumulate = op.out.write == Write::Add;
    Matmul { m: op.m, n: op.n, k: op.k, trans_a: op.trans_a, trans_b: op.trans_b, accumulate }
}

/// The three dimensions of a tensor, as the op's check has found them.
fn three(program: &Program, id: TensorId) -> [usize; 3] {
    let shape = program.tensor(id).shape;
    shape.dims().try_into().unwrap_or([1, shape.rows(), shape.last()])
}

fn copy_blocks<T: Element + Send + Sync>(
    op: &CopyBlocks,
    a: &mut Access,
    sum: impl Fn(T, T) -> T + Sync,
) -> Result<()> {
    movement::copy_blocks(a.write(op.dst.id)?, a.read(op.src)?, op, sum);
    Ok(())
}

fn mix_rows_grad<R: Real + Element>(op: &MixRowsGrad, a: &mut Access) -> Result<()> {
    let (dout, weight) = (a.read::<R>(op.dout)?, a.read_some(op.weight)?);
    let (drow, dx) = (target(op.drow, a)?, target(op.dx, a)?);
    let rows = weight.map(<[R]>::len);
    // The op's check compares weights with the row's gradient only.
    let d = drow.as_ref().map_or_else(|| dout.len() / rows.unwrap_or(1).max(1), |(drow, _)| drow.len());
    if rows.is_some_and(|rows| rows * d != dout.len()) {
        return Err(Error::shape(a.place(), "weight", "a divisor of the size of dout", rows.unwrap_or(0)));
    }
    movement::mix_rows_grad(drow, dx, dout, weight, d, a.workspace()?);
    Ok(())
}

fn run_layer_norm<R: Real + Element>(op: &LayerNorm, a: &mut Access) -> Result<()> {
    let mask = mask(op.dropout, a.len(op.out), a.len(op.gamma), a)?;
    let mut w = Widened::<R>::new(a)?;
    let x = match op.rounded {
        Some(_) => Some(w.read(op.x)?),
        None => w.access().read_unless(op.x, op.sum.unwrap_or(op.out))?,
    };
    let a = w.access();
    let (residual, gamma, beta) = (a.read_some(op.residual)?, a.read(op.gamma)?, a.read(op.beta)?);
    let (sum, mean, rstd) = (a.write_some(op.sum)?, a.write_some(op.mean)?, a.write_some(op.rstd)?);
    let out = a.write(op.out)?;
    layer_norm::layer_norm::<R>(out, sum, mean, rstd, x, residual, gamma, beta, op.eps, mask);
    w.store_some(op.rounded, out)
}

fn run_layer_norm_grad<R: Real + Element>(op: &LayerNormGrad, a: &mut Access) -> Result<()> {
    let dout = a.read_unless(op.dout, op.dsum)?;
    let (sum, mean, rstd, gamma) = (a.read(op.sum)?, a.read(op.mean)?, a.read(op.rstd)?, a.read(op.gamma)?);
    let mask = mask(op.dropout, a.len(op.dsum), gamma.len(), a)?;
    let (dgamma, dbeta, dsum) = (target(op.dgamma, a)?, target(op.dbeta, a)?, a.write(op.dsum)?);
    let mut w = Widened::<R>::new(a)?;
    // Without dropout dx is dsum in half precision.
    let mut dx = op.dx.filter(|_| mask.is_some()).map(|id| w.write(id)).transpose()?;
    let masked = dx.as_deref_mut().zip(mask);
    layer_norm::layer_norm_grad::<R>(dsum, masked, dgamma, dbeta, dout, sum, mean, rstd, gamma, w.rest());
    w.store_some(op.dx, dx.unwrap_or(dsum))
}

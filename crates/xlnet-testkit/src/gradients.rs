//! Central differences: the gradient ops against the forward ops, in f64.
//!
//! With `L = sum of out * c` for random `c`, the gradient op fed with `c` must give dL/dx for every input `x`. The
//! difference quotients always come from `cpu:reference`; the gradients from the device under test.

use std::sync::Arc;

use rand::seq::SliceRandom;
use xlnet::Result;
use xlnet::backend::{Device, Executor};
use xlnet::op::{
    Activation, ActivationGrad, ColumnSum, Dropout, ElementLoss, GatherRows, GatherRowsGrad, LayerNorm, LayerNormGrad,
    MatMul, MixRows, MixRowsGrad, Softmax, SoftmaxCrossEntropy, SoftmaxGrad, Target, WeightedRows, WeightedRowsGrad,
    Write,
};
use xlnet::tensor::{DType, TensorId};

use crate::attention::{self, Attention, MaskKind};
use crate::case::seed;
use crate::cases::{elementwise::KINDS, loss::ELEMENT_LOSSES};
use crate::setup::{Setup, Values};

/// Largest error allowed, in units of the largest element of the gradient.
pub const TOLERANCE: f64 = 1e-6;
/// Elements tried one by one in each tensor; a random direction tries all of them together.
const ELEMENTS: usize = 12;
/// Step of the difference quotient.
const STEP: f64 = 1e-3;

/// Which tensors belong together.
pub struct Twins {
    /// Results, each with its gradient; `None` for a loss, whose gradient is 1.
    outs: Vec<(TensorId, Option<TensorId>)>,
    /// Inputs, each with its gradient.
    inputs: Vec<(TensorId, TensorId)>,
}

type Build = Box<dyn Fn(&mut Setup) -> Result<Twins>>;

/// A forward op and its gradient.
pub struct Check {
    /// Op and configuration.
    pub name: String,
    build: Build,
}

impl Check {
    fn new(name: impl Into<String>, build: impl Fn(&mut Setup) -> Result<Twins> + 'static) -> Self {
        Check { name: name.into(), build: Box::new(build) }
    }
    /// Compares the gradients of `device` with difference quotients; the largest error of each input, by name.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, device: Device) -> Result<Vec<(String, f64)>> {
        let mut setup = Setup::new(seed(&self.name), DType::F64);
        let mut rng = setup.rng.clone();
        setup.builder.phase("forward");
        let twins = (self.build)(&mut setup)?;
        let (program, values) = setup.finish()?;
        let program = Arc::new(program);
        let value = |id: TensorId| match values.iter().find(|(other, _)| *other == id) {
            Some((_, Values::Floats(values))) => values.clone(),
            _ => vec![],
        };
        let mut reference = open(Device::CpuReference, &program, &values)?;
        let mut under_test = open(device, &program, &values)?;
        under_test.run(0..program.steps.len())?;
        let mut errors = vec![];
        for &(x, dx) in &twins.inputs {
            let (at, gradient) = (value(x), under_test.download_f64(dx)?);
            let largest = gradient.iter().fold(0.0f64, |most, g| most.max(g.abs())).max(1e-3);
            let mut loss = |direction: &[f64], step: f64| -> Result<f64> {
                let moved: Vec<f64> = at.iter().zip(direction).map(|(x, d)| x + step * d).collect();
                reference.upload_f64(x, &moved)?;
                reference.run_phase("forward")?;
                let mut sum = 0.0;
                for &(out, dout) in &twins.outs {
                    let c = dout.map_or_else(|| vec![1.0], &value);
                    sum += reference.download_f64(out)?.iter().zip(&c).map(|(out, c)| out * c).sum::<f64>();
                }
                Ok(sum)
            };
            let mut worst: f64 = 0.0;
            let mut elements: Vec<usize> = (0..at.len()).collect();
            elements.shuffle(&mut rng);
            elements.truncate(ELEMENTS);
            let unit = |e: usize| (0..at.len()).map(|i| f64::from(u8::from(i == e))).collect();
            let mut directions: Vec<Vec<f64>> = elements.into_iter().map(unit).collect();
            let alternating = |i: usize| if (i * 7 + i / 3) % 5 < 2 { 1.0 } else { -1.0 };
            directions.push((0..at.len()).map(|i| alternating(i) / (at.len() as f64).sqrt()).collect());
            for direction in &directions {
                // Four points: the error falls with the fourth power of the step.
                let near = loss(direction, STEP)? - loss(direction, -STEP)?;
                let far = loss(direction, 2.0 * STEP)? - loss(direction, -2.0 * STEP)?;
                let quotient = (8.0 * near - far) / (12.0 * STEP);
                let expected: f64 = gradient.iter().zip(direction).map(|(g, d)| g * d).sum();
                let error = (quotient - expected).abs() / largest;
                worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            }
            reference.upload_f64(x, &at)?;
            errors.push((program.tensor(x).name.clone(), worst));
        }
        Ok(errors)
    }
}

fn open(
    device: Device,
    program: &Arc<xlnet::program::Program>,
    values: &[(TensorId, Values)],
) -> Result<Box<dyn Executor>> {
    let mut executor = device.open(program.clone())?;
    for (id, values) in values {
        values.upload(&mut *executor, *id)?;
    }
    Ok(executor)
}

/// Every op with a gradient, dropout on and off.
pub fn checks() -> Vec<Check> {
    let mut checks = vec![];
    for rate in [0.0, 0.3] {
        for kind in KINDS {
            checks.push(Check::new(format!("activation {kind:?} rate {rate}"), move |s| {
                // Away from the corner of relu.
                let values = s.normals(6 * 11).into_iter().map(|x| if x.abs() < 0.1 { x + 0.5 } else { x }).collect();
                let (x, out) = (s.floats("x", [6, 11], values), s.output("out", [6, 11]));
                let (dout, dx, dropout) = (s.normal("dout", [6, 11]), s.output("dx", [6, 11]), s.dropout(rate, 6));
                s.push(Activation { x, out, kind, dropout })?;
                s.builder.phase("backward");
                s.push(ActivationGrad { x, dout, dx, kind, dropout })?;
                Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(x, dx)] })
            }));
        }
        checks.push(Check::new(format!("layer_norm rate {rate}"), move |s| layer_norm(s, rate)));
    }
    checks.push(Check::new("dropout", |s| {
        let shape = [6, 11];
        let (x, out, dout, dx) =
            (s.normal("x", shape), s.output("out", shape), s.normal("dout", shape), s.output("dx", shape));
        let dropout = s.dropout(0.3, 6).expect("the rate is not 0");
        s.push(Dropout { x, out, dropout })?;
        s.builder.phase("backward");
        s.push(Dropout { x: dout, out: dx, dropout })?;
        Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(x, dx)] })
    }));
    checks.push(Check::new("matmul", matmul));
    rows(&mut checks);
    losses(&mut checks);
    for config in attentions() {
        checks.push(Check::new(format!("rel_attention {}", config.label()), move |s| rel_attention(s, config)));
    }
    checks
}

fn layer_norm(s: &mut Setup, rate: f32) -> Result<Twins> {
    let (r, d) = (5, 17);
    let (x, residual) = (s.normal("x", [r, d]), s.normal("residual", [r, d]));
    let (gamma, beta, dropout) = (s.normal("gamma", [d]), s.normal("beta", [d]), s.dropout(rate, r));
    let (out, sum) = (s.output("out", [r, d]), s.output("sum", [r, d]));
    let (mean, rstd) = (s.output("mean", [r]), s.output("rstd", [r]));
    let (dout, dsum) = (s.normal("dout", [r, d]), s.output("dsum", [r, d]));
    let dx = dropout.map(|_| s.output("dx", [r, d]));
    let (dgamma, dbeta) = (s.output("dgamma", [d]), s.output("dbeta", [d]));
    s.push(LayerNorm {
        x,
        residual: Some(residual),
        dropout,
        gamma,
        beta,
        out,
        rounded: None,
        sum: Some(sum),
        mean: Some(mean),
        rstd: Some(rstd),
        eps: 1e-12,
    })?;
    s.builder.phase("backward");
    let (to_gamma, to_beta) = (Some(Target::set(dgamma)), Some(Target::set(dbeta)));
    s.push(LayerNormGrad { dout, sum, mean, rstd, gamma, dsum, dx, dropout, dgamma: to_gamma, dbeta: to_beta })?;
    let inputs = vec![(x, dx.unwrap_or(dsum)), (residual, dsum), (gamma, dgamma), (beta, dbeta)];
    Ok(Twins { outs: vec![(out, Some(dout))], inputs })
}

/// A product's gradients are two products and a column sum.
fn matmul(s: &mut Setup) -> Result<Twins> {
    let (m, n, k) = (5, 7, 11);
    let (a, b, bias) = (s.normal("a", [m, k]), s.normal("b", [k, n]), s.normal("bias", [n]));
    let (out, dout) = (s.output("out", [m, n]), s.normal("dout", [m, n]));
    let (da, db, dbias) = (s.output("da", [m, k]), s.output("db", [k, n]), s.output("dbias", [n]));
    let product = |a, b, out, (m, n, k), trans_a, trans_b| MatMul {
        a,
        b,
        bias: None,
        out: Target::set(out),
        m,
        n,
        k,
        trans_a,
        trans_b,
    };
    s.push(MatMul { bias: Some(bias), ..product(a, b, out, (m, n, k), false, false) })?;
    s.builder.phase("backward");
    s.push(product(dout, b, da, (m, k, n), false, true))?;
    s.push(product(a, dout, db, (k, n, m), true, false))?;
    s.push(ColumnSum { x: dout, out: Target::set(dbias) })?;
    Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(a, da), (b, db), (bias, dbias)] })
}

fn rows(checks: &mut Vec<Check>) {
    checks.push(Check::new("gather_rows", |s| {
        let (table, ids) = (s.normal("table", [7, 5]), s.indices("ids", [17], -1, 6));
        let (out, dout, dtable) = (s.output("out", [17, 5]), s.normal("dout", [17, 5]), s.output("dtable", [7, 5]));
        s.push(GatherRows { table, ids, out })?;
        s.builder.phase("backward");
        s.push(GatherRowsGrad { dout, ids, dtable: Target::set(dtable) })?;
        Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(table, dtable)] })
    }));
    checks.push(Check::new("mix_rows", |s| {
        let (x, row, weight) = (s.normal("x", [9, 5]), s.normal("row", [5]), s.uniform("weight", [9], 0.0, 1.0));
        let (out, dout) = (s.output("out", [9, 5]), s.normal("dout", [9, 5]));
        let (drow, dx) = (s.output("drow", [5]), s.output("dx", [9, 5]));
        s.push(MixRows { x: Some(x), row, weight: Some(weight), out })?;
        s.builder.phase("backward");
        let (to_row, to_x) = (Some(Target::set(drow)), Some(Target::set(dx)));
        s.push(MixRowsGrad { dout, weight: Some(weight), drow: to_row, dx: to_x })?;
        Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(row, drow), (x, dx)] })
    }));
    checks.push(Check::new("mix_rows without weights", |s| {
        let (row, out, dout) = (s.normal("row", [5]), s.output("out", [9, 5]), s.normal("dout", [9, 5]));
        let drow = s.output("drow", [5]);
        s.push(MixRows { x: None, row, weight: None, out })?;
        s.builder.phase("backward");
        s.push(MixRowsGrad { dout, weight: None, drow: Some(Target::set(drow)), dx: None })?;
        Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(row, drow)] })
    }));
    checks.push(Check::new("weighted_rows", |s| {
        let (x, weight) = (s.normal("x", [3, 7, 5]), s.normal("weight", [3, 7]));
        let (out, dout) = (s.output("out", [3, 5]), s.normal("dout", [3, 5]));
        let (dx, dweight) = (s.output("dx", [3, 7, 5]), s.output("dweight", [3, 7]));
        s.push(WeightedRows { x, weight, out })?;
        s.builder.phase("backward");
        s.push(WeightedRowsGrad { x, weight, dout, dx: Target::set(dx), dweight: Some(dweight) })?;
        Ok(Twins { outs: vec![(out, Some(dout))], inputs: vec![(x, dx), (weight, dweight)] })
    }));
}

fn losses(checks: &mut Vec<Check>) {
    for barred in [false, true] {
        checks.push(Check::new(format!("softmax barred {barred}"), move |s| {
            let (x, y) = (s.normal("x", [5, 17]), s.output("y", [5, 17]));
            let hidden = barred.then(|| s.flags("hidden", [5, 17], 0.3));
            let (dy, dx) = (s.normal("dy", [5, 17]), s.output("dx", [5, 17]));
            s.push(Softmax { x, hidden, out: y, log: false })?;
            s.builder.phase("backward");
            s.push(SoftmaxGrad { y, dy, hidden, dx: Target::set(dx) })?;
            Ok(Twins { outs: vec![(y, Some(dy))], inputs: vec![(x, dx)] })
        }));
        checks.push(Check::new(format!("softmax_cross_entropy barred {barred}"), move |s| {
            let (logits, weights) = (s.normal("logits", [5, 17]), s.uniform("weights", [5], 0.0, 1.0));
            // The last four classes are barred and no row's label: a barred label costs 1e30, too much for a difference.
            let labels = s.indices("labels", [5], 0, 13);
            let last = (0..5 * 17).map(|e| f64::from(u8::from(e % 17 > 12))).collect();
            let hidden = barred.then(|| s.floats("hidden", [5, 17], last));
            let (loss, dlogits) = (s.output("loss", [1]), s.output("dlogits", [5, 17]));
            let (to_loss, all) = (Target::set(loss), Some(dlogits));
            s.push(SoftmaxCrossEntropy {
                logits,
                hidden,
                labels,
                weights,
                loss: to_loss,
                row_loss: None,
                dlogits: all,
            })?;
            Ok(Twins { outs: vec![(loss, None)], inputs: vec![(logits, dlogits)] })
        }));
    }
    for kind in ELEMENT_LOSSES {
        checks.push(Check::new(format!("element_loss {kind:?}"), move |s| {
            let (x, labels, weights) =
                (s.normal("x", [17]), s.uniform("labels", [17], 0.0, 1.0), s.uniform("weights", [17], 0.0, 1.0));
            let (loss, dx) = (s.output("loss", [1]), s.output("dx", [17]));
            s.push(ElementLoss { kind, x, labels, weights, loss: Target::set(loss), row_loss: None, dx: Some(dx) })?;
            Ok(Twins { outs: vec![(loss, None)], inputs: vec![(x, dx)] })
        }));
    }
}

/// No row may be blind: the score of a hidden key is a constant here, but has a gradient in the original and so in ours.
fn attentions() -> Vec<Attention> {
    let base = Attention { padded: true, ..Attention::new(2, 2, 4, 7, 3).targets(4) };
    let plain = Attention::new(2, 2, 5, 6, 0);
    vec![
        plain,
        Attention { relative: false, segments: false, ..plain.mask(MaskKind::Padding) },
        Attention { segments: false, ..plain.rate(0.3) },
        Attention { write: Write::Set, groups: 2, ..base.mask(MaskKind::Ranks) },
        base.mask(MaskKind::Ranks).rate(0.3),
        base.mask(MaskKind::RandomBits).rate(0.5),
        Attention { content: false, ..base.mask(MaskKind::Padding).rate(0.3) },
        Attention { causal: true, same_length: true, ..base },
        Attention { causal: true, ..base.mask(MaskKind::Padding) },
    ]
}

fn rel_attention(s: &mut Setup, config: Attention) -> Result<Twins> {
    let forward = config.forward(s);
    let backward = config.backward(s, &forward);
    s.push(forward.clone())?;
    s.builder.phase("backward");
    s.push(backward.clone())?;
    let mut outs: Vec<(TensorId, Option<TensorId>)> = forward.out.map(|out| (out, backward.dout)).into_iter().collect();
    outs.extend(forward.query.zip(backward.query).map(|(s, d)| (s.out, Some(d.dout))));
    Ok(Twins { outs, inputs: attention::gradients(&forward, &backward) })
}

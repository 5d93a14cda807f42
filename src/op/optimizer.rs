//! Global norm and the Adam family.

use super::{Operation, Target, Tensors, Write};
use crate::Result;
use crate::tensor::TensorId;

/// `out (=|+=) sum of x^2`; over all gradients this is the square of the global norm.
#[derive(Clone, Debug, PartialEq)]
pub struct SquareNorm {
    /// Input.
    pub x: TensorId, // [n]
    /// The sum.
    pub out: Target, // [1]
}

/// One parameter's update by Adam, with clipping by the global norm:
///
/// ```text
/// g  = grad * rescale * grad_scale * clip / max(rescale * sqrt(square_norm), clip)
/// m  = beta1 m + (1 - beta1) g
/// v  = beta2 v + (1 - beta2) g^2
/// p -= lr * lr_scale * ( m / (sqrt(v) + eps) + weight_decay p )      weight_decay only where `decays`
/// ```
///
/// `hyper` holds, in this order, `lr, clip, beta1, beta2, eps, weight_decay, rescale`; the host folds Adam's bias correction
/// into `lr`, and AdamWeightDecay has none. `clip` = 0 switches clipping off. `rescale` is one over the factor that the loss
/// was multiplied by, and with it every gradient; 1 where there is none.
///
/// Where `square_norm` is no finite number, nothing is written: a step that overflows leaves the weights as they were, on
/// every device, although the host learns of it only when the step is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// The parameter.
    pub param: TensorId, // [n]
    /// Its gradient.
    pub grad: TensorId, // [n]
    /// First moment.
    pub m: TensorId, // [n]
    /// Second moment.
    pub v: TensorId, // [n]
    /// Square of the global norm.
    pub square_norm: TensorId, // [1]
    /// Step's constants.
    pub hyper: TensorId, // [7]
    /// Takes part in weight decay.
    pub decays: bool,
    /// Layer-wise decay as the original has it: scales the clipped gradient.
    pub grad_scale: f32,
    /// Layer-wise decay of the learning rate.
    pub lr_scale: f32,
}

impl Adam {
    /// Number of values in `hyper`.
    pub const HYPER_LEN: usize = 7;
}

impl Operation for SquareNorm {
    const NAME: &'static str = "square_norm";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.x]
    }
    fn writes(&self) -> Vec<Target> {
        vec![self.out]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        t.expect_float("x", self.x)?;
        t.expect_len("out", self.out.id, 1)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        2 * t.shape(self.x).len() as u64
    }
}

impl Operation for Adam {
    const NAME: &'static str = "adam";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.grad, self.square_norm, self.hyper]
    }
    fn writes(&self) -> Vec<Target> {
        [self.param, self.m, self.v].map(|id| Target { id, write: Write::Add }).to_vec()
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let n = t.shape(self.param).len();
        t.expect_float("param", self.param)?;
        for (what, id) in [("grad", self.grad), ("m", self.m), ("v", self.v)] {
            t.expect_len(what, id, n)?;
        }
        t.expect_len("square_norm", self.square_norm, 1)?;
        t.expect_len("hyper", self.hyper, Adam::HYPER_LEN)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        14 * t.shape(self.param).len() as u64
    }
}

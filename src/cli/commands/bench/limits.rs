//! What a device can do at most: by its data sheet where it tells, else by the best that our own ops do there.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::Result;
use crate::backend::{Device, Executor};
use crate::op::{CopyBlocks, MatMul, Target};
use crate::program::Builder;
use crate::tensor::DType;

/// Most arithmetic and traffic in a second.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Operations a second in f32, a multiply-add being two.
    pub flops: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// Where both numbers come from.
    pub source: String,
}

impl Limits {
    /// The limits of `device` in f32, or with products in half precision; `quick` measures small ones.
    ///
    /// # Errors
    /// When the device fails.
    pub fn of(device: Device, half: Option<DType>, quick: bool) -> Result<Limits> {
        match nominal(device, half) {
            Some(limits) => Ok(limits),
            None => measured(device, quick),
        }
    }
}

#[cfg(feature = "cuda")]
fn nominal(device: Device, half: Option<DType>) -> Option<Limits> {
    let Device::Cuda(number) = device else { return None };
    let info = crate::backend::cuda::find(number).ok()?;
    // Multiply-adds in f32 a clock and multiprocessor, from the CUDA programming guide.
    // Tensor cores: what NVIDIA's papers on each architecture state for halves with sums in f32, without sparsity.
    let lanes = match info.capability {
        (7, _) if half == Some(DType::F16) => 512.0,
        (8, 0) if half.is_some() => 1024.0,
        (8, _) | (12, _) if half.is_some() => 256.0,
        (9 | 10, _) if half.is_some() => 2048.0,
        (7, _) | (8, 0) => 64.0,
        _ => 128.0,
    };
    let flops = 2.0 * lanes * f64::from(info.multiprocessors) * info.clock;
    let units = half.map_or("f32 without tensor cores".to_owned(), |half| format!("tensor cores in {half}"));
    let source = format!("clock, multiprocessors and memory bus that the driver tells; {units}");
    (flops > 0.0 && info.bandwidth > 0.0).then_some(Limits { flops, bytes: info.bandwidth, source })
}
#[cfg(not(feature = "cuda"))]
fn nominal(_: Device, _: Option<DType>) -> Option<Limits> {
    None
}

fn measured(device: Device, quick: bool) -> Result<Limits> {
    let (side, elements) = if quick { (128, 1 << 14) } else { (1024, 1 << 25) };
    let mut b = Builder::new(DType::F32);
    let (x, w, out) =
        (b.input("a", [side, side]), b.param("b", [side, side]), Target::set(b.output("out", [side, side])));
    b.push(MatMul { a: x, b: w, bias: None, out, m: side, n: side, k: side, trans_a: false, trans_b: false })?;
    let flops = 2.0 * (side as f64).powi(3) / best(device, b, quick)?;
    let mut b = Builder::new(DType::F32);
    let (src, dst) = (b.input("from", [elements]), Target::set(b.output("to", [elements])));
    let (src_offset, src_stride, dst_offset, dst_stride) = (0, 0, 0, 0);
    b.push(CopyBlocks { src, src_offset, src_stride, dst, dst_offset, dst_stride, blocks: 1, length: elements })?;
    let bytes = 2.0 * 4.0 * elements as f64 / best(device, b, quick)?;
    let source = format!("the best of our own product of {side} x {side} matrices and copy of {elements} numbers here");
    Ok(Limits { flops, bytes, source })
}

/// Seconds of the fastest of a few runs of a program of one op.
fn best(device: Device, b: Builder, quick: bool) -> Result<f64> {
    let mut exec: Box<dyn Executor> = device.open(Arc::new(b.finish()?))?;
    let mut best = f64::INFINITY;
    for _ in 0..if quick { 2 } else { 8 } {
        let started = Instant::now();
        exec.run(0..1)?;
        exec.sync()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

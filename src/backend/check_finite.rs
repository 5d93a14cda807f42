//! Runs a program op by op and looks at everything each op writes: finds the first one that makes a NaN or an infinity,
//! on any device. Slow, for finding out.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::{Alive, DeviceSums, Executor, OpTime};
use crate::program::{Plan, Program};
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

/// An executor that stops at the first op that writes what is no finite number.
pub struct CheckFinite {
    inner: Box<dyn Executor>,
}

/// Values of a tensor that are no finite numbers.
struct Wrong {
    count: usize,
    first: usize,
    value: f64,
}

impl CheckFinite {
    /// Watches over `inner`.
    pub fn new(inner: Box<dyn Executor>) -> Self {
        CheckFinite { inner }
    }
    fn wrong(&mut self, id: TensorId) -> Result<Option<Wrong>> {
        let desc = self.program().tensor(id);
        if !desc.dtype.is_float() || desc.shape.is_empty() {
            return Ok(None);
        }
        let (dtype, mut bytes) = (desc.dtype, vec![0; desc.bytes()]);
        self.inner.read(id, &mut bytes)?;
        let value = |at: usize| {
            let bytes = &bytes[at * dtype.size()..(at + 1) * dtype.size()];
            match dtype {
                DType::F64 => f64::from_ne_bytes(bytes.try_into().unwrap_or_default()),
                DType::F16 => f16::from_ne_bytes(bytes.try_into().unwrap_or_default()).into(),
                DType::Bf16 => bf16::from_ne_bytes(bytes.try_into().unwrap_or_default()).into(),
                _ => f32::from_ne_bytes(bytes.try_into().unwrap_or_default()).into(),
            }
        };
        let mut wrong = (0..bytes.len() / dtype.size()).filter(|&at| !value(at).is_finite());
        Ok(wrong.next().map(|first| Wrong { count: 1 + wrong.count(), first, value: value(first) }))
    }
    /// Requires that `op` has written numbers; where it has not, says whether it was given some.
    fn check(&mut self, op: usize) -> Result<()> {
        let program = self.program().clone();
        let (reads, writes) = (program.steps[op].op.reads(), program.steps[op].op.writes());
        for target in &writes {
            let Some(Wrong { count, first, value }) = self.wrong(target.id)? else { continue };
            let desc = program.tensor(target.id);
            let mut cause = "what it read is finite".to_owned();
            for &read in reads.iter().filter(|id| writes.iter().all(|w| program.base(w.id).0 != program.base(**id).0)) {
                if self.wrong(read)?.is_some() {
                    cause = format!("it read such values from {}", program.tensor(read).name);
                    break;
                }
            }
            return Err(Error::config(format!(
                "op {op}, {}, is the first to write a value that is no finite number: {value} at element {first} of {}, \
                 {count} of {} in all; {cause}",
                program.place(op),
                desc.name,
                desc.shape.len(),
            )));
        }
        Ok(())
    }
}

impl Executor for CheckFinite {
    fn program(&self) -> &Arc<Program> {
        self.inner.program()
    }
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }
    fn held_bytes(&self) -> usize {
        self.inner.held_bytes()
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        self.inner.write(id, bytes)
    }
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()> {
        self.inner.read(id, bytes)
    }
    fn run(&mut self, ops: Range<usize>) -> Result<()> {
        for op in ops {
            self.inner.run(op..op + 1)?;
            // What a kernel does wrong is told here, where the op is known.
            let place = self.program().place(op);
            self.inner.sync().map_err(|error| Error::device(format!("op {op}, {place}: {error}")))?;
            self.check(op)?;
        }
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
    fn device_sums(&mut self) -> Option<&mut dyn DeviceSums> {
        self.inner.device_sums()
    }
    fn sum_on_device(&mut self, ids: &[TensorId], alive: Alive) -> Result<()> {
        self.inner.sum_on_device(ids, alive)
    }
    fn open_beside(&mut self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        Ok(Box::new(CheckFinite::new(self.inner.open_beside(program)?)))
    }
    fn profile(&mut self, on: bool) -> Vec<OpTime> {
        self.inner.profile(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Device;
    use crate::op::{Activation, ActivationKind, Fill, MatMul, Target};
    use crate::program::Builder;

    /// y = relu(x), z = y w + z0, where z0 is filled before.
    fn open() -> (Box<dyn Executor>, [TensorId; 2]) {
        let mut b = Builder::new(DType::F32);
        let (x, w) = (b.input("x", [2, 2]), b.param("w", [2, 2]));
        let (y, z) = (b.activation("y", [2, 2]), b.output("z", [2, 2]));
        b.push(Activation { x, out: y, kind: ActivationKind::Relu, dropout: None }).unwrap();
        b.push(Fill { out: z, value: 1.0 }).unwrap();
        let out = Target::add(z);
        b.scoped("layer.3", |b| {
            b.push(MatMul { a: y, b: w, bias: None, out, m: 2, n: 2, k: 2, trans_a: false, trans_b: false })
        })
        .unwrap();
        let inner = Device::Cpu.open(Arc::new(b.finish().unwrap())).unwrap();
        (Box::new(CheckFinite::new(inner)), [x, w])
    }

    #[test]
    fn finite_programs_run() {
        let (mut exec, [x, w]) = open();
        exec.upload_f32(x, &[1.0, -2.0, 3.0, 4.0]).unwrap();
        exec.upload_f32(w, &[1.0, 0.0, 0.0, 1.0]).unwrap();
        exec.run_phase("run").unwrap();
        let z = exec.program().find("z").unwrap();
        assert_eq!(exec.download_f32(z).unwrap(), [2.0, 1.0, 4.0, 5.0]);
    }
    #[test]
    fn the_first_op_and_its_cause_are_named() {
        let (mut exec, [x, w]) = open();
        exec.upload_f32(x, &[1e30, 1.0, 3.0, 4.0]).unwrap();
        exec.upload_f32(w, &[1e30, 0.0, 0.0, 1.0]).unwrap();
        let text = exec.run_phase("run").unwrap_err().to_string();
        assert_eq!(
            text,
            "op 2, matmul in layer.3, is the first to write a value that is no finite number: inf at element 0 of z, 1 of \
             4 in all; what it read is finite"
        );
        exec.upload_f32(x, &[1.0, 1.0, 3.0, f32::NAN]).unwrap();
        let text = exec.run_phase("run").unwrap_err().to_string();
        assert!(text.starts_with("op 0, activation, is the first"), "{text}");
        assert!(text.contains("NaN at element 3 of y") && text.ends_with("it read such values from x"), "{text}");
    }
}

//! Runs programs on this machine's processor.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::{bf16, f16};

use super::arena::Arenas;
use super::dispatch;
use super::reference::{self, Store};
use crate::backend::{Device, Executor, OpTime, check_parameters};
use crate::program::{Plan, Program};
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

/// Runs programs on this machine's processor, in f32 or f64.
pub struct CpuExecutor {
    memory: Arenas,
    /// Run the plain loops that define each op, instead of the fast kernels.
    reference: bool,
    /// Time and runs of each op while profiling.
    times: Option<Vec<(Duration, u64)>>,
}

/// Requires that the processor can run a program.
fn check(program: &Program) -> Result<()> {
    if !matches!(program.float, DType::F32 | DType::F64) {
        let float = program.float;
        return Err(Error::device(format!(
            "the CPU computes in f32 and f64, not in {float}; build the program in f32"
        )));
    }
    let mut steps = program.steps.iter().enumerate();
    steps.try_for_each(|(i, step)| step.op.check(&program.tensors, program.scope(i)))
}

impl CpuExecutor {
    /// Takes a program and its plan; `reference` chooses the plain loops that define each op.
    ///
    /// # Errors
    /// When the program's floating-point type is neither f32 nor f64, an op's tensors do not fit, or the memory that
    /// the plan asks for cannot be had.
    pub fn new(program: Arc<Program>, plan: Plan, reference: bool) -> Result<Self> {
        check(&program)?;
        Ok(CpuExecutor { memory: Arenas::new(program, plan)?, reference, times: None })
    }

    fn run_op(&mut self, index: usize) -> Result<()> {
        let program = self.memory.program().clone();
        let op = &program.steps[index].op;
        dispatch::check_indices(op, &program, &mut self.memory.op(index))?;
        if self.reference {
            return reference::run(op, &program.tensors, &mut self.memory);
        }
        let access = &mut self.memory.op(index);
        match program.float {
            DType::F64 => dispatch::run::<f64>(op, &program, access),
            _ => dispatch::run::<f32>(op, &program, access),
        }
    }

    fn run_ops(&mut self, ops: Range<usize>) -> Result<()> {
        for index in ops {
            let start = self.times.is_some().then(Instant::now);
            self.run_op(index)?;
            if let (Some(times), Some(start)) = (&mut self.times, start) {
                times[index].0 += start.elapsed();
                times[index].1 += 1;
            }
        }
        Ok(())
    }

    fn expect_len(&self, id: TensorId, expected: usize, got: usize) -> Result<()> {
        if expected == got {
            return Ok(());
        }
        let name = self.program().tensor(id).name.clone();
        Err(Error::shape("transfer", name, format_args!("{expected} bytes"), format_args!("{got} bytes")))
    }
}

impl Executor for CpuExecutor {
    fn program(&self) -> &Arc<Program> {
        self.memory.program()
    }
    fn plan(&self) -> &Plan {
        self.memory.plan()
    }
    fn held_bytes(&self) -> usize {
        self.memory.held_bytes()
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        let expected = self.memory.bytes(id)?.len();
        self.expect_len(id, expected, bytes.len())?;
        self.memory.bytes_mut(id)?.copy_from_slice(bytes);
        Ok(())
    }
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()> {
        let expected = self.memory.bytes(id)?.len();
        self.expect_len(id, expected, bytes.len())?;
        bytes.copy_from_slice(self.memory.bytes(id)?);
        Ok(())
    }
    fn run(&mut self, ops: Range<usize>) -> Result<()> {
        let len = self.program().steps.len();
        if ops.end > len || ops.start > ops.end {
            return Err(Error::plan(format!("cannot run ops {ops:?} of a program of {len} ops")));
        }
        // On a thread of the pool, so that ops hand out work without waking it each time.
        rayon::scope(|_| self.run_ops(ops))
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn open_beside(&mut self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        check(&program)?;
        let reference = self.reference;
        let device = if reference { Device::CpuReference } else { Device::Cpu };
        let plan = device.plan(&program)?;
        check_parameters(self, &program, &plan)?;
        let memory = self.memory.lend(program, plan)?;
        Ok(Box::new(CpuExecutor { memory, reference, times: None }))
    }
    fn profile(&mut self, on: bool) -> Vec<OpTime> {
        let new = on.then(|| vec![(Duration::ZERO, 0); self.program().steps.len()]);
        let times = std::mem::replace(&mut self.times, new).unwrap_or_default();
        let measured = times.into_iter().enumerate().filter(|(_, (_, runs))| *runs > 0);
        measured.map(|(op, (time, runs))| OpTime { op, time, runs }).collect()
    }
}

/// Elements of a tensor that an op names: the plan has given it memory of its element type.
fn elements<T: bytemuck::Pod>(memory: &Arenas, id: TensorId) -> Vec<T> {
    memory.bytes(id).map(|bytes| bytemuck::cast_slice(bytes).to_vec()).unwrap_or_default()
}

impl Store for Arenas {
    fn floats(&self, id: TensorId) -> Vec<f64> {
        match self.program().tensor(id).dtype {
            DType::F64 => elements(self, id),
            DType::I32 => self.ints(id).into_iter().map(f64::from).collect(),
            DType::U32 => self.words(id).into_iter().map(f64::from).collect(),
            DType::Bf16 => elements::<bf16>(self, id).into_iter().map(f64::from).collect(),
            DType::F16 => elements::<f16>(self, id).into_iter().map(f64::from).collect(),
            _ => elements::<f32>(self, id).into_iter().map(f64::from).collect(),
        }
    }
    fn ints(&self, id: TensorId) -> Vec<i32> {
        elements(self, id)
    }
    fn words(&self, id: TensorId) -> Vec<u32> {
        elements(self, id)
    }
    fn set_floats(&mut self, id: TensorId, values: &[f64]) {
        fn set<T: bytemuck::Pod>(bytes: &mut [u8], values: &[f64], convert: impl Fn(f64) -> T) {
            let values: Vec<T> = values.iter().map(|&x| convert(x)).collect();
            bytes.copy_from_slice(bytemuck::cast_slice(&values));
        }
        let dtype = self.program().tensor(id).dtype;
        // A tensor without memory is read by no op.
        let Ok(bytes) = self.bytes_mut(id) else { return };
        match dtype {
            DType::F64 => set(bytes, values, |x| x),
            DType::I32 => set(bytes, values, |x| x as i32),
            DType::U32 => set(bytes, values, |x| x as u32),
            DType::Bf16 => set(bytes, values, bf16::from_f64),
            DType::F16 => set(bytes, values, f16::from_f64),
            _ => set(bytes, values, |x| x as f32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Device;
    use crate::op::*;
    use crate::program::Builder;
    use crate::tensor::Role;

    fn open(b: Builder) -> Box<dyn Executor> {
        Device::Cpu.open(Arc::new(b.finish().unwrap())).unwrap()
    }

    #[test]
    fn product_and_activation() {
        for float in [DType::F32, DType::F64] {
            let mut b = Builder::new(float);
            let (x, w) = (b.input("x", [2, 3]), b.param("w", [3, 2]));
            let (h, y) = (b.activation("h", [2, 2]), b.output("y", [2, 2]));
            let (out, bias) = (Target::set(h), None);
            b.push(MatMul { a: x, b: w, bias, out, m: 2, n: 2, k: 3, trans_a: false, trans_b: false }).unwrap();
            b.push(Activation { x: h, out: h, kind: ActivationKind::Relu, dropout: None }).unwrap();
            let key = b.tensor("key", [4], DType::U32, Role::Input);
            b.push(Dropout { x: h, out: y, dropout: DropoutSite { key, site: 0, rate: 0.0, lead: 1 } }).unwrap();
            let mut e = open(b);
            assert_eq!(e.held_bytes(), e.plan().total_bytes());
            assert!(e.profile(true).is_empty());
            e.upload_f32(x, &[1.0, 2.0, 3.0, -1.0, -2.0, -3.0]).unwrap();
            e.upload_f64(w, &[1.0, 0.0, 0.0, 1.0, 1.0, -1.0]).unwrap();
            for _ in 0..3 {
                e.run_phase("run").unwrap();
            }
            assert_eq!(e.download_f32(y).unwrap(), [4.0, 0.0, 0.0, 1.0]);
            assert_eq!(e.download_f64(x).unwrap(), [1.0, 2.0, 3.0, -1.0, -2.0, -3.0]);
            let runs: Vec<_> = e.profile(false).iter().map(|t| (t.op, t.runs)).collect();
            assert_eq!(runs, [(0, 3), (1, 3), (2, 3)]);
            e.run(1..2).unwrap();
            assert!(e.profile(false).is_empty());
        }
    }

    #[test]
    fn transfers_check_lengths_and_tensors() {
        let mut b = Builder::new(DType::F32);
        let (x, unused) = (b.input("x", [3]), b.activation("unused", [3]));
        let tail = b.view(x, 1, [2]).unwrap();
        let mut e = open(b);
        e.write(tail, bytemuck::cast_slice(&[5f32, 6.0])).unwrap();
        assert_eq!(e.download_f32(x).unwrap(), [0.0, 5.0, 6.0]);
        let text = e.write(x, &[0; 8]).unwrap_err().to_string();
        assert_eq!(text, "transfer: x: expected 12 bytes, got 8 bytes");
        assert!(e.read(x, &mut [0; 13]).is_err());
        assert!(e.read(unused, &mut [0; 12]).unwrap_err().to_string().contains("no op touches it"));
        assert!(e.read(TensorId(99), &mut []).is_err());
        assert!(e.run(0..1).is_err());
        e.sync().unwrap();
    }

    #[test]
    fn other_float_types_are_refused() {
        let mut b = Builder::new(DType::Bf16);
        b.input("x", [3]);
        let error = Device::Cpu.open(Arc::new(b.finish().unwrap())).err().expect("refused");
        assert!(error.to_string().contains("bf16"), "{error}");
    }

    #[test]
    fn indices_out_of_range_are_named() {
        for device in [Device::Cpu, Device::CpuReference] {
            let mut b = Builder::new(DType::F32);
            let (table, ids, out) = (b.param("table", [5, 4]), b.input_i32("ids", [3]), b.output("out", [3, 4]));
            b.scoped("embedding", |b| b.push(GatherRows { table, ids, out })).unwrap();
            let mut e = device.open(Arc::new(b.finish().unwrap())).unwrap();
            e.upload_i32(ids, &[-1, 4, 5]).unwrap();
            let text = e.run_phase("run").unwrap_err().to_string();
            assert!(text.starts_with("gather_rows in embedding: element 2 of ids: "), "{text}");
            assert!(text.ends_with("to 4, got 5"), "{text}");
        }
    }

    #[test]
    fn labels_and_positions_out_of_range_are_errors() {
        let mut b = Builder::new(DType::F64);
        let (logits, labels, weights) = (b.input("x", [2, 3]), b.input_i32("labels", [2]), b.input("weights", [2]));
        let loss = Target::set(b.output("loss", [1]));
        b.push(SoftmaxCrossEntropy { logits, hidden: None, labels, weights, loss, row_loss: None, dlogits: None })
            .unwrap();
        let (direction, out) = (b.input_i32("direction", [2]), b.output("table", [2, 3, 4]));
        b.push(PositionEncoding { direction: Some(direction), out, keys: 2, clamp_len: None }).unwrap();
        let mut e = open(b);
        e.upload_f32(weights, &[0.5, 0.5]).unwrap();
        e.run(0..2).unwrap();
        assert!((e.download_f64(loss.id).unwrap()[0] - 3f64.ln()).abs() < 1e-12);
        e.upload_i32(labels, &[0, 3]).unwrap();
        assert!(e.run(0..1).unwrap_err().to_string().contains("element 1 of labels"));
        e.upload_i32(direction, &[-1, 0]).unwrap();
        assert!(e.run(1..2).unwrap_err().to_string().contains("element 0 of direction"));
    }

    #[test]
    fn shared_memory_is_refused_where_the_op_cannot_do_it() {
        let mut b = Builder::new(DType::F32);
        let x = b.input("x", [2, 3]);
        let dx = Target::set(x);
        b.push(SoftmaxGrad { y: x, dy: x, hidden: None, dx }).unwrap();
        let text = open(b).run(0..1).unwrap_err().to_string();
        assert!(text.contains("softmax_grad") && text.contains("shares memory"), "{text}");
    }
}

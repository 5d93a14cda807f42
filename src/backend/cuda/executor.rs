//! Runs programs on a machine that runs PTX: addresses and launches are prepared when the program is taken.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fuse::{Fuse, Fused};
use super::{Call, Driver, KernelLaunch, KernelText, Product, caps};
use crate::backend::indices::Indices;
use crate::backend::lower::{Caps, Context, Slice, lower, workspace_bytes};
use crate::backend::{Alive, DeviceSums, Executor, OpTime, Parameters, check_parameters};
use crate::kernel::{Language, Variant};
use crate::op::{MatMul, Op, Write};
use crate::program::{ALIGNMENT, Plan, Program};
use crate::tensor::{DType, Role, TensorDesc, TensorId};
use crate::{Error, ErrorKind, Result};

/// Runs one program on one machine.
pub struct CudaExecutor<D> {
    driver: D,
    program: Arc<Program>,
    plan: Plan,
    memory: Memory,
    calls: Vec<Call>,
    /// First call of each op, and the end.
    first: Vec<usize>,
    /// Rows of ops that have calls in common, in order.
    fused: Vec<Fused>,
    /// Ranges of ops that were run before; a recording once they were run again.
    ranges: HashMap<Range<usize>, Option<usize>>,
    indices: Indices,
    times: Option<Vec<OpTime>>,
}

/// Kernels that the machine has compiled for a program.
#[derive(Default)]
pub struct Kernels {
    loaded: HashMap<String, Kernel>, // by the hash of the text
}

/// A kernel that the machine has compiled, and what its launches need.
#[derive(Clone, Copy)]
pub struct Kernel {
    number: usize,
    block: [u32; 3],
    shared: u32,
}

impl Kernel {
    /// A launch of it.
    pub fn launch(self, grid: [u32; 3], params: Vec<u8>, addresses: Vec<u64>) -> KernelLaunch {
        let Kernel { number, block, shared } = self;
        KernelLaunch { kernel: number, grid, block, shared, params, addresses }
    }
}

impl Kernels {
    /// A kernel, compiled where it was not before.
    ///
    /// # Errors
    /// When its template is wrong or the machine cannot compile it.
    pub fn load(&mut self, driver: &mut impl Driver, variant: &Variant) -> Result<Kernel> {
        let text = KernelText::new(variant)?;
        if let Some(kernel) = self.loaded.get(&text.rendered.hash) {
            return Ok(*kernel);
        }
        let kernel = Kernel { number: driver.load(&text)?, block: text.block, shared: text.shared };
        self.loaded.insert(text.rendered.hash, kernel);
        Ok(kernel)
    }
}

/// Where everything lies.
struct Memory {
    /// Address of every allocation.
    allocations: Vec<u64>,
    /// Bytes of those that are this program's own.
    held_bytes: usize,
    /// Whose the parameters are.
    parameters: Parameters,
    /// Of each tensor.
    tensors: Vec<Slice>,
    /// Of each op that needs one.
    workspaces: Vec<Option<Slice>>,
}

impl Memory {
    /// Memory of a program; `lent` holds addresses of parameters that another one has, in order of the allocations here.
    fn new(driver: &mut impl Driver, program: &Program, plan: &Plan, lent: Option<Vec<u64>>) -> Result<Self> {
        let parameters = if lent.is_some() { Parameters::Borrowed } else { Parameters::Own };
        let mut memory = Memory { allocations: vec![], held_bytes: 0, parameters, tensors: vec![], workspaces: vec![] };
        let mut lent = lent.unwrap_or_default().into_iter();
        if driver.separates_tensors() {
            memory.apart(driver, program, plan, &mut lent)?;
        } else {
            memory.arenas(driver, program, plan, &mut lent)?;
        }
        Ok(memory)
    }
    fn alloc(&mut self, driver: &mut impl Driver, name: &str, bytes: usize, zeroed: bool) -> Result<usize> {
        self.held_bytes += bytes;
        self.allocations.push(driver.alloc(name, bytes, zeroed)?);
        Ok(self.allocations.len() - 1)
    }
    /// Number of an allocation that another program made.
    fn borrow(&mut self, address: u64) -> usize {
        self.allocations.push(address);
        self.allocations.len() - 1
    }
    /// Addresses of the allocations that hold parameters.
    fn of_parameters(&self, program: &Program) -> Vec<u64> {
        let own = program.iter().filter(|(_, desc)| desc.role == Role::Param && desc.view.is_none());
        let mut buffers: Vec<usize> = own.map(|(id, _)| self.tensors[id.index()].buffer).collect();
        buffers.dedup(); // one for all of them, or one for each
        buffers.into_iter().map(|buffer| self.allocations[buffer]).collect()
    }
    /// One allocation for each arena of the plan.
    fn arenas(
        &mut self,
        driver: &mut impl Driver,
        program: &Program,
        plan: &Plan,
        lent: &mut std::vec::IntoIter<u64>,
    ) -> Result<()> {
        for role in Role::ALL {
            match (role == Role::Param).then(|| lent.next()).flatten() {
                Some(address) => self.borrow(address),
                None => self.alloc(driver, &role.to_string(), plan.arena_bytes(role), role.is_persistent())?,
            };
        }
        let slice = |placement: crate::program::Placement, element| Slice {
            buffer: placement.role as usize,
            offset: placement.offset,
            bytes: placement.bytes,
            element,
        };
        self.tensors = program.iter().map(|(id, desc)| slice(plan.placement(id), desc.dtype.size())).collect();
        self.workspaces = (0..program.steps.len()).map(|op| Some(slice(plan.workspace(op)?, 4))).collect();
        Ok(())
    }
    /// One allocation for each tensor that owns bytes, and for each workspace.
    fn apart(
        &mut self,
        driver: &mut impl Driver,
        program: &Program,
        plan: &Plan,
        lent: &mut std::vec::IntoIter<u64>,
    ) -> Result<()> {
        for (_, desc) in program.iter() {
            let (bytes, element) = (desc.bytes(), desc.dtype.size());
            let slice = match desc.view {
                // The base comes before its views.
                Some(view) => {
                    let base = self.tensors[view.base.index()];
                    Slice { offset: base.offset + view.offset * element, bytes, element, ..base }
                }
                None => {
                    let buffer = match (desc.role == Role::Param).then(|| lent.next()).flatten() {
                        Some(address) => self.borrow(address),
                        None => self.alloc(driver, &desc.name, bytes, desc.role.is_persistent())?,
                    };
                    Slice { buffer, offset: 0, bytes, element }
                }
            };
            self.tensors.push(slice);
        }
        for op in 0..program.steps.len() {
            let workspace = match plan.workspace(op) {
                Some(placement) => {
                    let buffer = self.alloc(driver, &format!("scratch of op {op}"), placement.bytes, false)?;
                    Some(Slice { buffer, offset: 0, bytes: placement.bytes, element: 4 })
                }
                None => None,
            };
            self.workspaces.push(workspace);
        }
        Ok(())
    }
    fn address(&self, slice: &Slice) -> u64 {
        self.allocations[slice.buffer] + slice.offset as u64
    }
    /// What a machine with products of its own is asked for.
    fn product(&self, op: &MatMul, program: &Program) -> Product {
        let MatMul { a, b, bias, out, m, n, k, trans_a, trans_b } = *op;
        let address = |id: TensorId| self.address(&self.tensors[id.index()]);
        let dtype = |id: TensorId| program.tensor(id).dtype;
        Product {
            a: address(a),
            b: address(b),
            bias: bias.map(address),
            out: address(out.id),
            m,
            n,
            k,
            trans_a,
            trans_b,
            add: out.write == Write::Add,
            operands: dtype(a),
            result: dtype(out.id),
        }
    }
}

/// The plan that the executor follows; no machine has to be there.
pub fn plan(program: &Program) -> Plan {
    Plan::new(program, &|op| workspace_bytes(Language::Ptx, op, program))
}

impl<D: Driver> CudaExecutor<D> {
    /// Compiles every kernel and prepares every launch of `program`.
    ///
    /// # Errors
    /// When the machine cannot run an op or lacks memory; names op and layer.
    pub fn new(driver: D, program: Arc<Program>) -> Result<Self> {
        let plan = plan(&program);
        Self::with(driver, program, plan, None)
    }
    /// As [`Self::new`]; `lent` holds addresses of parameters that another program has.
    fn with(mut driver: D, program: Arc<Program>, plan: Plan, lent: Option<Vec<u64>>) -> Result<Self> {
        let caps = Caps { fill: driver.fill(), ..caps(driver.capability()) };
        let indices = Indices::new(&program)?;
        let memory = Memory::new(&mut driver, &program, &plan, lent)?;
        let (mut calls, mut first, mut kernels) = (vec![], vec![], Kernels::default());
        for (op, step) in program.steps.iter().enumerate() {
            step.op.check(&program.tensors, program.scope(op))?;
            first.push(calls.len());
            if let Op::MatMul(product) = &step.op
                && let Some(product) = driver.product(&memory.product(product, &program))
            {
                calls.push(Call::Product(product));
                continue;
            }
            let context = Context {
                tensors: &program.tensors,
                slice: &|id| memory.tensors[id.index()],
                workspace: memory.workspaces[op],
                caps: &caps,
                place: program.place(op),
            };
            for launch in lower(&step.op, &context)? {
                let kernel = kernels.load(&mut driver, &launch.variant)?;
                let addresses = launch.buffers.iter().map(|slice| memory.address(slice)).collect();
                calls.push(Call::Kernel(kernel.launch(launch.grid, launch.params, addresses)));
            }
        }
        first.push(calls.len());
        let (all, by_library) = (program.steps.iter(), calls.iter());
        tracing::debug!(
            "{} of {} products by a library",
            by_library.filter(|call| matches!(call, Call::Product(_))).count(),
            all.filter(|step| matches!(step.op, Op::MatMul(_))).count(),
        );
        let address = |id: TensorId| memory.address(&memory.tensors[id.index()]);
        let mut fuse = Fuse { program: &program, driver: &mut driver, kernels: &mut kernels, address: &address };
        let fused = fuse.all()?;
        let (ranges, times) = (HashMap::new(), None);
        Ok(CudaExecutor { driver, program, plan, memory, calls, first, fused, ranges, indices, times })
    }
    /// The machine.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Address of a tensor, checked against the length of the host's.
    fn address(&self, id: TensorId, bytes: usize) -> Result<u64> {
        let Some(desc) = self.program.tensors.get(id.index()) else {
            let count = self.program.tensors.len();
            return Err(Error::plan(format!("there is no tensor {id:?} in this program of {count}")));
        };
        let slice = self.memory.tensors[id.index()];
        if slice.bytes != desc.bytes() {
            return Err(Error::plan(format!("transfer: {} has no memory, since no op touches it", desc.name)));
        }
        if bytes != slice.bytes {
            let (expected, got) = (format!("{} bytes", slice.bytes), format!("{bytes} bytes"));
            return Err(Error::shape("transfer", desc.name.clone(), expected, got));
        }
        Ok(self.memory.address(&slice))
    }
    /// The calls of one op.
    fn calls_of(&self, op: usize) -> &[Call] {
        &self.calls[self.first[op]..self.first[op + 1]]
    }
    /// The calls of a range of ops, each with its op (the first one of several).
    fn calls(&self, ops: &Range<usize>) -> Vec<(usize, &Call)> {
        let (mut all, mut op) = (vec![], ops.start);
        while op < ops.end {
            match self.fused.iter().find(|fused| fused.ops.start == op && fused.ops.end <= ops.end) {
                Some(fused) => {
                    all.extend(fused.calls.iter().map(|call| (op, call)));
                    op = fused.ops.end;
                }
                None => {
                    all.extend(self.calls_of(op).iter().map(|call| (op, call)));
                    op += 1;
                }
            }
        }
        all
    }
    /// Calls one by one.
    fn launch(&mut self, ops: &Range<usize>) -> Result<()> {
        let all: Vec<_> = self.calls(ops).into_iter().map(|(op, call)| (op, call.clone())).collect();
        for (op, call) in all {
            self.driver.launch(&call).map_err(|error| placed(error, &self.program.place(op)))?;
        }
        Ok(())
    }
    /// Measures op by op; what is launched for a whole row of ops counts for the first one.
    fn measure(&mut self, ops: Range<usize>) -> Result<()> {
        let mut all: Vec<(usize, Vec<Call>)> = ops.clone().map(|op| (op, vec![])).collect();
        for (op, call) in self.calls(&ops) {
            all[op - ops.start].1.push(call.clone());
        }
        for (op, calls) in all {
            let calls: Vec<&Call> = calls.iter().collect();
            let time = if calls.is_empty() { Ok(Duration::ZERO) } else { self.driver.time(&calls) };
            let time = time.map_err(|error| placed(error, &self.program.place(op)))?;
            if let Some(times) = &mut self.times {
                times[op].time += time;
                times[op].runs += 1;
            }
        }
        Ok(())
    }
    /// Launches a range that was run before as one recording.
    fn replay(&mut self, ops: Range<usize>, recording: Option<usize>) -> Result<()> {
        let recording = match recording {
            Some(recording) => recording,
            None => {
                let calls: Vec<Call> = self.calls(&ops).into_iter().map(|(_, call)| call.clone()).collect();
                let recording = self.driver.record(&calls.iter().collect::<Vec<_>>())?;
                self.ranges.insert(ops, Some(recording));
                recording
            }
        };
        self.driver.replay(recording)
    }
}

/// Tensors that follow each other as one, with the few numbers between them that align the second: no other tensor lies there.
fn joined(mut parts: Vec<(u64, usize)>) -> Vec<(u64, usize)> {
    parts.sort_unstable();
    let mut all: Vec<(u64, usize)> = vec![];
    for (address, count) in parts {
        match all.last_mut() {
            Some((first, length)) if address - (*first + 4 * *length as u64) < ALIGNMENT as u64 => {
                *length = (address - *first) as usize / size_of::<f32>() + count;
            }
            _ => all.push((address, count)),
        }
    }
    all
}

/// The same error with the op it happened in.
fn placed(error: Error, place: &str) -> Error {
    match error.kind() {
        ErrorKind::Kernel(what) => Error::kernel(format!("{place}: {what}")),
        ErrorKind::Device(what) => Error::device(format!("{place}: {what}")),
        _ => error,
    }
}

impl<D: Driver> Executor for CudaExecutor<D> {
    fn program(&self) -> &Arc<Program> {
        &self.program
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn held_bytes(&self) -> usize {
        self.memory.held_bytes
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        let address = self.address(id, bytes.len())?;
        self.memory.parameters.check_write(&self.program, id)?;
        self.indices.remember(&self.program, id, bytes);
        self.driver.write(address, bytes)
    }
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()> {
        let address = self.address(id, bytes.len())?;
        self.driver.read(address, bytes)
    }
    fn run(&mut self, ops: Range<usize>) -> Result<()> {
        let len = self.program.steps.len();
        if ops.end > len || ops.start > ops.end {
            return Err(Error::plan(format!("cannot run ops {ops:?} of a program of {len} ops")));
        }
        self.indices.check(&self.program, &ops)?;
        if self.times.is_some() {
            return self.measure(ops);
        }
        // One op is one or a few launches: nothing is won by a recording. Nor is it by one that is used once.
        if ops.len() <= 1 {
            return self.launch(&ops);
        }
        match self.ranges.get(&ops).copied() {
            Some(recording) => self.replay(ops, recording),
            None => {
                self.launch(&ops)?;
                self.ranges.insert(ops, None);
                Ok(())
            }
        }
    }
    fn sync(&mut self) -> Result<()> {
        self.driver.sync()
    }
    fn device_sums(&mut self) -> Option<&mut dyn DeviceSums> {
        self.driver.sums()
    }
    fn sum_on_device(&mut self, ids: &[TensorId], alive: Alive) -> Result<()> {
        let mut parts = vec![];
        for &id in ids {
            let bytes = self.program.tensors.get(id.index()).map_or(0, TensorDesc::bytes);
            let address = self.address(id, bytes)?;
            let TensorDesc { name, dtype, .. } = self.program.tensor(id);
            if *dtype != DType::F32 {
                return Err(Error::dtype("a sum over ranks", name.clone(), DType::F32, *dtype));
            }
            parts.push((address, bytes / size_of::<f32>()));
        }
        let none = || Error::plan("a machine without sums over ranks was asked for one");
        self.driver.sums().ok_or_else(none)?.sum(&joined(parts), alive)
    }
    fn open_beside(&mut self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        let plan = plan(&program);
        check_parameters(self, &program, &plan)?;
        let lent = self.memory.of_parameters(&self.program);
        let driver = self.driver.beside(&lent)?;
        let beside = Self::with(driver, program, plan, Some(lent))?;
        self.memory.parameters = self.memory.parameters.lend();
        Ok(Box::new(beside))
    }
    fn profile(&mut self, on: bool) -> Vec<OpTime> {
        let none = |op| OpTime { op, time: Duration::ZERO, runs: 0 };
        let times = self.times.take().unwrap_or_default();
        self.times = on.then(|| (0..self.program.steps.len()).map(none).collect());
        times.into_iter().filter(|time| time.runs > 0).collect()
    }
}

//! Runs programs on a machine that runs PTX: addresses and launches are prepared when the program is taken.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::{Driver, KernelLaunch, KernelText, caps};
use crate::backend::indices::Indices;
use crate::backend::lower::{Context, Slice, lower, workspace_bytes};
use crate::backend::{Executor, OpTime};
use crate::kernel::Language;
use crate::program::{Plan, Program};
use crate::tensor::{Role, TensorId};
use crate::{Error, ErrorKind, Result};

/// Runs one program on one machine.
pub struct CudaExecutor<D> {
    driver: D,
    program: Arc<Program>,
    plan: Plan,
    memory: Memory,
    launches: Vec<KernelLaunch>,
    /// First launch of each op, and the end.
    first: Vec<usize>,
    indices: Indices,
    times: Option<Vec<OpTime>>,
}

/// Where everything lies.
struct Memory {
    /// Address and size of every allocation.
    allocations: Vec<(u64, usize)>,
    /// Of each tensor.
    tensors: Vec<Slice>,
    /// Of each op that needs one.
    workspaces: Vec<Option<Slice>>,
}

impl Memory {
    fn new(driver: &mut impl Driver, program: &Program, plan: &Plan) -> Result<Self> {
        let mut memory = Memory { allocations: vec![], tensors: vec![], workspaces: vec![] };
        if driver.separates_tensors() {
            memory.apart(driver, program, plan)?;
        } else {
            memory.arenas(driver, program, plan)?;
        }
        Ok(memory)
    }
    fn alloc(&mut self, driver: &mut impl Driver, name: &str, bytes: usize, zeroed: bool) -> Result<usize> {
        self.allocations.push((driver.alloc(name, bytes, zeroed)?, bytes));
        Ok(self.allocations.len() - 1)
    }
    /// One allocation for each arena of the plan.
    fn arenas(&mut self, driver: &mut impl Driver, program: &Program, plan: &Plan) -> Result<()> {
        for role in Role::ALL {
            self.alloc(driver, &role.to_string(), plan.arena_bytes(role), role.is_persistent())?;
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
    fn apart(&mut self, driver: &mut impl Driver, program: &Program, plan: &Plan) -> Result<()> {
        for (_, desc) in program.iter() {
            let (bytes, element) = (desc.bytes(), desc.dtype.size());
            let slice = match desc.view {
                // The base comes before its views.
                Some(view) => {
                    let base = self.tensors[view.base.index()];
                    Slice { offset: base.offset + view.offset * element, bytes, element, ..base }
                }
                None => {
                    let buffer = self.alloc(driver, &desc.name, bytes, desc.role.is_persistent())?;
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
        self.allocations[slice.buffer].0 + slice.offset as u64
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
    pub fn new(mut driver: D, program: Arc<Program>) -> Result<Self> {
        let plan = plan(&program);
        let (caps, indices) = (caps(), Indices::new(&program)?);
        let memory = Memory::new(&mut driver, &program, &plan)?;
        let (mut launches, mut first, mut loaded) = (vec![], vec![], HashMap::new());
        for (op, step) in program.steps.iter().enumerate() {
            step.op.check(&program.tensors, program.scope(op))?;
            first.push(launches.len());
            let context = Context {
                tensors: &program.tensors,
                slice: &|id| memory.tensors[id.index()],
                workspace: memory.workspaces[op],
                caps: &caps,
                place: program.place(op),
            };
            for launch in lower(&step.op, &context)? {
                let text = KernelText::new(&launch.variant)?;
                let kernel = match loaded.get(&text.rendered.hash) {
                    Some(kernel) => *kernel,
                    None => *loaded.entry(text.rendered.hash.clone()).or_insert(driver.load(&text)?),
                };
                let addresses = launch.buffers.iter().map(|slice| memory.address(slice)).collect();
                let (grid, block, params) = (launch.grid, text.block, launch.params);
                launches.push(KernelLaunch { kernel, grid, block, params, addresses });
            }
        }
        first.push(launches.len());
        Ok(CudaExecutor { driver, program, plan, memory, launches, first, indices, times: None })
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
    fn launch(&mut self, op: usize) -> Result<()> {
        let started = Instant::now();
        for launch in &self.launches[self.first[op]..self.first[op + 1]] {
            self.driver.launch(launch).map_err(|error| placed(error, &self.program.place(op)))?;
        }
        if let Some(times) = &mut self.times {
            self.driver.sync()?;
            times[op].time += started.elapsed();
            times[op].runs += 1;
        }
        Ok(())
    }
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
        self.memory.allocations.iter().map(|(_, bytes)| bytes).sum()
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        let address = self.address(id, bytes.len())?;
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
        ops.into_iter().try_for_each(|op| self.launch(op))
    }
    fn sync(&mut self) -> Result<()> {
        self.driver.sync()
    }
    fn profile(&mut self, on: bool) -> Vec<OpTime> {
        let none = |op| OpTime { op, time: std::time::Duration::ZERO, runs: 0 };
        let times = self.times.take().unwrap_or_default();
        self.times = on.then(|| (0..self.program.steps.len()).map(none).collect());
        times.into_iter().filter(|time| time.runs > 0).collect()
    }
}

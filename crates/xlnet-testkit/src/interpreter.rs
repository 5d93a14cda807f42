//! The CUDA backend on the PTX interpreter: the launches of a card, run and checked on the CPU.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_interpreter::{Argument, Buffer, Machine, Module, Report, Schedule};
use xlnet::backend::cuda::{Call, CudaExecutor, Driver, KernelLaunch, KernelText};
use xlnet::backend::lower::FILL;
use xlnet::program::Program;
use xlnet::{Error, Result};

/// A machine that runs PTX without a GPU.
pub struct Interpreter {
    capability: (u32, u32),
    machine: Arc<Mutex<Machine>>, // programs beside each other have one
    buffers: Vec<Buffer>,
    modules: Vec<(Arc<Module>, KernelText)>,
    report: Report,
    recordings: Vec<Vec<Call>>,
}

impl Interpreter {
    /// A machine whose blocks, warps and lanes take turns as `schedule` says, a card of a compute capability.
    pub fn new(schedule: Schedule, capability: (u32, u32)) -> Self {
        let mut machine = Machine::new();
        machine.schedule(schedule);
        Self::on(capability, Arc::new(Mutex::new(machine)), vec![])
    }
    fn on(capability: (u32, u32), machine: Arc<Mutex<Machine>>, buffers: Vec<Buffer>) -> Self {
        Interpreter { capability, machine, buffers, modules: vec![], report: Report::default(), recordings: vec![] }
    }
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Gives `program` to such a machine.
    ///
    /// # Errors
    /// When an op has no PTX kernel.
    pub fn open(
        schedule: Schedule,
        capability: (u32, u32),
        program: Arc<Program>,
    ) -> Result<CudaExecutor<Interpreter>> {
        CudaExecutor::new(Interpreter::new(schedule, capability), program)
    }
    /// What all launches did.
    pub fn report(&self) -> &Report {
        &self.report
    }
    fn run(&mut self, launch: &KernelLaunch) -> Result<()> {
        let (module, kernel) = &self.modules[launch.kernel];
        let addresses = launch.addresses.iter().map(|address| Argument::U64(*address));
        let arguments: Vec<_> = [Argument::Bytes(launch.params.clone())].into_iter().chain(addresses).collect();
        let shared = launch.shared as usize;
        let report = self.machine().launch(module, kernel.entry, launch.grid, launch.block, shared, &arguments);
        let report = report.map_err(|error| Error::kernel(format!("{}: {error}", kernel.rendered.label)))?;
        self.report.add(&report);
        Ok(())
    }
    /// Buffer and offset of an address of the host.
    fn locate(&self, address: u64) -> Result<(Buffer, usize)> {
        let found = self.buffers.iter().find(|b| (b.address()..=b.address() + b.bytes() as u64).contains(&address));
        let found = found.map(|b| (*b, (address - b.address()) as usize));
        found.ok_or_else(|| Error::kernel(format!("address {address:#x} is in no buffer")))
    }
}

/// A kernel's module; each is read once a process.
fn module(kernel: &KernelText) -> Result<Arc<Module>> {
    static MODULES: Mutex<BTreeMap<String, Arc<Module>>> = Mutex::new(BTreeMap::new());
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(&kernel.rendered.hash) {
        return Ok(module.clone());
    }
    let module = Module::parse(&kernel.rendered.text)
        .map_err(|error| Error::kernel(format!("{}: {error}", kernel.rendered.label)))?;
    let module = Arc::new(module);
    modules.insert(kernel.rendered.hash.clone(), module.clone());
    Ok(module)
}

fn kernel_error(error: ptx_interpreter::Error) -> Error {
    Error::kernel(error.to_string())
}

impl Driver for Interpreter {
    fn capability(&self) -> (u32, u32) {
        self.capability
    }
    fn fill(&self) -> usize {
        // Small enough to show what happens in parts; for newer cards all at once.
        if self.capability.0 > 8 { FILL } else { 4 }
    }
    fn separates_tensors(&self) -> bool {
        true
    }
    fn alloc(&mut self, name: &str, bytes: usize, zeroed: bool) -> Result<u64> {
        let mut machine = self.machine();
        let buffer = if zeroed { machine.upload(name, &vec![0; bytes]) } else { machine.alloc(name, bytes) };
        drop(machine);
        self.buffers.push(buffer);
        Ok(buffer.address())
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let (buffer, offset) = self.locate(address)?;
        self.machine().write(buffer, offset, bytes).map_err(kernel_error)
    }
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let (buffer, offset) = self.locate(address)?;
        self.machine().read(buffer, offset, bytes).map_err(kernel_error)
    }
    fn load(&mut self, kernel: &KernelText) -> Result<usize> {
        self.modules.push((module(kernel)?, kernel.clone()));
        Ok(self.modules.len() - 1)
    }
    fn launch(&mut self, call: &Call) -> Result<()> {
        match call {
            Call::Kernel(launch) => self.run(launch),
            Call::Product(_) => Err(Error::kernel("the interpreter has no products of its own")),
        }
    }
    fn record(&mut self, calls: &[&Call]) -> Result<usize> {
        self.recordings.push(calls.iter().map(|call| (*call).clone()).collect());
        Ok(self.recordings.len() - 1)
    }
    fn replay(&mut self, recording: usize) -> Result<()> {
        let calls = self.recordings[recording].clone();
        calls.iter().try_for_each(|call| self.launch(call))
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn beside(&mut self, addresses: &[u64]) -> Result<Self> {
        let buffers = self.buffers.iter().filter(|buffer| addresses.contains(&buffer.address()));
        Ok(Self::on(self.capability, self.machine.clone(), buffers.copied().collect()))
    }
}

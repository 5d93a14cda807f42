//! The host's side: modules, buffers, launches.

use std::sync::Arc;

use crate::decode::decode;
use crate::error::{Error, Result};
use crate::exec::{Block, Launch, Schedule};
use crate::kernel::Kernel;
use crate::lanes::WARP;
use crate::memory::Global;
use crate::parse::parse;
use crate::report::{Count, Report};

/// Most shared memory that a block may have on any card known here (sm_90).
const MOST_SHARED: usize = 227 << 10;
/// Most of it with a size in the text; more needs `.extern .shared`.
const MOST_STATIC_SHARED: usize = 48 << 10;

/// A parsed module.
#[derive(Clone, Debug)]
pub struct Module {
    version: (u32, u32),
    target: String,
    kernels: Vec<Kernel>,
}

impl Module {
    /// Reads PTX.
    ///
    /// # Errors
    /// Line and sentence, where the text is no PTX or uses what the interpreter does not know.
    pub fn parse(text: &str) -> Result<Module> {
        let file = parse(text)?;
        let source: Arc<[String]> = text.lines().map(str::to_owned).collect();
        let kernels = file.entries.iter().map(|e| decode(&file, e, source.clone())).collect::<Result<_>>()?;
        Ok(Module { version: file.version, target: file.target, kernels })
    }
    /// The `.version`.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }
    /// The `.target`.
    pub fn target(&self) -> &str {
        &self.target
    }
    /// All entries.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }
    /// The entry called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn kernel(&self, name: &str) -> Result<&Kernel> {
        self.kernels.iter().find(|k| k.name == name).ok_or_else(|| {
            let names: Vec<_> = self.kernels.iter().map(|k| k.name.as_str()).collect();
            Error::host(format!("the module has no entry {name}; it has {}", names.join(", ")))
        })
    }
}

/// Global memory of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    index: usize,
    bytes: usize,
}

impl Buffer {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// What a kernel knows it by.
    pub fn address(&self) -> u64 {
        Global::address(self.index)
    }
}

/// An argument of a launch.
#[derive(Clone, Debug)]
pub enum Argument {
    /// Address of a buffer, and so many bytes further on.
    Buffer(Buffer, u64),
    /// A `.u32`, `.s32`, `.b32`.
    U32(u32),
    /// A `.u64`, `.b64`.
    U64(u64),
    /// A `.f32`.
    F32(f32),
    /// Anything else: structs, byte arrays.
    Bytes(Vec<u8>),
}

impl From<Buffer> for Argument {
    fn from(buffer: Buffer) -> Self {
        Argument::Buffer(buffer, 0)
    }
}
impl From<u32> for Argument {
    fn from(x: u32) -> Self {
        Argument::U32(x)
    }
}
impl From<u64> for Argument {
    fn from(x: u64) -> Self {
        Argument::U64(x)
    }
}
impl From<f32> for Argument {
    fn from(x: f32) -> Self {
        Argument::F32(x)
    }
}

impl Argument {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Argument::Buffer(buffer, offset) => (buffer.address() + offset).to_le_bytes().to_vec(),
            Argument::U32(x) => x.to_le_bytes().to_vec(),
            Argument::U64(x) => x.to_le_bytes().to_vec(),
            Argument::F32(x) => x.to_le_bytes().to_vec(),
            Argument::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// A machine with global memory that runs and checks kernels.
pub struct Machine {
    global: Global,
    schedule: Schedule,
    budget: u64,
    blocks: u32,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { global: Global::default(), schedule: Schedule::default(), budget: 1 << 32, blocks: 0 }
    }
}

impl Machine {
    /// An empty machine; blocks, warps and lanes take turns in ascending order.
    pub fn new() -> Self {
        Self::default()
    }
    /// Sets the order of turns.
    pub fn schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }
    /// Sets how many instructions warps may issue in one launch.
    pub fn budget(&mut self, instructions: u64) {
        self.budget = instructions;
    }
    /// A buffer that nobody has written yet; `name` is what messages call it.
    pub fn alloc(&mut self, name: &str, bytes: usize) -> Buffer {
        Buffer { index: self.global.add(name, bytes), bytes }
    }
    /// A buffer with content.
    pub fn upload(&mut self, name: &str, bytes: &[u8]) -> Buffer {
        let buffer = self.alloc(name, bytes.len());
        self.global.allocations[buffer.index].region.fill(0, bytes);
        buffer
    }
    /// Writes into a buffer.
    ///
    /// # Errors
    /// When it is too small.
    pub fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        if offset + bytes.len() > buffer.bytes {
            return Err(Error::host(format!("{} bytes at {offset} of a buffer of {}", bytes.len(), buffer.bytes)));
        }
        self.global.allocations[buffer.index].region.fill(offset, bytes);
        Ok(())
    }
    /// Copies a part of a buffer out; bytes that nobody wrote are an error.
    ///
    /// # Errors
    /// When the buffer is too small, or a byte was never written.
    pub fn read(&self, buffer: Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let allocation = &self.global.allocations[buffer.index];
        if offset + bytes.len() > buffer.bytes {
            return Err(Error::host(format!("{} bytes at {offset} of a buffer of {}", bytes.len(), buffer.bytes)));
        }
        if let Some((at, _)) = allocation.region.unwritten(offset, bytes.len()) {
            return Err(Error::host(format!("byte {at} of {} was never written", allocation.name)));
        }
        bytes.copy_from_slice(&allocation.region.data[offset..offset + bytes.len()]);
        Ok(())
    }
    /// Content of a buffer; bytes that nobody wrote are an error.
    ///
    /// # Errors
    /// When a byte was never written.
    pub fn download(&self, buffer: Buffer) -> Result<Vec<u8>> {
        let mut bytes = vec![0; buffer.bytes];
        self.read(buffer, 0, &mut bytes)?;
        Ok(bytes)
    }
    /// Content of a buffer, zero where nobody wrote.
    pub fn download_anyway(&self, buffer: Buffer) -> Vec<u8> {
        self.global.allocations[buffer.index].region.data.clone()
    }

    /// Runs a grid to its end and checks every step.
    ///
    /// # Errors
    /// The first finding, or what is wrong with the launch itself.
    pub fn launch(
        &mut self,
        module: &Module,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared_bytes: usize,
        arguments: &[Argument],
    ) -> Result<Report> {
        let kernel = module.kernel(entry)?;
        let params = params(kernel, arguments)?;
        let threads: u32 = block.iter().product();
        check_block(kernel, block, threads)?;
        if grid.contains(&0) || grid[1] > 65535 || grid[2] > 65535 || grid[0] > i32::MAX as u32 {
            return Err(Error::host(format!("{entry}: grid {grid:?} is out of range (2^31 - 1, 65535, 65535)")));
        }
        let shared = kernel.static_shared + dynamic_shared_bytes;
        if kernel.static_shared > MOST_STATIC_SHARED || shared > MOST_SHARED {
            let static_shared = kernel.static_shared;
            let message = format!("{entry}: {static_shared} bytes of declared and {dynamic_shared_bytes} of dynamic");
            return Err(Error::host(format!(
                "{message} shared memory; the most is {MOST_STATIC_SHARED}, and {MOST_SHARED} in all"
            )));
        }
        for allocation in &mut self.global.allocations {
            allocation.shadow.prepare(kernel.granule);
        }
        let count: u32 = grid.iter().product();
        let first_block = self.blocks + 1;
        self.blocks += count;
        let mut launch = Launch {
            kernel,
            global: &mut self.global,
            params: &params,
            grid,
            threads: block,
            shared_bytes: shared,
            dynamic_bytes: dynamic_shared_bytes,
            schedule: self.schedule,
            first_block,
            budget: self.budget,
            counts: vec![Count::default(); kernel.code.len()],
            conflicts: vec![0; kernel.code.len()],
            report: Report::default(),
            spare: vec![],
        };
        for index in self.schedule.order(count as usize) {
            let index = index as u32;
            let position = [index % grid[0], index / grid[0] % grid[1], index / grid[0] / grid[1]];
            Block::new(&mut launch, position, first_block + index).run()?;
        }
        let mut report = launch.report;
        for ((count, conflicts), (name, instr)) in
            launch.counts.iter().zip(&launch.conflicts).zip(kernel.mnemonics.iter().zip(&kernel.code))
        {
            if count.warps > 0 {
                let sum = report.instructions.entry(name.clone()).or_default();
                sum.warps += count.warps;
                sum.lanes += count.lanes;
            }
            if *conflicts > 0 {
                *report.bank_conflicts_by_line.entry(instr.line).or_default() += conflicts;
            }
        }
        Ok(report)
    }
}

fn params(kernel: &Kernel, arguments: &[Argument]) -> Result<Vec<u8>> {
    let name = &kernel.name;
    if arguments.len() != kernel.params.len() {
        let (want, got) = (kernel.params.len(), arguments.len());
        return Err(Error::host(format!("{name}: expected {want} arguments, got {got}")));
    }
    let mut params = vec![0; kernel.param_bytes];
    for (param, argument) in kernel.params.iter().zip(arguments) {
        let bytes = argument.bytes();
        if bytes.len() != param.bytes {
            let (what, want, got) = (&param.name, param.bytes, bytes.len());
            return Err(Error::host(format!("{name}: parameter {what} has {want} bytes, the argument {got}")));
        }
        params[param.offset..param.offset + param.bytes].copy_from_slice(&bytes);
    }
    Ok(params)
}

fn check_block(kernel: &Kernel, block: [u32; 3], threads: u32) -> Result<()> {
    let name = &kernel.name;
    if threads == 0 || threads > (WARP * WARP) as u32 || block[2] > 64 {
        return Err(Error::host(format!("{name}: a block has 1 to 1024 threads, not {block:?}")));
    }
    let most = kernel.max_threads.map(|all| all.iter().product::<u32>());
    if most.is_some_and(|most| threads > most) {
        return Err(Error::host(format!("{name}: {block:?} threads are more than .maxntid allows")));
    }
    if kernel.required_threads.is_some_and(|required| required != block) {
        return Err(Error::host(format!(
            "{name}: .reqntid wants {:?} threads, not {block:?}",
            kernel.required_threads
        )));
    }
    Ok(())
}

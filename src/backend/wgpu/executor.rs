//! Runs programs on an adapter: everything is bound when the program is taken, a run only encodes.

use std::ops::Range;
use std::sync::Arc;

use wgpu::util::StagingBelt;
use wgpu::{BufferSize, BufferUsages};

use super::arena::{Arenas, check_sizes, chunk_bytes};
use super::bound::{BoundLaunches, pipelines};
use super::device::Gpu;
use super::profile::Profiler;
use crate::backend::indices::Indices;
use crate::backend::lower::{Context, Slice, fuse, lower, workspace_bytes};
use crate::backend::{Executor, OpTime, check_parameters};
use crate::kernel::Language;
use crate::program::{Plan, Program};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Writes up to this size go through buffers that are used again and again; the few larger ones (weights) do not.
const STAGED: usize = 1 << 20; // bytes
/// Most ops of one submit.
const OPS_PER_SUBMIT: usize = 128;
/// Size of the buffer through which tensors are read.
const READ_BYTES: usize = 4 << 20;

/// Runs programs on one adapter.
pub struct WgpuExecutor {
    gpu: Arc<Gpu>,
    program: Arc<Program>,
    plan: Plan,
    arenas: Arenas,
    launches: BoundLaunches,
    /// First launch of each op, and the end.
    first: Vec<usize>,
    /// Ops that are launched together where all of them run, and these launches.
    fused: Vec<(Range<usize>, Range<usize>)>,
    belt: StagingBelt,
    /// Copies waiting for the next submit.
    encoder: Option<wgpu::CommandEncoder>,
    readback: wgpu::Buffer,
    indices: Indices,
    profiler: Option<Profiler>,
}

impl WgpuExecutor {
    /// Compiles and binds every op of `program`.
    ///
    /// # Errors
    /// When the adapter cannot run an op or lacks memory; names op, layer, variant and limit.
    pub fn new(gpu: Arc<Gpu>, program: Arc<Program>) -> Result<Self> {
        let chunk = chunk_bytes(gpu.info.caps.buffer_bytes);
        WgpuExecutor::in_chunks(gpu, program, chunk)
    }

    /// As [`Self::new`], with buffers of at most `chunk` bytes.
    ///
    /// # Errors
    /// Those of `new`.
    pub(super) fn in_chunks(gpu: Arc<Gpu>, program: Arc<Program>, chunk: usize) -> Result<Self> {
        Self::with(gpu, program, chunk, None)
    }

    /// As [`Self::in_chunks`], with the parameters of `lender` where there is one.
    fn with(gpu: Arc<Gpu>, program: Arc<Program>, chunk: usize, lender: Option<&Self>) -> Result<Self> {
        let plan = Plan::in_chunks(&program, &|op| workspace_bytes(Language::Wgsl, op, &program), chunk);
        check_sizes(&program, &plan, chunk)?;
        if let Some(lender) = lender {
            check_parameters(lender, &program, &plan)?;
        }
        let indices = Indices::new(&program)?;
        let layout = super::arena::Layout::new(&plan, chunk);
        let slice = |id| layout.slice(plan.placement(id), program.tensor(id).dtype.size());
        let context = |index| Context {
            tensors: &program.tensors,
            slice: &slice,
            workspace: plan.workspace(index).map(|placement| layout.slice(placement, 4)),
            caps: &gpu.info.caps,
            place: program.place(index),
        };
        let (mut lowered, mut first) = (vec![], vec![]);
        for (index, step) in program.steps.iter().enumerate() {
            step.op.check(&program.tensors, program.scope(index))?;
            first.push(lowered.len());
            lowered.extend(lower(&step.op, &context(index))?);
        }
        first.push(lowered.len());
        let mut fused = vec![];
        for together in fuse(&program, context)? {
            let start = lowered.len();
            lowered.extend(together.launches);
            fused.push((together.ops, start..lowered.len()));
        }
        let saved: usize = fused.iter().map(|(ops, launches)| first[ops.end] - first[ops.start] - launches.len()).sum();
        let all = first[program.steps.len()];
        tracing::debug!(ops = program.steps.len(), launches = all - saved, unfused = all, "lowered");
        // Whatever can be refused has been by now: memory comes last.
        let pipelines = pipelines(&gpu, &lowered)?;
        let arenas = Arenas::new(&gpu, &plan, chunk, lender.map(|lender| &lender.arenas))?;
        let launches = BoundLaunches::new(&gpu, &lowered, pipelines, &arenas.buffers)?;
        let readback = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: plan.total_bytes().clamp(256, READ_BYTES) as u64,
            usage: BufferUsages::COPY_DST | BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let belt = StagingBelt::new(gpu.device.clone(), plan.total_bytes().clamp(256, STAGED) as u64);
        let (encoder, profiler) = (None, None);
        gpu.check()?;
        Ok(WgpuExecutor {
            gpu,
            program,
            plan,
            arenas,
            launches,
            first,
            fused,
            belt,
            encoder,
            readback,
            indices,
            profiler,
        })
    }

    /// Bytes of a tensor, checked against the length of the host's.
    fn slice(&self, id: TensorId, bytes: usize) -> Result<Slice> {
        let Some(desc) = self.program.tensors.get(id.index()) else {
            let count = self.program.tensors.len();
            return Err(Error::plan(format!("there is no tensor {id:?} in this program of {count}")));
        };
        let slice = self.arenas.slice(&self.program, &self.plan, id);
        if slice.bytes != desc.bytes() {
            return Err(Error::plan(format!("transfer: {} has no memory, since no op touches it", desc.name)));
        }
        if bytes == slice.bytes {
            return Ok(slice);
        }
        let (expected, got) = (format!("{} bytes", slice.bytes), format!("{bytes} bytes"));
        Err(Error::shape("transfer", desc.name.clone(), expected, got))
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let device = &self.gpu.device;
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    /// Submits what has been encoded.
    fn submit(&mut self) -> Result<()> {
        if let Some(encoder) = self.encoder.take() {
            self.belt.finish();
            self.gpu.queue.submit([encoder.finish()]);
            self.belt.recall();
        }
        self.gpu.check()
    }

    fn encode(&mut self, ops: Range<usize>) {
        self.encoder();
        let Some(encoder) = &mut self.encoder else { return };
        let Some(profiler) = &mut self.profiler else {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (_, launches) in parts(&self.first, &self.fused, ops) {
                self.launches.encode(launches, &mut pass);
            }
            return;
        };
        for (op, launches) in parts(&self.first, &self.fused, ops) {
            let timestamp_writes = profiler.begin(op);
            let description = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&description);
            self.launches.encode(launches, &mut pass);
        }
    }

    /// Copies whole words to a buffer.
    fn write_words(&mut self, buffer: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        let Some(size) = BufferSize::new(bytes.len() as u64) else { return Ok(()) };
        let buffer = self.arenas.buffers[buffer].clone();
        if bytes.len() > STAGED {
            // Copies encoded so far come first.
            self.submit()?;
            self.gpu.queue.write_buffer(&buffer, offset as u64, bytes);
        } else {
            self.encoder();
            if let Some(encoder) = &mut self.encoder {
                self.belt.write_buffer(encoder, &buffer, offset as u64, size).copy_from_slice(bytes);
            }
        }
        self.gpu.check()
    }

    /// Copies bytes of a buffer to the host.
    fn fetch(&mut self, buffer: usize, offset: usize, out: &mut [u8]) -> Result<()> {
        let (source, target) = (self.arenas.buffers[buffer].clone(), self.readback.clone());
        // Whole words are copied; numbers of half precision may begin and end within one.
        let skip = offset % 4;
        let bytes = (skip + out.len()).next_multiple_of(4) as u64;
        self.encoder().copy_buffer_to_buffer(&source, (offset - skip) as u64, &target, 0, Some(bytes));
        self.submit()?;
        target.map_async(wgpu::MapMode::Read, 0..bytes, |_| {});
        self.gpu.wait()?;
        let name = self.gpu.name();
        let mapped = target.get_mapped_range(0..bytes);
        let mapped = mapped.map_err(|error| Error::device(format!("{name}: {error}")))?;
        out.copy_from_slice(&mapped[skip..skip + out.len()]);
        drop(mapped);
        target.unmap();
        Ok(())
    }
}

/// Launches of `ops`, each with the op that answers for them: the first one's where several are launched together.
fn parts(
    first: &[usize],
    fused: &[(Range<usize>, Range<usize>)],
    ops: Range<usize>,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut next = ops.start;
    std::iter::from_fn(move || {
        let op = next;
        if op >= ops.end {
            return None;
        }
        let at = fused.partition_point(|(together, _)| together.start < op);
        match fused.get(at) {
            Some((together, launches)) if together.start == op && together.end <= ops.end => {
                next = together.end;
                Some((op, launches.clone()))
            }
            _ => {
                next += 1;
                Some((op, first[op]..first[op + 1]))
            }
        }
    })
}

impl Executor for WgpuExecutor {
    fn program(&self) -> &Arc<Program> {
        &self.program
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn held_bytes(&self) -> usize {
        self.arenas.parameters.held_bytes(&self.plan)
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        let slice = self.slice(id, bytes.len())?;
        self.arenas.parameters.check_write(&self.program, id)?;
        self.indices.remember(&self.program, id, bytes);
        let start = slice.offset / 4 * 4;
        let end = (slice.offset + bytes.len()).next_multiple_of(4);
        if end - start == bytes.len() {
            return self.write_words(slice.buffer, start, bytes);
        }
        // Numbers of half precision that begin or end within a word: the rest of the word stays as it is.
        let mut words = vec![0; end - start];
        let piece = self.readback.size() as usize - 4;
        for (i, words) in words.chunks_mut(piece).enumerate() {
            self.fetch(slice.buffer, start + i * piece, words)?;
        }
        words[slice.offset - start..][..bytes.len()].copy_from_slice(bytes);
        self.write_words(slice.buffer, start, &words)
    }
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()> {
        let slice = self.slice(id, bytes.len())?;
        let piece = self.readback.size() as usize - 4; // a word for what begins within one
        for (i, out) in bytes.chunks_mut(piece).enumerate() {
            self.fetch(slice.buffer, slice.offset + i * piece, out)?;
        }
        Ok(())
    }
    fn run(&mut self, ops: Range<usize>) -> Result<()> {
        let len = self.program.steps.len();
        if ops.end > len || ops.start > ops.end {
            return Err(Error::plan(format!("cannot run ops {ops:?} of a program of {len} ops")));
        }
        self.indices.check(&self.program, &ops)?;
        // Drivers take a submit that runs for seconds for a hang; time stamps of a profile fill up too.
        let part = self.profiler.as_ref().map_or(OPS_PER_SUBMIT, |profiler| profiler.capacity().min(OPS_PER_SUBMIT));
        let mut start = ops.start;
        while start < ops.end {
            let mut end = ops.end.min(start + part);
            // What is launched together stays together.
            let cut = self.fused.iter().map(|(together, _)| together).find(|t| t.start < end && end < t.end);
            if let Some(together) = cut.filter(|t| start <= t.start && t.end <= ops.end) {
                end = together.end;
            }
            self.encode(start..end);
            if self.profiler.is_some() {
                self.collect()?;
            }
            self.submit()?;
            start = end;
        }
        self.gpu.check()
    }
    fn sync(&mut self) -> Result<()> {
        self.submit()?;
        self.gpu.wait()
    }
    fn open_beside(&mut self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        // What was written so far comes before anything that the other program does.
        self.submit()?;
        let beside = Self::with(self.gpu.clone(), program, self.arenas.layout.chunk(), Some(self))?;
        self.arenas.parameters = self.arenas.parameters.lend();
        Ok(Box::new(beside))
    }
    fn profile(&mut self, on: bool) -> Vec<OpTime> {
        let times = self.profiler.take().map_or_else(Vec::new, Profiler::times);
        self.profiler = on.then(|| Profiler::new(&self.gpu, self.program.steps.len()));
        times
    }
}

impl WgpuExecutor {
    /// Submits one profiled part and adds up its times.
    fn collect(&mut self) -> Result<()> {
        let Some(mut profiler) = self.profiler.take() else { return Ok(()) };
        let started = std::time::Instant::now();
        self.encoder();
        if let Some(encoder) = &mut self.encoder {
            profiler.resolve(encoder);
        }
        self.submit()?;
        self.gpu.wait()?;
        let result = profiler.collect(&self.gpu, started.elapsed());
        self.profiler = Some(profiler);
        result
    }
}

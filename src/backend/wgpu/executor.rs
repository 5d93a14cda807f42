//! Runs programs on an adapter: everything is bound when the program is taken, a run only encodes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use wgpu::util::StagingBelt;
use wgpu::{BindGroup, BindGroupEntry, BindingResource, BufferBinding, BufferSize, BufferUsages, ComputePipeline};

use super::arena::{Arenas, check_sizes, chunk_bytes};
use super::device::Gpu;
use super::lower::{Context, Launch, Slice, lower, workspace_bytes};
use super::pipeline::UNIFORM_BYTES;
use super::profile::Profiler;
use crate::backend::{Executor, OpTime};
use crate::op::IndexRange;
use crate::program::{Plan, Program};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Writes up to this size go through buffers that are used again and again; the few larger ones (weights) do not.
const STAGED: usize = 1 << 20; // bytes
/// Size of the buffer through which tensors are read.
const READ_BYTES: usize = 4 << 20;

/// A launch with everything it needs.
struct Bound {
    pipeline: ComputePipeline,
    storage: BindGroup,
    uniforms: [u32; 2], // byte offsets of params and first elements
    grid: [u32; 3],
}

/// An index tensor that the host writes, and what it may hold.
struct Checked {
    op: usize,
    range: IndexRange,
}

/// Runs programs on one adapter.
pub struct WgpuExecutor {
    gpu: Arc<Gpu>,
    program: Arc<Program>,
    plan: Plan,
    arenas: Arenas,
    launches: Vec<Bound>,
    /// First launch of each op, and the end.
    first: Vec<usize>,
    uniforms: BindGroup,
    belt: StagingBelt,
    /// Copies waiting for the next submit.
    encoder: Option<wgpu::CommandEncoder>,
    readback: wgpu::Buffer,
    checked: Vec<Checked>,
    /// What the host wrote into index tensors that own bytes.
    indices: HashMap<TensorId, Vec<i32>>,
    profiler: Option<Profiler>,
}

impl WgpuExecutor {
    /// Compiles and binds every op of `program`.
    ///
    /// # Errors
    /// When the adapter cannot run an op or lacks memory; names op, layer, variant and limit.
    pub fn new(gpu: Arc<Gpu>, program: Arc<Program>) -> Result<Self> {
        let chunk = chunk_bytes(gpu.info.caps.buffer_bytes);
        let plan = Plan::in_chunks(&program, &|op| workspace_bytes(op, &program), chunk);
        check_sizes(&program, &plan, chunk)?;
        let checked = checked(&program)?;
        let layout = super::arena::Layout::new(&plan, chunk);
        let (mut lowered, mut first) = (vec![], vec![]);
        for (index, step) in program.steps.iter().enumerate() {
            step.op.check(&program.tensors, program.scope(index))?;
            first.push(lowered.len());
            let context = Context {
                tensors: &program.tensors,
                slice: &|id| layout.slice(plan.placement(id), program.tensor(id).dtype.size()),
                workspace: plan.workspace(index).map(|placement| layout.slice(placement, 4)),
                caps: &gpu.info.caps,
                place: place(&program, index),
            };
            lowered.extend(lower(&step.op, &context)?);
        }
        first.push(lowered.len());
        // Whatever can be refused has been by now: memory comes last.
        let pipelines: Vec<_> =
            lowered.iter().map(|l| gpu.pipeline(&l.variant, l.buffers.len())).collect::<Result<_>>()?;
        gpu.save_pipelines();
        let arenas = Arenas::new(&gpu, &plan, chunk)?;
        let uniform = uniform_buffer(&gpu, &lowered);
        let bind = |(index, (launch, pipeline)): (usize, (&Launch, ComputePipeline))| {
            let at = (2 * index * UNIFORM_BYTES) as u32;
            let storage = bind_group(&gpu, &arenas.buffers, launch);
            Bound { pipeline, storage, uniforms: [at, at + UNIFORM_BYTES as u32], grid: launch.grid }
        };
        let launches = gpu.caught(
            || "binding tensors".into(),
            || lowered.iter().zip(pipelines).enumerate().map(bind).collect::<Vec<_>>(),
        )?;
        let entry = |binding| BindGroupEntry {
            binding,
            resource: BindingResource::Buffer(BufferBinding {
                buffer: &uniform,
                offset: 0,
                size: BufferSize::new(UNIFORM_BYTES as u64),
            }),
        };
        let uniforms = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("uniforms"),
            layout: &gpu.pipelines.uniforms,
            entries: &[entry(0), entry(1)],
        });
        let readback = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: plan.total_bytes().clamp(256, READ_BYTES) as u64,
            usage: BufferUsages::COPY_DST | BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let belt = StagingBelt::new(gpu.device.clone(), plan.total_bytes().clamp(256, STAGED) as u64);
        let (encoder, indices, profiler) = (None, HashMap::new(), None);
        gpu.check()?;
        Ok(WgpuExecutor {
            gpu,
            program,
            plan,
            arenas,
            launches,
            first,
            uniforms,
            belt,
            encoder,
            readback,
            checked,
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

    /// Keeps a copy of an index tensor.
    fn remember(&mut self, id: TensorId, bytes: &[u8]) {
        let (base, offset) = self.program.base(id);
        if !self.checked.iter().any(|checked| self.program.base(checked.range.id).0 == base) {
            return;
        }
        let len = self.program.tensor(base).shape.len();
        let values = self.indices.entry(base).or_insert_with(|| vec![0; len]);
        let (words, _) = bytes.as_chunks::<4>();
        for (value, word) in values[offset..].iter_mut().zip(words) {
            *value = i32::from_ne_bytes(*word);
        }
    }

    /// Requires that the index tensors of `ops` hold values in range.
    fn check_indices(&self, ops: &Range<usize>) -> Result<()> {
        for Checked { op, range } in self.checked.iter().filter(|checked| ops.contains(&checked.op)) {
            let (base, offset) = self.program.base(range.id);
            // What the host never wrote is zero, which is in range everywhere.
            let Some(values) = self.indices.get(&base) else { continue };
            let desc = self.program.tensor(range.id);
            let values = &values[offset..offset + desc.shape.len()];
            range.check(values, || place(&self.program, *op), &desc.name)?;
        }
        Ok(())
    }

    fn encode(&mut self, ops: Range<usize>) {
        let range = self.first[ops.start]..self.first[ops.end];
        self.encoder();
        let Some(encoder) = &mut self.encoder else { return };
        if let Some(profiler) = &mut self.profiler {
            for op in ops {
                let timestamp_writes = profiler.begin(op);
                let description = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                let mut pass = encoder.begin_compute_pass(&description);
                for launch in &self.launches[self.first[op]..self.first[op + 1]] {
                    launch.encode(&mut pass, &self.uniforms);
                }
            }
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for launch in &self.launches[range] {
            launch.encode(&mut pass, &self.uniforms);
        }
    }

    /// Copies bytes of a buffer to the host.
    fn fetch(&mut self, buffer: usize, offset: usize, out: &mut [u8]) -> Result<()> {
        let (source, target) = (self.arenas.buffers[buffer].clone(), self.readback.clone());
        let bytes = out.len().next_multiple_of(4) as u64;
        self.encoder().copy_buffer_to_buffer(&source, offset as u64, &target, 0, Some(bytes));
        self.submit()?;
        target.map_async(wgpu::MapMode::Read, 0..bytes, |_| {});
        self.gpu.wait()?;
        let name = self.gpu.name();
        let mapped = target.get_mapped_range(0..bytes);
        out.copy_from_slice(&mapped.map_err(|error| Error::device(format!("{name}: {error}")))?[..out.len()]);
        target.unmap();
        Ok(())
    }
}

impl Bound {
    fn encode(&self, pass: &mut wgpu::ComputePass, uniforms: &BindGroup) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.storage, &[]);
        pass.set_bind_group(1, uniforms, &self.uniforms);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Op and layer, for messages.
fn place(program: &Program, index: usize) -> String {
    let (name, scope) = (program.steps[index].op.name(), program.scope(index));
    if scope.is_empty() { name.into() } else { format!("{name} in {scope}") }
}

/// The index tensors of all ops.
///
/// # Errors
/// When an op writes one: values are checked where they enter, on the host.
fn checked(program: &Program) -> Result<Vec<Checked>> {
    let mut all = vec![];
    for (op, step) in program.steps.iter().enumerate() {
        all.extend(step.op.index_ranges(&program.tensors).into_iter().map(|range| Checked { op, range }));
    }
    let written = program.steps.iter().flat_map(|step| step.op.writes()).map(|target| program.base(target.id).0);
    let written: std::collections::HashSet<TensorId> = written.collect();
    match all.iter().find(|checked| written.contains(&program.base(checked.range.id).0)) {
        None => Ok(all),
        Some(Checked { op, range }) => Err(Error::device(format!(
            "{}: {} is written by an op, but on wgpu index tensors must be inputs, so that they can be checked",
            place(program, *op),
            program.tensor(range.id).name
        ))),
    }
}

/// Params and first elements of every launch, [`UNIFORM_BYTES`] each.
fn uniform_buffer(gpu: &Gpu, launches: &[Launch]) -> wgpu::Buffer {
    let mut bytes = vec![0; 2 * UNIFORM_BYTES * launches.len().max(1)];
    for (launch, bytes) in launches.iter().zip(bytes.chunks_mut(2 * UNIFORM_BYTES)) {
        bytes[..launch.params.len()].copy_from_slice(&launch.params);
        for (slice, at) in launch.buffers.iter().zip(bytes[UNIFORM_BYTES..].chunks_mut(4)) {
            at.copy_from_slice(&slice.binding().1.to_ne_bytes());
        }
    }
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("uniforms"),
        size: bytes.len() as u64,
        usage: BufferUsages::UNIFORM | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue.write_buffer(&buffer, 0, &bytes);
    buffer
}

fn bind_group(gpu: &Gpu, buffers: &[wgpu::Buffer], launch: &Launch) -> BindGroup {
    let entries: Vec<_> = launch
        .buffers
        .iter()
        .enumerate()
        .map(|(i, slice)| {
            let (start, _) = slice.binding();
            let bytes = (slice.offset - start + slice.bytes).next_multiple_of(4).max(4);
            let (offset, size) = (start as u64, BufferSize::new(bytes as u64));
            let resource = BindingResource::Buffer(BufferBinding { buffer: &buffers[slice.buffer], offset, size });
            BindGroupEntry { binding: i as u32, resource }
        })
        .collect();
    let layout = gpu.storage_layout(launch.buffers.len());
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
}

impl Executor for WgpuExecutor {
    fn program(&self) -> &Arc<Program> {
        &self.program
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn held_bytes(&self) -> usize {
        self.arenas.held_bytes()
    }
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()> {
        let slice = self.slice(id, bytes.len())?;
        let Some(size) = BufferSize::new(bytes.len() as u64) else { return Ok(()) };
        self.remember(id, bytes);
        let buffer = self.arenas.buffers[slice.buffer].clone();
        if bytes.len() > STAGED {
            // Copies encoded so far come first.
            self.submit()?;
            self.gpu.queue.write_buffer(&buffer, slice.offset as u64, bytes);
        } else {
            self.encoder();
            if let Some(encoder) = &mut self.encoder {
                self.belt.write_buffer(encoder, &buffer, slice.offset as u64, size).copy_from_slice(bytes);
            }
        }
        self.gpu.check()
    }
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()> {
        let slice = self.slice(id, bytes.len())?;
        let piece = self.readback.size() as usize;
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
        self.check_indices(&ops)?;
        // Time stamps fill up: a profiled run goes out in parts.
        let part = self.profiler.as_ref().map_or(usize::MAX, Profiler::capacity);
        let mut start = ops.start;
        while start < ops.end {
            let end = ops.end.min(start.saturating_add(part));
            self.encode(start..end);
            if self.profiler.is_some() {
                self.collect()?;
            }
            start = end;
        }
        self.submit()
    }
    fn sync(&mut self) -> Result<()> {
        self.submit()?;
        self.gpu.wait()
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

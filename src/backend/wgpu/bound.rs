//! Launches with everything they need: pipelines, bind groups, sizes. Also one op alone, on buffers of another wgpu
//! program.

use wgpu::{BindGroup, BindGroupEntry, BindingResource, BufferBinding, BufferSize, BufferUsages, ComputePipeline};

use super::device::Gpu;
use super::pipeline::UNIFORM_BYTES;
use crate::Result;
use crate::backend::lower::{Context, Launch, Slice, lower, workspace_bytes};
use crate::program::{ALIGNMENT, Program};
use crate::tensor::TensorId;

/// A launch with everything it needs but the uniforms.
struct Bound {
    pipeline: ComputePipeline,
    storage: BindGroup,
    uniforms: [u32; 2], // byte offsets of params and first elements
    grid: [u32; 3],
}

/// Launches in order.
pub struct BoundLaunches {
    launches: Vec<Bound>,
    uniforms: BindGroup,
}

/// Compiles what `launches` name.
///
/// # Errors
/// When a kernel's text is wrong or the driver refuses it.
pub fn pipelines(gpu: &Gpu, launches: &[Launch]) -> Result<Vec<ComputePipeline>> {
    let all = launches.iter().map(|launch| gpu.pipeline(&launch.variant, launch.buffers.len())).collect();
    gpu.save_pipelines();
    all
}

impl BoundLaunches {
    /// Binds `launches`, whose slices number `buffers`.
    ///
    /// # Errors
    /// When wgpu refuses, which would be a defect of the lowering.
    pub fn new(
        gpu: &Gpu,
        launches: &[Launch],
        pipelines: Vec<ComputePipeline>,
        buffers: &[wgpu::Buffer],
    ) -> Result<Self> {
        let uniform = uniform_buffer(gpu, launches);
        let bind = |(index, (launch, pipeline)): (usize, (&Launch, ComputePipeline))| {
            let at = (2 * index * UNIFORM_BYTES) as u32;
            let storage = bind_group(gpu, buffers, launch);
            Bound { pipeline, storage, uniforms: [at, at + UNIFORM_BYTES as u32], grid: launch.grid }
        };
        let size = BufferSize::new(UNIFORM_BYTES as u64);
        let entry = |binding| BindGroupEntry {
            binding,
            resource: BindingResource::Buffer(BufferBinding { buffer: &uniform, offset: 0, size }),
        };
        gpu.caught(
            || "binding tensors".into(),
            || BoundLaunches {
                launches: launches.iter().zip(pipelines).enumerate().map(bind).collect(),
                uniforms: gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("uniforms"),
                    layout: &gpu.pipelines.uniforms,
                    entries: &[entry(0), entry(1)],
                }),
            },
        )
    }
    /// Encodes some of the launches.
    pub fn encode(&self, range: std::ops::Range<usize>, pass: &mut wgpu::ComputePass) {
        for launch in &self.launches[range] {
            let [x, y, z] = launch.grid;
            pass.set_pipeline(&launch.pipeline);
            pass.set_bind_group(0, &launch.storage, &[]);
            pass.set_bind_group(1, &self.uniforms, &launch.uniforms);
            pass.dispatch_workgroups(x, y, z);
        }
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
    let entry = |(i, slice): (usize, &Slice)| {
        let (start, _) = slice.binding();
        let bytes = (slice.offset - start + slice.bytes).next_multiple_of(4).max(4);
        let (offset, size) = (start as u64, BufferSize::new(bytes as u64));
        let resource = BindingResource::Buffer(BufferBinding { buffer: &buffers[slice.buffer], offset, size });
        BindGroupEntry { binding: i as u32, resource }
    };
    let entries: Vec<_> = launch.buffers.iter().enumerate().map(entry).collect();
    let layout = gpu.storage_layout(launch.buffers.len());
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
}

/// One op on buffers that are not ours, encoded into a compute pass that is not ours either.
pub struct BoundOp {
    bound: BoundLaunches,
    count: usize,
}

impl BoundOp {
    /// Binds op `index` of `program`; `slice` tells where each of its tensors lies in `buffers`, which need the usage
    /// STORAGE. Index tensors are the caller's affair: what is out of range is clamped, not reported.
    ///
    /// # Errors
    /// When the op cannot run on this adapter; names op, layer, variant and limit.
    pub fn new(
        gpu: &Gpu,
        program: &Program,
        index: usize,
        buffers: &[wgpu::Buffer],
        slice: &dyn Fn(TensorId) -> Slice,
    ) -> Result<Self> {
        let op = &program.steps[index].op;
        op.check(&program.tensors, program.scope(index))?;
        let mut buffers = buffers.to_vec();
        let bytes = workspace_bytes(gpu.info.caps.language, op, program).next_multiple_of(ALIGNMENT);
        let workspace = (bytes > 0).then(|| {
            buffers.push(gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("scratch"),
                size: bytes as u64,
                usage: BufferUsages::STORAGE,
                mapped_at_creation: false,
            }));
            Slice { buffer: buffers.len() - 1, offset: 0, bytes, element: 4 }
        });
        let place = program.place(index);
        let launches =
            lower(op, &Context { tensors: &program.tensors, slice, workspace, caps: &gpu.info.caps, place })?;
        let bound = BoundLaunches::new(gpu, &launches, pipelines(gpu, &launches)?, &buffers)?;
        Ok(BoundOp { bound, count: launches.len() })
    }
    /// Encodes the op.
    pub fn encode(&self, pass: &mut wgpu::ComputePass) {
        self.bound.encode(0..self.count, pass);
    }
}

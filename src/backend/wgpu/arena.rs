//! The plan's arenas as buffers: each in pieces that the adapter can allocate, nothing across a border.

use super::device::Gpu;
use crate::backend::Parameters;
use crate::backend::lower::Slice;
use crate::program::{ALIGNMENT, Placement, Plan, Program};
use crate::tensor::{Role, TensorId};
use crate::{Error, Result};

/// Where every arena's pieces are, without the buffers themselves.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Bytes of a piece.
    chunk: usize,
    /// Number of the first buffer of each arena.
    first: [usize; Role::ALL.len()],
    /// Bytes of every buffer.
    pub sizes: Vec<usize>,
}

impl Layout {
    /// The pieces of a plan made with `chunk`.
    pub fn new(plan: &Plan, chunk: usize) -> Self {
        let (mut first, mut sizes) = ([0; Role::ALL.len()], vec![]);
        for role in Role::ALL {
            first[role as usize] = sizes.len();
            let bytes = plan.arena_bytes(role);
            sizes.extend((0..bytes).step_by(chunk).map(|start| (bytes - start).min(chunk)));
        }
        Layout { chunk, first, sizes }
    }
    /// Bytes of a piece.
    pub fn chunk(&self) -> usize {
        self.chunk
    }
    /// Numbers of the buffers of an arena.
    pub fn buffers(&self, plan: &Plan, role: Role) -> std::ops::Range<usize> {
        let first = self.first[role as usize];
        first..first + plan.arena_bytes(role).div_ceil(self.chunk)
    }
    /// Buffer and offset of a placement; `element` is the size of its elements.
    pub fn slice(&self, placement: Placement, element: usize) -> Slice {
        let Placement { role, offset, bytes } = placement;
        let buffer = self.first[role as usize] + offset / self.chunk;
        Slice { buffer, offset: offset % self.chunk, bytes, element }
    }
}

/// Bytes of a piece on an adapter that allocates at most `buffer_bytes` at once.
pub fn chunk_bytes(buffer_bytes: usize) -> usize {
    super::CHUNK_BYTES.min(buffer_bytes) / ALIGNMENT * ALIGNMENT
}

/// Requires that every tensor and workspace fits a piece.
///
/// # Errors
/// Names the tensor and the limit.
pub fn check_sizes(program: &Program, plan: &Plan, chunk: usize) -> Result<()> {
    let named = program.iter().map(|(id, desc)| (desc.name.as_str(), plan.placement(id).bytes));
    let scratch = (0..program.steps.len()).filter_map(|i| Some((program.steps[i].op.name(), plan.workspace(i)?.bytes)));
    match named.chain(scratch).find(|(_, bytes)| *bytes > chunk) {
        None => Ok(()),
        Some((name, bytes)) => Err(Error::device(format!(
            "{name} has {bytes} bytes, but this adapter allocates at most {chunk} in one buffer (max_buffer_size); use a \
             smaller batch or vocabulary"
        ))),
    }
}

/// All buffers of a program.
pub struct Arenas {
    /// Where everything lies.
    pub layout: Layout,
    /// One buffer a piece.
    pub buffers: Vec<wgpu::Buffer>,
    /// Whose the buffers of parameters are.
    pub parameters: Parameters,
}

impl Arenas {
    /// Allocates what `plan` asks for; zero at first. Buffers of parameters are those of `lender`, whose parameters must
    /// have the same addresses, where there is one.
    ///
    /// # Errors
    /// When the device has not that much memory.
    pub fn new(gpu: &Gpu, plan: &Plan, chunk: usize, lender: Option<&Arenas>) -> Result<Self> {
        let layout = Layout::new(plan, chunk);
        let parameters = if lender.is_some() { Parameters::Borrowed } else { Parameters::Own };
        let lent = lender.map_or(&[][..], |arenas| &arenas.buffers[arenas.layout.buffers(plan, Role::Param)]);
        let (first, total) = (layout.first[Role::Param as usize], parameters.held_bytes(plan));
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffers = gpu.caught(
            || format!("{total} bytes of tensors"),
            || {
                let create = |size: usize| {
                    gpu.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("arena"),
                        size: size as u64,
                        usage,
                        mapped_at_creation: false,
                    })
                };
                let buffer = |(i, size): (usize, &usize)| match i.checked_sub(first).and_then(|i| lent.get(i)) {
                    Some(buffer) => buffer.clone(),
                    None => create(*size),
                };
                layout.sizes.iter().enumerate().map(buffer).collect()
            },
        )?;
        Ok(Arenas { layout, buffers, parameters })
    }
    /// Where a tensor lies.
    pub fn slice(&self, program: &Program, plan: &Plan, id: TensorId) -> Slice {
        self.layout.slice(plan.placement(id), program.tensor(id).dtype.size())
    }
}

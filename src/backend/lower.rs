//! From op to launches, for all GPU backends: which variant, on which bytes, with which sizes, over how many work groups.
//! Plain data: nothing here touches a device. WGSL and PTX kernels of one name have the same keys, buffers, params and
//! grids; what differs is in [`Caps`].

mod elementwise;
mod fused;
mod layer_norm;
mod loss;
mod matmul;
mod movement;
mod rel_attention;

use bytemuck::bytes_of;

pub use fused::{Fused, fuse};

use crate::kernel::params::Params;
use crate::kernel::{Language, Variant};
use crate::op::Op;
use crate::program::{ALIGNMENT, Program};
use crate::tensor::{DType, TensorDesc, TensorId};
use crate::{Error, Result};

/// What kernels may count on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Language of the kernels.
    pub language: Language,
    /// Compute capability of an NVIDIA card.
    pub capability: (u32, u32),
    /// Half-precision storage and arithmetic (SHADER_F16 of WGSL).
    pub f16: bool,
    /// Least and greatest subgroup size, where there are subgroup operations.
    pub subgroups: Option<(u32, u32)>,
    /// Sizes of cooperative matrices that kernels may use: for sums in f32 of products of f32, of f16.
    pub cooperative: [Option<u32>; 2],
    /// Time stamps of compute passes.
    pub timestamps: bool,
    /// Most bytes of one storage binding.
    pub binding_bytes: usize,
    /// Most bytes of one buffer.
    pub buffer_bytes: usize,
    /// Most storage bindings of one kernel.
    pub storage_buffers: usize,
    /// Bytes of work group memory.
    pub workgroup_bytes: usize,
    /// Invocations of a work group.
    pub invocations: u32,
    /// Work groups in each dimension of a launch.
    pub groups: [u32; 3],
    /// Work groups of a launch that keep the device busy, [`FILL`] at most: where one launch of more needs more scratch,
    /// several are made.
    pub fill: usize,
}

/// Compute capability from which on NVIDIA's cards have bf16, copies to shared memory that do not wait, and matrix
/// instructions of 16 x 8 x 16: A100.
pub const AMPERE: (u32, u32) = (8, 0);

/// Work groups that keep every device busy; scratch is planned for launches of this size.
pub const FILL: usize = 2048;

impl Default for Caps {
    /// A plain desktop adapter: what is lowered for it where there is no device.
    fn default() -> Self {
        Caps {
            language: Language::Wgsl,
            capability: (0, 0),
            f16: true,
            subgroups: None,
            cooperative: [None; 2],
            timestamps: false,
            binding_bytes: 1 << 30,
            buffer_bytes: 1 << 30,
            storage_buffers: 16,
            workgroup_bytes: 32 << 10,
            invocations: 1024,
            groups: [65535; 3],
            fill: FILL,
        }
    }
}

/// Bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Number of the buffer in the list that belongs to the lowering.
    pub buffer: usize,
    /// First byte.
    pub offset: usize, // bytes
    /// Length.
    pub bytes: usize,
    /// Size of an element, which the offset is a multiple of.
    pub element: usize, // bytes
}

impl Slice {
    /// Where its binding begins, and its first element in there.
    pub fn binding(&self) -> (usize, u32) {
        let start = self.offset / ALIGNMENT * ALIGNMENT;
        (start, ((self.offset - start) / self.element) as u32)
    }
}

/// One kernel on its operands.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel.
    pub variant: Variant,
    /// A slice for each buffer of the template's header.
    pub buffers: Vec<Slice>,
    /// Bytes of the params struct.
    pub params: Vec<u8>,
    /// Work groups.
    pub grid: [u32; 3],
}

/// Everything that lowering one op depends on.
pub struct Context<'a> {
    /// Descriptions by id.
    pub tensors: &'a [TensorDesc],
    /// Where each tensor lies.
    pub slice: &'a dyn Fn(TensorId) -> Slice,
    /// The op's scratch, of the size that [`workspace_bytes`] asked for.
    pub workspace: Option<Slice>,
    /// The adapter.
    pub caps: &'a Caps,
    /// Op and layer, for messages.
    pub place: String,
}

/// Bytes of scratch that `op` needs for kernels in `language`.
pub fn workspace_bytes(language: Language, op: &Op, program: &Program) -> usize {
    let len = |id: TensorId| program.tensor(id).shape.len();
    let rows = |id: TensorId, d: TensorId| len(id) / len(d).max(1);
    let is_half = |id: TensorId| program.tensor(id).dtype.is_half();
    match op {
        Op::GatherRowsGrad(op) => movement::gather_rows_grad_workspace(len(op.ids)),
        Op::MixRowsGrad(op) => {
            op.drow.map_or(0, |drow| movement::column_sums_workspace(rows(op.dout, drow.id), len(drow.id)))
        }
        Op::ColumnSum(op) => movement::column_sums_workspace(rows(op.x, op.out.id), len(op.out.id)),
        Op::LayerNormGrad(op) => layer_norm::layer_norm_grad_workspace(rows(op.dout, op.gamma), len(op.gamma)),
        Op::SoftmaxCrossEntropy(op) => loss::row_loss_workspace(len(op.labels)),
        Op::ElementLoss(op) => loss::row_loss_workspace(len(op.x)),
        Op::SquareNorm(_) => {
            // Neighbours share a launch, which needs the scratch of all.
            let all = program.steps.iter().filter_map(|step| match &step.op {
                Op::SquareNorm(op) => Some(len(op.x).next_multiple_of(ALIGNMENT)),
                _ => None,
            });
            loss::square_norm_workspace(all.sum())
        }
        Op::MatMul(op) if language == Language::Ptx => {
            let [operands, result] = [op.a, op.out.id].map(|id| program.tensor(id).dtype);
            matmul::workspace(op, operands, result)
        }
        Op::RelAttention(op) => rel_attention::forward_workspace(language, op, is_half(op.k)),
        Op::RelAttentionGrad(op) => rel_attention::backward_workspace(language, op, is_half(op.forward.k)),
        _ => 0,
    }
}

/// The launches of `op`.
///
/// # Errors
/// When the op, its element types or its sizes cannot run on this adapter; names op, layer and limit.
pub fn lower(op: &Op, c: &Context) -> Result<Vec<Launch>> {
    match op {
        Op::Fill(op) => movement::fill(op, c),
        Op::Cast(op) => movement::cast(op, c),
        Op::CopyBlocks(op) => movement::copy_blocks(op, c),
        Op::GatherRows(op) => movement::gather_rows(op, c),
        Op::GatherRowsGrad(op) => movement::gather_rows_grad(op, c),
        Op::MixRows(op) => movement::mix_rows(op, c),
        Op::MixRowsGrad(op) => movement::mix_rows_grad(op, c),
        Op::WeightedRows(op) => movement::weighted_rows(op, c),
        Op::WeightedRowsGrad(op) => movement::weighted_rows_grad(op, c),
        Op::PositionEncoding(op) => elementwise::position_encoding(op, c),
        Op::Dropout(op) => elementwise::dropout(op, c),
        Op::Activation(op) => elementwise::activation(op, c),
        Op::ActivationGrad(op) => elementwise::activation_grad(op, c),
        Op::MatMul(op) => matmul::matmul(op, c),
        Op::ColumnSum(op) => matmul::column_sum(op, c),
        Op::LayerNorm(op) => layer_norm::layer_norm(op, c),
        Op::LayerNormGrad(op) => layer_norm::layer_norm_grad(op, c),
        Op::Softmax(op) => loss::softmax(op, c),
        Op::SoftmaxGrad(op) => loss::softmax_grad(op, c),
        Op::SoftmaxCrossEntropy(op) => loss::softmax_cross_entropy(op, c),
        Op::ElementLoss(op) => loss::element_loss(op, c),
        Op::SquareNorm(op) => loss::square_norm(op, c),
        Op::Adam(op) => elementwise::adam(op, c),
        Op::RelAttention(op) => rel_attention::forward(op, c),
        Op::RelAttentionGrad(op) => rel_attention::backward(op, c),
    }
}

impl Context<'_> {
    /// Description of a tensor.
    pub fn desc(&self, id: TensorId) -> &TensorDesc {
        &self.tensors[id.index()]
    }
    /// Adds what WGSL kernels with sums over a work group ask: whether there are subgroups.
    pub fn reducing(&self, variant: Variant) -> Variant {
        match self.caps.language {
            Language::Wgsl => variant.flag("subgroups", self.caps.subgroups.is_some()),
            Language::Ptx => variant,
        }
    }
    /// Elements of a tensor.
    pub fn len(&self, id: TensorId) -> usize {
        self.desc(id).shape.len()
    }
    /// Size of the last dimension.
    pub fn last(&self, id: TensorId) -> usize {
        self.desc(id).shape.last()
    }
    /// Template value of a tensor's element type.
    ///
    /// # Errors
    /// When this adapter has no such numbers.
    pub fn dtype(&self, id: TensorId) -> Result<&'static str> {
        let place = &self.place;
        match self.desc(id).dtype {
            DType::F16 | DType::Bf16 => Err(Error::device(format!(
                "{place}: half precision is for operands of products; build the program in f32"
            ))),
            DType::F32 => Ok("f32"),
            DType::I32 => Ok("i32"),
            DType::U32 => Ok("u32"),
            other => {
                Err(Error::device(format!("{place}: {} has no {other}; build the program in f32", self.caps.language)))
            }
        }
    }
    /// Template value of the half precision of a tensor, for kernels that take nothing else.
    ///
    /// # Errors
    /// When this device has no such kernels.
    pub fn half(&self, id: TensorId) -> Result<&'static str> {
        let (place, dtype) = (&self.place, self.desc(id).dtype);
        let (major, minor) = self.caps.capability;
        match dtype {
            DType::F16 if self.caps.language == Language::Wgsl && !self.caps.f16 => {
                Err(Error::device(format!("{place}: this adapter lacks SHADER_F16, which float16 needs; use f32")))
            }
            DType::F16 => Ok("f16"),
            _ if self.caps.language == Language::Wgsl => Err(Error::device(format!(
                "{place}: WGSL has no {dtype}; use float16 where the adapter has SHADER_F16, or f32"
            ))),
            _ if self.caps.capability < AMPERE => Err(Error::device(format!(
                "{place}: {dtype} needs compute capability 8.0 (A100, RTX 30) or newer, this card has {major}.{minor}; \
                 use float16, which every card has, or f32"
            ))),
            _ => Ok("bf16"),
        }
    }
    /// Template value of a tensor's element type, for kernels that take halves too.
    ///
    /// # Errors
    /// When this device has no such numbers.
    pub fn element(&self, id: TensorId) -> Result<&'static str> {
        if self.desc(id).dtype.is_half() { self.half(id) } else { self.dtype(id) }
    }
    /// One launch. `buffers` follows the template's header; operands that the op leaves out are `None`.
    ///
    /// # Errors
    /// When an operand is bigger than a binding may be, or the kernel has more buffers than the adapter binds.
    pub fn launch<P: Params>(
        &self,
        variant: Variant,
        params: &P,
        buffers: &[Option<TensorId>],
        grid: [u32; 3],
    ) -> Result<Launch> {
        let slices: Vec<_> = buffers.iter().map(|id| id.map(|id| (self.slice)(id))).collect();
        self.launch_slices(variant, params, &slices, grid)
    }
    /// As [`Self::launch`], on slices: where scratch is among the operands.
    ///
    /// # Errors
    /// Those of `launch`.
    pub fn launch_slices<P: Params>(
        &self,
        variant: Variant,
        params: &P,
        buffers: &[Option<Slice>],
        grid: [u32; 3],
    ) -> Result<Launch> {
        let (place, caps) = (&self.place, self.caps);
        // An operand without elements has no bytes to bind.
        let buffers: Vec<_> = buffers.iter().map(|slice| slice.filter(|slice| slice.bytes > 0)).collect();
        debug_assert!(P::TEMPLATES.contains(&variant.template));
        if buffers.len() > caps.storage_buffers {
            let (needed, most) = (buffers.len(), caps.storage_buffers);
            return Err(Error::device(format!(
                "{place}: kernel {variant} binds {needed} buffers, but this adapter allows {most} \
                 (max_storage_buffers_per_shader_stage)"
            )));
        }
        for slice in buffers.iter().flatten() {
            let bytes = slice.offset - slice.binding().0 + slice.bytes;
            if bytes > caps.binding_bytes {
                let most = caps.binding_bytes;
                return Err(Error::device(format!(
                    "{place}: kernel {variant} needs an operand of {bytes} bytes, but this adapter binds at most {most} \
                     (max_storage_buffer_binding_size); use a smaller batch or vocabulary"
                )));
            }
        }
        // What is left out is never touched, but every binding of the layout must be bound to something.
        let any = buffers.iter().flatten().next().copied();
        let Some(any) = any else { return Err(Error::device(format!("{place}: kernel {variant} has no operand"))) };
        let buffers = buffers.iter().map(|slice| slice.unwrap_or(any)).collect();
        Ok(Launch { variant, buffers, params: bytes_of(params).to_vec(), grid })
    }
    /// First element of a tensor in its binding.
    pub fn first(&self, id: TensorId) -> usize {
        (self.slice)(id).binding().1 as usize
    }
    /// `len` elements of the op's scratch from `first` on, words of 4 bytes.
    ///
    /// # Errors
    /// When the plan has given less.
    pub fn scratch(&self, first: usize, len: usize) -> Result<Slice> {
        match self.workspace {
            Some(all) if 4 * (first + len) <= all.bytes => {
                Ok(Slice { offset: all.offset + 4 * first, bytes: 4 * len, element: 4, ..all })
            }
            _ => Err(Error::plan(format!("{}: the plan has no scratch of {len} words", self.place))),
        }
    }
    /// A grid as it is.
    ///
    /// # Errors
    /// When it has more groups than fit.
    pub fn fits(&self, grid: [u32; 3]) -> Result<[u32; 3]> {
        if grid.iter().zip(&self.caps.groups).all(|(groups, most)| groups <= most) {
            return Ok(grid);
        }
        let most = self.caps.groups;
        Err(Error::device(format!(
            "{}: a launch of {grid:?} work groups exceeds the {most:?} that this device takes; use a smaller batch",
            self.place
        )))
    }
    /// A grid of `work` invocations or pieces in groups of `per_group`, folded to two dimensions for `lib/flat.wgsl`.
    ///
    /// # Errors
    /// When there are more groups than fit.
    pub fn flat(&self, work: usize, per_group: usize) -> Result<[u32; 3]> {
        let groups = work.div_ceil(per_group).max(1);
        let [most_x, most_y, _] = self.caps.groups.map(|most| most as usize);
        let x = groups.min(most_x);
        let y = groups.div_ceil(x);
        if y > most_y {
            return Err(Error::device(format!("{}: {work} elements are too many for one launch", self.place)));
        }
        Ok([x as u32, y as u32, 1])
    }
}

//! What a program knows about a tensor: name, shape, element type, role. Bytes live in a backend.

use std::fmt;

/// A tensor of one program; an index, so it is `Copy` and has no lifetime.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) u32);

impl TensorId {
    /// Position in [`crate::program::Program::tensors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
impl fmt::Debug for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE double precision; CPU only, for gradient checks.
    F64,
    /// IEEE half precision.
    F16,
    /// The upper half of an `F32`.
    Bf16,
    /// Signed 32-bit integer: token ids, positions, ranks.
    I32,
    /// Unsigned 32-bit integer: mask words, random keys.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
    /// True for floating-point types of 16 bits.
    pub fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::Bf16)
    }
    /// True for floating-point types.
    pub fn is_float(self) -> bool {
        !matches!(self, DType::I32 | DType::U32)
    }
}
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::U32 => "u32",
        })
    }
}

/// Up to four dimensions, row-major, the last one contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }
    /// True when a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Size of the last dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }
    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }
}
impl<const N: usize> From<[usize; N]> for Shape {
    fn from(from: [usize; N]) -> Self {
        const { assert!(N <= 4, "a tensor has at most four dimensions") }
        let mut dims = [1; 4];
        dims[..N].copy_from_slice(&from);
        Shape { dims, rank: N as u8 }
    }
}
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.dims().iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}
impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a tensor is for; decides its arena and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Trained weights.
    Param,
    /// Gradients of the loss, one per trained parameter.
    Grad,
    /// First and second moments of the optimiser.
    OptState,
    /// Hidden states of earlier segments, carried from step to step.
    Memory,
    /// Written by the host before a run.
    Input,
    /// Read by the host after a run.
    Output,
    /// Lives from its first write to its last read inside one run.
    Activation,
}

impl Role {
    /// Every role, in arena order.
    pub const ALL: [Role; 7] =
        [Role::Param, Role::Grad, Role::OptState, Role::Memory, Role::Input, Role::Output, Role::Activation];
    /// True when the tensor keeps its bytes between runs.
    pub fn is_persistent(self) -> bool {
        self != Role::Activation
    }
}
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Param => "parameters",
            Role::Grad => "gradients",
            Role::OptState => "optimiser",
            Role::Memory => "memories",
            Role::Input => "inputs",
            Role::Output => "outputs",
            Role::Activation => "activations",
        })
    }
}

/// A contiguous part of another tensor under a shape of its own: rows of a batch, a reshape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The tensor whose bytes these are; never itself a view.
    pub base: TensorId,
    /// First element of the view in `base`.
    pub offset: usize, // elements
}

/// Everything a program knows about one tensor.
#[derive(Clone, Debug)]
pub struct TensorDesc {
    /// Scope and name, for example `layer.3/q`; parameters carry their checkpoint name.
    pub name: String,
    /// Dimensions.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// What it is for.
    pub role: Role,
    /// Set when the bytes belong to another tensor.
    pub view: Option<View>,
}

impl TensorDesc {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.len() * self.dtype.size()
    }
}

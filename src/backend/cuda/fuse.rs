//! Ops that come in a long row, one for each parameter, as one launch over all of them: roundings of weights to half
//! precision, squares for the global norm, Adam.
//!
//! A table on the machine says where the tensors are and which piece of which each block works on. It is written when the
//! program is taken, so that a run only launches.

use std::ops::Range;

use bytemuck::{Pod, Zeroable, bytes_of, cast_slice};

use super::executor::Kernels;
use super::{Call, Driver};
use crate::kernel::params::{self, Params, size};
use crate::kernel::{Value, Variant};
use crate::op::{Adam, Cast, Op, SquareNorm, Target, Write};
use crate::program::Program;
use crate::tensor::{DType, Role, TensorId};
use crate::{Error, Result};

/// Threads of a block.
const WG: u32 = 256;
/// Elements of a block of `adam_all`.
const ADAM_PIECE: usize = 8 * WG as usize;
/// Elements of a block of `cast_all`.
const CAST_PIECE: usize = 8 * WG as usize;
/// Elements of a block of `square_norm_all`.
const NORM_PIECE: usize = 64 * WG as usize;

/// Ops that are launched together.
pub struct Fused {
    /// They are neighbours.
    pub ops: Range<usize>,
    /// What is launched for them.
    pub calls: Vec<Call>,
}

/// A tensor's line in the table of `adam_all`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdamEntry {
    param: u64,
    grad: u64,
    m: u64,
    v: u64,
    n: u32,
    grad_scale: f32,
    lr_scale: f32,
    decays: u32,
}

/// A tensor's line in the table of `square_norm_all`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormEntry {
    x: u64,
    n: u32,
    nothing: u32,
}

/// A tensor's line in the table of `cast_all`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CastEntry {
    src: u64,
    out: u64,
    n: u32,
    nothing: u32,
}

/// A machine with its kernels, and where tensors are.
pub struct Fuse<'a, D> {
    pub program: &'a Program,
    pub driver: &'a mut D,
    pub kernels: &'a mut Kernels,
    pub address: &'a dyn Fn(TensorId) -> u64,
}

impl<D: Driver> Fuse<'_, D> {
    /// All rows of the program.
    ///
    /// # Errors
    /// When the machine lacks memory or cannot compile a kernel.
    pub fn all(&mut self) -> Result<Vec<Fused>> {
        rows(self.program).into_iter().map(|ops| self.row(ops)).collect()
    }
    fn row(&mut self, ops: Range<usize>) -> Result<Fused> {
        let program = self.program;
        let steps = &program.steps[ops.clone()];
        macro_rules! all {
            ($Op:ident) => {
                steps.iter().filter_map(|step| if let Op::$Op(op) = &step.op { Some(op) } else { None }).collect()
            };
        }
        let (casts, norms, adams): (Vec<&Cast>, Vec<&SquareNorm>, Vec<&Adam>) =
            (all!(Cast), all!(SquareNorm), all!(Adam));
        let calls = match (casts.first(), norms.first(), adams.first()) {
            (Some(first), _, _) => vec![self.casts(self.program.tensor(first.out).dtype, &casts)?],
            (_, Some(first), _) => self.square_norms(first.out, &norms)?,
            (_, _, Some(first)) => vec![self.adams(first, &adams)?],
            _ => vec![],
        };
        Ok(Fused { ops, calls })
    }
    fn len(&self, id: TensorId) -> usize {
        self.program.tensor(id).shape.len()
    }
    /// Memory that holds `bytes`.
    fn table(&mut self, name: &str, bytes: &[u8]) -> Result<u64> {
        let address = self.driver.alloc(name, bytes.len(), false)?;
        self.driver.write(address, bytes)?;
        Ok(address)
    }
    fn launch(&mut self, variant: &Variant, params: &impl Params, blocks: u32, addresses: Vec<u64>) -> Result<Call> {
        let kernel = self.kernels.load(self.driver, variant)?;
        Ok(Call::Kernel(kernel.launch([blocks, 1, 1], bytes_of(params).to_vec(), addresses)))
    }

    fn casts(&mut self, half: DType, ops: &[&Cast]) -> Result<Call> {
        let mut entries = vec![];
        for op in ops {
            let [src, out] = [op.src, op.out].map(|id| (self.address)(id));
            entries.push(CastEntry { src, out, n: size(self.len(op.out))?, nothing: 0 });
        }
        let pieces = pieces(ops.iter().map(|op| self.len(op.out)), CAST_PIECE)?;
        let blocks = size(pieces.len())?;
        let variant =
            Variant::new("cast_all").name("dtype", if half == DType::F16 { "f16" } else { "bf16" }).int("wg", WG);
        let addresses = vec![
            self.table("table of roundings", cast_slice(&entries))?,
            self.table("pieces of roundings", cast_slice(&pieces))?,
        ];
        self.launch(&variant, &params::CastAll { pieces: blocks }, blocks, addresses)
    }

    fn adams(&mut self, first: &Adam, ops: &[&Adam]) -> Result<Call> {
        let mut entries = vec![];
        for op in ops {
            let [param, grad, m, v] = [op.param, op.grad, op.m, op.v].map(|id| (self.address)(id));
            let n = size(self.len(op.param))?;
            let (grad_scale, lr_scale, decays) = (op.grad_scale, op.lr_scale, u32::from(op.decays));
            entries.push(AdamEntry { param, grad, m, v, n, grad_scale, lr_scale, decays });
        }
        let pieces = pieces(ops.iter().map(|op| self.len(op.param)), ADAM_PIECE)?;
        let blocks = size(pieces.len())?;
        let variant = Variant::new("adam_all").int("wg", WG);
        let tables =
            [self.table("table of Adam", cast_slice(&entries))?, self.table("pieces of Adam", cast_slice(&pieces))?];
        let addresses = tables.into_iter().chain([first.square_norm, first.hyper].map(|id| (self.address)(id)));
        let addresses = addresses.collect();
        self.launch(&variant, &params::AdamAll { pieces: blocks }, blocks, addresses)
    }

    fn square_norms(&mut self, out: Target, ops: &[&SquareNorm]) -> Result<Vec<Call>> {
        let mut entries = vec![];
        for op in ops {
            entries.push(NormEntry { x: (self.address)(op.x), n: size(self.len(op.x))?, nothing: 0 });
        }
        let pieces = pieces(ops.iter().map(|op| self.len(op.x)), NORM_PIECE)?;
        let blocks = size(pieces.len())?;
        let parts = self.driver.alloc("parts of the norm", 4 * pieces.len(), false)?;
        let tables = [
            self.table("table of the norm", cast_slice(&entries))?,
            self.table("pieces of the norm", cast_slice(&pieces))?,
        ];
        let addresses = tables.into_iter().chain([parts]).collect();
        let variant = Variant::new("square_norm_all").int("wg", WG);
        let squares = self.launch(&variant, &params::SquareNormAll { pieces: blocks }, blocks, addresses)?;
        let variant = Variant {
            template: "sum",
            keys: vec![
                ("source", Value::Name("f32")),
                ("dtype", Value::Name("f32")),
                ("of", Value::Name("x")),
                ("add", Value::Flag(out.write == Write::Add)),
                ("wg", Value::Int(WG)),
            ],
        };
        // `sum` has no weights here, but every parameter needs a value.
        let addresses = vec![parts, parts, (self.address)(out.id)];
        let sum = self.launch(&variant, &params::Sum { n: blocks, part: blocks }, 1, addresses)?;
        Ok(vec![squares, sum])
    }
}

/// Which tensor each block works on, and from which element on.
fn pieces(lens: impl Iterator<Item = usize>, piece: usize) -> Result<Vec<[u32; 2]>> {
    let mut pieces = vec![];
    for (tensor, len) in lens.enumerate() {
        for first in (0..len).step_by(piece) {
            pieces.push([size(tensor)?, size(first)?]);
        }
    }
    if pieces.len() > i32::MAX as usize {
        return Err(Error::device("the parameters are too many for one launch"));
    }
    Ok(pieces)
}

/// Neighbours of two or more that can be one launch.
fn rows(program: &Program) -> Vec<Range<usize>> {
    let f32s = |ids: &[TensorId]| ids.iter().all(|id| program.tensor(*id).dtype == DType::F32);
    // Weights alone: they keep their place, while a result may lie where the source of an earlier rounding was.
    let weight =
        |id: TensorId| program.tensor(program.base(id).0).role == Role::Param && program.base(id).1.is_multiple_of(4);
    let rounds = |op: &Cast| weight(op.src) && program.base(op.out).1.is_multiple_of(4) && f32s(&[op.src]);
    let alone = |op: &Op| match op {
        Op::Cast(op) => rounds(op),
        Op::SquareNorm(op) => f32s(&[op.x, op.out.id]),
        Op::Adam(op) => f32s(&[op.param, op.grad, op.m, op.v, op.square_norm, op.hyper]),
        _ => false,
    };
    let follows = |a: &Op, b: &Op| match (a, b) {
        (Op::Cast(a), Op::Cast(b)) => program.tensor(a.out).dtype == program.tensor(b.out).dtype,
        (Op::SquareNorm(a), Op::SquareNorm(b)) => b.out == Target::add(a.out.id),
        (Op::Adam(a), Op::Adam(b)) => (a.square_norm, a.hyper) == (b.square_norm, b.hyper),
        _ => false,
    };
    let mut rows: Vec<Range<usize>> = vec![];
    for (i, step) in program.steps.iter().enumerate().filter(|(_, step)| alone(&step.op)) {
        match rows.last_mut() {
            Some(row) if row.end == i && follows(&program.steps[i - 1].op, &step.op) => row.end = i + 1,
            _ => rows.push(i..i + 1),
        }
    }
    rows.retain(|row| row.len() > 1);
    // A row is of one phase.
    rows.retain(|row| program.phases.iter().any(|p| p.ops.start <= row.start && row.end <= p.ops.end));
    rows
}

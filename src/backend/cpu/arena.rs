//! Memory of the CPU backend: one allocation per role, and checked access to the tensors of one op.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;

use crate::backend::Parameters;
use crate::op::IndexRange;
use crate::program::{ALIGNMENT, Placement, Plan, Program};
use crate::tensor::{DType, Role, TensorId};
use crate::{Error, Result};

/// A Rust type that tensors hold.
pub trait Element: Pod {
    /// Its name in programs.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}

/// Bytes of all arenas of this process. The system gives memory when it is touched, so it does not count all of them yet.
pub static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes of one role, zero at first.
struct Arena {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an arena owns its bytes, which are plain data; nothing in it belongs to a thread.
unsafe impl Send for Arena {}
// SAFETY: an arena that several [`Arenas`] have is written by none of them, see [`Access::claim`].
unsafe impl Sync for Arena {}

impl Arena {
    fn new(role: Role, bytes: usize) -> Result<Self> {
        let refused =
            || Error::device(format!("cannot allocate {bytes} bytes of memory for {role}; use a smaller batch"));
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| refused())?;
        if bytes == 0 {
            return Ok(Arena { start: NonNull::<Aligned>::dangling().cast(), layout });
        }
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        HELD.fetch_add(bytes, Ordering::Relaxed);
        Ok(Arena { start, layout })
    }
}
/// Only its alignment is used: that of a pointer to no bytes.
#[repr(align(256))]
struct Aligned;
const _: () = assert!(align_of::<Aligned>() == ALIGNMENT);

impl Drop for Arena {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `new` with this layout, and freed only here.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
            HELD.fetch_sub(self.layout.size(), Ordering::Relaxed);
        }
    }
}

/// All tensors of a program.
pub struct Arenas {
    arenas: Vec<Arc<Arena>>, // by role; only that of parameters is ever another's too
    parameters: Parameters,
    program: Arc<Program>,
    plan: Plan,
    /// What the current op has been given; kept to reuse its memory.
    given: Vec<Given>,
}

/// Bytes handed out to the current op.
struct Given {
    range: Range<usize>, // addresses
    written: bool,
}

impl Arenas {
    /// Allocates what `plan` asks for.
    ///
    /// # Errors
    /// When the system has not that much memory.
    pub fn new(program: Arc<Program>, plan: Plan) -> Result<Self> {
        Self::with(program, plan, None)
    }
    /// Allocates what `plan` asks for, but takes the parameters of `self`, which nothing may write any more.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn lend(&mut self, program: Arc<Program>, plan: Plan) -> Result<Self> {
        let arenas = Self::with(program, plan, Some(&self.arenas[Role::Param as usize]))?;
        self.parameters = self.parameters.lend();
        Ok(arenas)
    }
    fn with(program: Arc<Program>, plan: Plan, lent: Option<&Arc<Arena>>) -> Result<Self> {
        let arena = |&role: &Role| match lent {
            Some(arena) if role == Role::Param => Ok(arena.clone()),
            _ => Arena::new(role, plan.arena_bytes(role)).map(Arc::new),
        };
        let arenas = Role::ALL.iter().map(arena).collect::<Result<_>>()?;
        let parameters = if lent.is_some() { Parameters::Borrowed } else { Parameters::Own };
        Ok(Arenas { arenas, parameters, program, plan, given: vec![] })
    }
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
    /// Sum of its own allocations.
    pub fn held_bytes(&self) -> usize {
        self.parameters.held_bytes(&self.plan)
    }
    /// Access for op `index` of the program.
    pub fn op(&mut self, index: usize) -> Access<'_> {
        self.given.clear();
        let Arenas { arenas, parameters, program, plan, given } = self;
        Access { arenas, parameters: *parameters, program, plan, given, op: Some(index) }
    }
    /// The bytes of a tensor.
    ///
    /// # Errors
    /// When the tensor is not of this program, or no op touches it.
    pub fn bytes(&self, id: TensorId) -> Result<&[u8]> {
        let bytes = self.host(&mut vec![]).bytes(id, false)?;
        // SAFETY: inside the arena and initialised, as `bytes` says; nobody writes while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }
    /// The bytes of a tensor, to write.
    ///
    /// # Errors
    /// Those of [`Self::bytes`].
    pub fn bytes_mut(&mut self, id: TensorId) -> Result<&mut [u8]> {
        let bytes = self.host(&mut vec![]).bytes(id, true)?;
        // SAFETY: as above; `self` is borrowed exclusively as long as the answer lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr().cast(), bytes.len()) })
    }
    /// Finds bytes for the host; whoever makes a slice of them says why that is sound.
    fn host<'a>(&'a self, given: &'a mut Vec<Given>) -> Access<'a> {
        let Arenas { arenas, parameters, program, plan, .. } = self;
        Access { arenas, parameters: *parameters, program, plan, given, op: None }
    }
}

/// Hands out the tensors of one op as slices; a slice to write never overlaps another one.
pub struct Access<'a> {
    arenas: &'a [Arc<Arena>],
    parameters: Parameters,
    program: &'a Program,
    plan: &'a Plan,
    given: &'a mut Vec<Given>,
    op: Option<usize>,
}

impl<'a> Access<'a> {
    /// Op and layer, for messages.
    pub fn place(&self) -> String {
        let Some(index) = self.op else { return "transfer".into() };
        let (name, scope) = (self.program.steps[index].op.name(), self.program.scope(index));
        if scope.is_empty() { name.into() } else { format!("{name} in {scope}") }
    }
    /// Element type of a tensor.
    pub fn dtype(&self, id: TensorId) -> DType {
        self.program.tensor(id).dtype
    }
    /// Number of elements of a tensor.
    pub fn len(&self, id: TensorId) -> usize {
        self.program.tensor(id).shape.len()
    }
    fn name(&self, id: TensorId) -> &'a str {
        &self.program.tensor(id).name
    }

    /// A tensor to read.
    ///
    /// # Errors
    /// When its type is not `T`, or the op also writes it.
    pub fn read<T: Element>(&mut self, id: TensorId) -> Result<&'a [T]> {
        self.expect_dtype::<T>(id)?;
        let bytes = self.bytes(id, false)?;
        // SAFETY: the bytes are initialised, lie in the arena, which lives and stays borrowed for 'a, begin at a multiple
        // of the element size (see `bytes`), and every bit pattern is a `T`. `bytes` has checked that this op is given
        // no slice to write that overlaps.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), bytes.len() / size_of::<T>()) })
    }
    /// Hands a tensor to `visit`; afterwards the op may write it.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn visit<T: Element>(&mut self, id: TensorId, visit: impl FnOnce(&[T])) -> Result<()> {
        visit(self.read(id)?);
        // The slice is gone.
        self.given.pop();
        Ok(())
    }
    /// As [`Self::read`]; `None` where there is no tensor.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read_some<T: Element>(&mut self, id: Option<TensorId>) -> Result<Option<&'a [T]>> {
        id.map(|id| self.read(id)).transpose()
    }
    /// As [`Self::read`]; `None` where `id` is the very same memory as `out`: the op works in place.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read_unless<T: Element>(&mut self, id: TensorId, out: TensorId) -> Result<Option<&'a [T]>> {
        if self.plan.placement(id) == self.plan.placement(out) { Ok(None) } else { self.read(id).map(Some) }
    }
    /// A tensor to write, with what it held before.
    ///
    /// # Errors
    /// When its type is not `T`, or the op has been given an overlapping tensor.
    pub fn write<T: Element>(&mut self, id: TensorId) -> Result<&'a mut [T]> {
        self.expect_dtype::<T>(id)?;
        let bytes = self.bytes(id, true)?;
        // SAFETY: as in `read`; `bytes` has checked that this op is given no other slice that overlaps.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr().cast::<T>(), bytes.len() / size_of::<T>()) })
    }
    /// As [`Self::write`]; `None` where there is no tensor.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_some<T: Element>(&mut self, id: Option<TensorId>) -> Result<Option<&'a mut [T]>> {
        id.map(|id| self.write(id)).transpose()
    }
    /// The op's scratch, in whole elements; holds anything.
    ///
    /// # Errors
    /// When the plan has no room for it.
    pub fn workspace<T: Element>(&mut self) -> Result<&'a mut [T]> {
        let Some(placement) = self.op.and_then(|op| self.plan.workspace(op)) else { return Ok(&mut []) };
        let bytes = self.claim(placement, true, "its scratch")?;
        // SAFETY: as in `write`; offsets of workspaces are multiples of ALIGNMENT.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr().cast::<T>(), bytes.len() / size_of::<T>()) })
    }

    /// Requires an index tensor to hold values in range.
    ///
    /// # Errors
    /// Names op, layer, tensor, index, value and limits.
    pub fn check_range(&mut self, range: &IndexRange) -> Result<()> {
        let values = self.read(range.id)?;
        range.check(values, || self.place(), self.name(range.id))
    }

    fn expect_dtype<T: Element>(&self, id: TensorId) -> Result<()> {
        let desc = self.program.tensor(id);
        if desc.dtype == T::DTYPE {
            return Ok(());
        }
        Err(Error::dtype(self.place(), desc.name.clone(), T::DTYPE, desc.dtype))
    }
    /// The bytes of a tensor: initialised, inside its arena, at a multiple of its element size.
    fn bytes(&mut self, id: TensorId, written: bool) -> Result<NonNull<[u8]>> {
        let Some(desc) = self.program.tensors.get(id.index()) else {
            let what = format!("there is no tensor {id:?} in this program of {}", self.program.tensors.len());
            return Err(Error::plan(what));
        };
        let placement = self.plan.placement(id);
        if placement.bytes != desc.bytes() {
            return Err(Error::plan(format!("{}: {} has no memory, since no op touches it", self.place(), desc.name)));
        }
        if !placement.offset.is_multiple_of(desc.dtype.size()) {
            return Err(Error::plan(format!("{}: {} is not aligned to its elements", self.place(), desc.name)));
        }
        self.claim(placement, written, self.name(id))
    }
    fn claim(&mut self, placement: Placement, written: bool, what: &str) -> Result<NonNull<[u8]>> {
        let arena = &self.arenas[placement.role as usize];
        let Placement { offset, bytes, role } = placement;
        if written && role == Role::Param && self.parameters != Parameters::Own {
            let place = self.place();
            return Err(Error::plan(format!("{place}: {what} is shared with other programs, so nothing may write it")));
        }
        if offset > arena.layout.size() || bytes > arena.layout.size() - offset {
            return Err(Error::plan(format!("{}: {what} does not lie inside the arena of {role}", self.place())));
        }
        // SAFETY: the offset lies inside the allocation, or at the end of it.
        let start = unsafe { arena.start.add(offset) };
        let range = start.addr().get()..start.addr().get() + bytes;
        let overlaps = |g: &Given| g.range.start < range.end && range.start < g.range.end && (written || g.written);
        if self.given.iter().any(overlaps) {
            let place = self.place();
            return Err(Error::plan(format!(
                "{place}: {what} shares memory with another tensor of the op, which this op cannot do; \
                 give it a tensor of its own"
            )));
        }
        self.given.push(Given { range, written });
        Ok(NonNull::slice_from_raw_parts(start, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Dropout, DropoutSite};
    use crate::program::Builder;

    fn arenas() -> (Arenas, [TensorId; 4]) {
        let mut b = Builder::new(DType::F32);
        let [x, y] = ["x", "y"].map(|name| b.input(name, [8]));
        let key = b.tensor("key", [3], DType::U32, Role::Input);
        let tail = b.view(x, 4, [4]).unwrap();
        b.push(Dropout { x, out: y, dropout: DropoutSite { key, site: 0, rate: 0.5, lead: 1 } }).unwrap();
        let program = Arc::new(b.finish().unwrap());
        let plan = Plan::new(&program, &|_| 0);
        (Arenas::new(program, plan).unwrap(), [x, y, key, tail])
    }

    #[test]
    fn memory_is_zero_aligned_and_as_planned() {
        let (mut arenas, [x, y, ..]) = arenas();
        assert_eq!(arenas.held_bytes(), arenas.plan().total_bytes());
        for id in [x, y] {
            let bytes = arenas.bytes_mut(id).unwrap();
            assert!(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert_eq!(bytes, [0; 32]);
        }
    }

    #[test]
    fn what_is_written_is_given_once() {
        let (mut arenas, [x, y, _, tail]) = arenas();
        let mut access = arenas.op(0);
        let (a, b) = (access.read::<f32>(x).unwrap(), access.read::<f32>(tail).unwrap());
        assert_eq!(a[4..].as_ptr(), b.as_ptr());
        access.write::<f32>(y).unwrap()[7] = 1.0;
        for error in [
            access.write::<f32>(y).err(),
            access.read::<f32>(y).err(),
            access.write::<f32>(tail).err(),
            arenas.op(0).read::<i32>(x).err(),
        ] {
            let text = error.expect("refused").to_string();
            assert!(text.starts_with("dropout: "), "{text}");
        }
        assert!(arenas.op(0).read_unless::<f32>(y, y).unwrap().is_none());
        assert_eq!(arenas.op(0).read_unless::<f32>(y, x).unwrap().unwrap()[7], 1.0);
    }
}

//! An entry as the machine runs it: a flat list of instructions over numbered registers.

use crate::lanes::{Compare, Map};
use crate::mma::{Input, Shape};

/// Number of a register. Constants and special registers are registers that are filled before a warp starts.
pub(crate) type Reg = u16;
/// Number of a predicate.
pub(crate) type Pred = u16;

/// No register, no predicate; the `_` of PTX.
pub(crate) const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    /// Global or shared, decided by the address.
    Generic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// `(what memory holds, operand b, operand c) -> what memory holds then`
pub(crate) type Update = fn(u64, u64, u64) -> u64;

/// What a comparison is joined with: how, the predicate, and whether that is negated.
pub(crate) type Join = (fn(u32, u32) -> u32, Pred, bool);

/// An address operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub base: Reg,
    pub offset: i64,
}

/// Where A of a warpgroup's product is.
#[derive(Clone, Debug)]
pub(crate) enum Left {
    Registers([Reg; 4]),
    /// In shared memory: register of the descriptor; transposed is M-major.
    Shared {
        descriptor: Reg,
        transposed: bool,
    },
}

/// `wgmma.mma_async`, m64 and k16: D in f32 = A B, plus D where `accumulates` holds.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub n: usize,
    pub input: Input,
    pub d: Box<[Reg]>,
    pub a: Left,
    /// Descriptor of B; transposed is N-major.
    pub b: Reg,
    pub b_transposed: bool,
    pub accumulates: Pred,
    /// One of A and B is taken with the other sign.
    pub negative: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Arithmetic, logic, conversions, moves.
    Map {
        f: Map,
        d: Reg,
        s: [Reg; 3],
    },
    /// `lop3`: the truth table is `table`.
    Lop3 {
        d: Reg,
        s: [Reg; 3],
        table: u8,
    },
    /// `bfi`: inserts the low `s[3]` bits of `s[0]` into `s[1]` at `s[2]`.
    Bfi {
        d: Reg,
        s: [Reg; 4],
    },
    /// `setp`: `p = a ? b [join c]`, `q = !(a ? b) [join c]`.
    SetP {
        f: Compare,
        p: Pred,
        q: Pred,
        a: Reg,
        b: Reg,
        join: Option<Join>,
    },
    /// `set`: all ones or 1.0 where the comparison holds.
    Set {
        f: Compare,
        d: Reg,
        a: Reg,
        b: Reg,
        yes: u64,
    },
    SelP {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
        negated: bool,
    },
    /// Predicate logic.
    Logic {
        f: fn(u32, u32) -> u32,
        d: Pred,
        a: Pred,
        b: Pred,
    },
    /// `mov.b32 d, {a, b}`: `bits` each.
    Pack {
        d: Reg,
        s: Box<[Reg]>,
        bits: u32,
    },
    Unpack {
        d: Box<[Reg]>,
        s: Reg,
        bits: u32,
    },
    /// `extend`: bytes of the register that a signed value fills; 0 where it is not extended.
    LoadParam {
        d: Box<[Reg]>,
        offset: usize,
        bytes: usize,
        extend: usize,
    },
    /// `strong`: volatile or relaxed; such accesses do not race with each other.
    Load {
        space: Space,
        d: Box<[Reg]>,
        address: Address,
        bytes: usize,
        extend: usize,
        strong: bool,
    },
    Store {
        space: Space,
        s: Box<[Reg]>,
        address: Address,
        bytes: usize,
        strong: bool,
    },
    /// `atom` and `red`; several operands are a vector `red`.
    Atomic {
        space: Space,
        f: Update,
        d: Reg,
        address: Address,
        b: Box<[Reg]>,
        c: Reg,
        bytes: usize,
    },
    Branch {
        target: u32,
    },
    Exit,
    /// `bar.sync`, `bar.arrive`.
    Barrier {
        id: Reg,
        count: Reg,
        waits: bool,
    },
    /// `bar.warp.sync`
    WarpBarrier {
        mask: Reg,
    },
    /// `membar`, `fence`: counted, and nothing else.
    Fence,
    Shuffle {
        mode: ShuffleMode,
        d: Reg,
        p: Pred,
        a: Reg,
        b: Reg,
        c: Reg,
        mask: Reg,
    },
    Vote {
        vote: Vote,
        d: u16,
        a: Pred,
        negated: bool,
        mask: Reg,
    },
    /// `match.any`: the lanes with an equal value.
    MatchAny {
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    /// `match.all`: the whole mask where all values are equal, else 0.
    MatchAll {
        d: Reg,
        p: Pred,
        a: Reg,
        mask: Reg,
    },
    Redux {
        f: Update,
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    /// `elect.sync`: one lane is chosen.
    Elect {
        d: Reg,
        p: Pred,
        mask: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    LdMatrix {
        d: Box<[Reg]>,
        address: Address,
        transposed: bool,
    },
    StMatrix {
        s: Box<[Reg]>,
        address: Address,
        transposed: bool,
    },
    MovMatrix {
        d: Reg,
        a: Reg,
    },
    Mma {
        shape: Shape,
        d: Box<[Reg]>,
        a: Box<[Reg]>,
        b: Box<[Reg]>,
        c: Box<[Reg]>,
    },
    /// `wgmma.mma_async`
    Product(Box<Product>),
    /// `wgmma.fence`
    ProductFence,
    /// `wgmma.commit_group`
    ProductCommit,
    /// `wgmma.wait_group`
    ProductWait {
        pending: usize,
    },
    /// `setmaxnreg`: nothing but an instruction of the whole warpgroup.
    SetRegisters,
    /// `mbarrier.init`
    MBarrierInit {
        space: Space,
        address: Address,
        count: Reg,
    },
    /// `mbarrier.inval`
    MBarrierInvalidate {
        space: Space,
        address: Address,
    },
    /// `mbarrier.arrive`, and `mbarrier.expect_tx` (`arrives` is false). `state` receives the phase.
    MBarrierArrive {
        space: Space,
        state: Reg,
        address: Address,
        arrives: bool,
        count: Reg,
        bytes: Reg,
    },
    /// `mbarrier.try_wait`, `mbarrier.test_wait`, by parity or by the phase that `arrive` gave.
    MBarrierWait {
        space: Space,
        p: Pred,
        address: Address,
        phase: Reg,
        parity: bool,
    },
    /// `fence.mbarrier_init`
    MBarrierFence,
    /// `cp.async.bulk` from global to shared memory.
    CopyBulk {
        to: Address,
        from: Address,
        bytes: Reg,
        barrier: Address,
    },
    /// `fence.proxy.async`, where it covers shared memory.
    ProxyFence,
    CopyAsync {
        to: Address,
        from: Address,
        bytes: usize,
        size: Reg,
    },
    CommitGroup,
    /// Waits until at most `pending` groups of the thread are in flight.
    WaitGroup {
        pending: usize,
    },
    /// `cp.async.wait_all`
    WaitAll,
}

#[derive(Clone, Debug)]
pub(crate) struct Instr {
    pub op: Op,
    pub guard: Pred,
    pub negated: bool,
    pub line: u32,
}

/// Registers that the hardware fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    NWarpId,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicShared,
    TotalShared,
}

/// A parameter of an entry.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub name: String,
    pub offset: usize,
    pub bytes: usize,
}

/// A decoded entry.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Instr>,
    /// Mnemonic of each instruction, as it is counted.
    pub(crate) mnemonics: Vec<String>,
    pub(crate) params: Vec<Parameter>,
    pub(crate) param_bytes: usize,
    pub(crate) registers: Vec<String>,
    pub(crate) predicates: Vec<String>,
    pub(crate) constants: Vec<(Reg, u64)>,
    pub(crate) specials: Vec<(Reg, Special)>,
    pub(crate) static_shared: usize,
    pub(crate) max_threads: Option<[u32; 3]>,
    pub(crate) required_threads: Option<[u32; 3]>,
    /// Bytes of the narrowest memory access: what races are tracked by.
    pub(crate) granule: usize,
    /// It has `wgmma` instructions.
    pub(crate) products: bool,
    /// Lines of the whole module, for messages.
    pub(crate) source: std::sync::Arc<[String]>,
}

impl Kernel {
    /// Name of the entry.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Bytes of shared memory declared with a size.
    pub fn static_shared_bytes(&self) -> usize {
        self.static_shared
    }
    /// Names of the parameters and their sizes in bytes, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, usize)> {
        self.params.iter().map(|p| (p.name.as_str(), p.bytes))
    }
}

impl Kernel {
    /// Stands in for a warp's kernel while the warp runs.
    pub(crate) fn empty() -> Self {
        Kernel {
            name: String::new(),
            code: vec![],
            mnemonics: vec![],
            params: vec![],
            param_bytes: 0,
            registers: vec![],
            predicates: vec![],
            constants: vec![],
            specials: vec![],
            static_shared: 0,
            max_threads: None,
            required_threads: None,
            granule: 4,
            products: false,
            source: std::sync::Arc::new([]),
        }
    }
}

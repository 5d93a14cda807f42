//! What a module says, before anything is resolved.

/// Scalar and packed types of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Type {
    B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64,
    F16, F16x2, Bf16, Bf16x2, Tf32, F32, F64, Pred,
}

impl Type {
    /// Reads `f32`, without the dot.
    #[rustfmt::skip]
    pub fn parse(word: &str) -> Option<Type> {
        use Type::*;
        Some(match word {
            "b8" => B8, "b16" => B16, "b32" => B32, "b64" => B64, "b128" => B128,
            "u8" => U8, "u16" => U16, "u32" => U32, "u64" => U64,
            "s8" => S8, "s16" => S16, "s32" => S32, "s64" => S64,
            "f16" => F16, "f16x2" => F16x2, "bf16" => Bf16, "bf16x2" => Bf16x2, "tf32" => Tf32,
            "f32" => F32, "f64" => F64, "pred" => Pred,
            _ => return None,
        })
    }
    /// Bytes of one value; 0 for predicates.
    #[rustfmt::skip]
    pub fn size(self) -> usize {
        use Type::*;
        match self {
            B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 | Tf32 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
            Pred => 0,
        }
    }
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }
    pub fn is_float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F64)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct File {
    pub version: (u32, u32),
    pub target: String,
    pub shared: Vec<Shared>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub name: String,
    pub align: usize,
    /// `None`: the size is given at launch.
    pub bytes: Option<usize>,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub align: usize,
    pub bytes: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub params: Vec<Param>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub body: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Open,
    Close,
    Register { kind: Type, name: String, count: Option<u32>, line: u32 },
    Shared(Shared),
    Label(String, u32),
    Instruction(Instruction),
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub line: u32,
    /// Predicate name, and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// `ld`, `global`, `f32`
    pub opcode: Vec<String>,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    /// `name + 16`
    Sum(String, i64),
    Int(i64),
    Float32(u32),
    Float64(u64),
    /// `!%p`
    Not(String),
    /// `%r1|%p1`
    Pair(String, String),
    Vector(Vec<Operand>),
    /// `[base + offset]`, base a name or an absolute address.
    Address(Option<String>, i64),
}

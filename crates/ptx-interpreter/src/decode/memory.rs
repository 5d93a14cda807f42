//! Loads, stores, atomics and asynchronous copies.

use half::{bf16, f16};

use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::kernel::{NONE, Op, Reg, Space, Update};
use crate::lanes::{Half, Lane};
use crate::syntax::{Operand, Type};

/// Hints that change speed and nothing else.
const HINTS: [&str; 17] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "weak",
    "L1::evict_normal",
    "L1::evict_last",
    "L1::evict_first",
    "L1::no_allocate",
    "L1::evict_unchanged",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];
pub(super) const SCOPES: [&str; 4] = ["cta", "cluster", "gpu", "sys"];

fn hints(m: &mut Modifiers) {
    while m.take_any(&HINTS).is_some() {}
}

pub(super) fn space(m: &mut Modifiers) -> Space {
    match m.take_any(&["global", "shared", "shared::cta"]) {
        Some("global") => Space::Global,
        Some(_) => Space::Shared,
        None => Space::Generic,
    }
}

impl Decoder {
    pub(super) fn memory(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Option<Op>> {
        Ok(Some(match name {
            "ld" if m.take("param") => self.load_param(m, operands)?,
            "ld" | "ldu" => {
                let (space, kind, width, strong) = self.access_parts(m)?;
                let [d, address] = self.count(operands)?;
                let extend = self.extension(d, kind);
                let d = self.vector(d, width, |this, one| this.wide_target(one, kind))?;
                let address = self.address(address)?;
                Op::Load { space, d, address, bytes: kind.size(), extend, strong }
            }
            "st" => {
                let (space, kind, width, strong) = self.access_parts(m)?;
                let [address, s] = self.count(operands)?;
                let s = self.vector(s, width, |this, one| this.wide_source(one, kind))?;
                Op::Store { space, s, address: self.address(address)?, bytes: kind.size(), strong }
            }
            "atom" | "red" => self.atomic(name, m, operands)?,
            "cp" => self.copy(m, operands)?,
            "fence" if m.take("proxy") => {
                if !m.take("async") {
                    return Err(m.unknown());
                }
                if m.take("global") {
                    Op::Fence
                } else {
                    m.take_any(&["shared::cta", "shared::cluster"]);
                    Op::ProxyFence
                }
            }
            "fence" if m.take("mbarrier_init") => {
                m.parts.clear();
                Op::MBarrierFence
            }
            "membar" | "fence" => {
                m.parts.clear();
                Op::Fence
            }
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                m.parts.clear();
                Op::Fence
            }
            _ => return Ok(None),
        }))
    }

    fn load_param(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let kind = m.last_type()?;
        let width = width(m);
        let [d, address] = self.count(operands)?;
        let Operand::Address(Some(name), start) = address else {
            return self.wrong("ld.param needs [name + constant]");
        };
        let Some(param) = self.kernel.params.iter().find(|p| p.name == *name) else {
            return self
                .wrong(format!("{name} is no parameter; addresses of parameters in registers are not supported"));
        };
        let (from, bytes) = (param.offset, kind.size() * width);
        let start = usize::try_from(*start).unwrap_or(usize::MAX);
        if start.saturating_add(bytes) > param.bytes {
            return self.wrong(format!(
                "bytes {start} to {} of {name} are read, it has {}",
                start + bytes,
                param.bytes
            ));
        }
        if !start.is_multiple_of(bytes) {
            return self.wrong(format!("offset {start} in {name} is no multiple of the {bytes} bytes read"));
        }
        let extend = self.extension(d, kind);
        let d = self.vector(d, width, |this, one| this.wide_target(one, kind))?;
        Ok(Op::LoadParam { d, offset: from + start, bytes: kind.size(), extend })
    }

    fn access_parts(&mut self, m: &mut Modifiers) -> Result<(Space, Type, usize, bool)> {
        let kind = m.last_type()?;
        hints(m);
        let strong = m.take_any(&["volatile", "relaxed"]).is_some();
        if strong {
            m.take_any(&SCOPES);
        }
        let parts = (space(m), kind, width(m), strong);
        self.access(kind.size());
        Ok(parts)
    }
    /// Bytes of the registers that signed values are extended to.
    fn extension(&self, operand: &Operand, kind: Type) -> usize {
        let sizes = self.elements(operand).iter().filter_map(|one| self.register_bytes(one));
        if kind.is_signed() { sizes.max().unwrap_or(0) } else { 0 }
    }
    fn vector(
        &mut self,
        operand: &Operand,
        width: usize,
        one: impl Fn(&mut Self, &Operand) -> Result<Reg>,
    ) -> Result<Box<[Reg]>> {
        let elements = self.elements(operand);
        if elements.len() != width {
            return self.wrong(format!("expected {width} elements, got {}", elements.len()));
        }
        elements.iter().map(|e| one(self, e)).collect()
    }

    fn atomic(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let kind = m.last_type()?;
        hints(m);
        m.take("relaxed");
        m.take_any(&SCOPES);
        m.take("noftz");
        let (space, width) = (space(m), width(m));
        let operation = m.first();
        let f = update(operation, kind).ok_or_else(|| m.unknown())?;
        let (d, rest) = if name == "atom" {
            let [d, rest @ ..] = operands else { return self.wrong("atom needs a destination") };
            (self.target(d, kind)?, rest)
        } else {
            (NONE, operands)
        };
        let expected = if operation == "cas" { 3 } else { 2 };
        if rest.len() != expected || width > 1 && name == "atom" {
            return self.wrong(format!("expected {expected} operands beside the destination, got {}", rest.len()));
        }
        let address = self.address(&rest[0])?;
        let b = self.vector(&rest[1], width, |this, one| this.source(one, kind))?;
        let c = if expected == 3 { self.source(&rest[2], kind)? } else { NONE };
        self.access(kind.size());
        Ok(Op::Atomic { space, f, d, address, b, c, bytes: kind.size() })
    }

    /// `cp.async`
    fn copy(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        if !m.take("async") {
            return Err(m.unknown());
        }
        if m.take("bulk") {
            return self.copy_bulk(m, operands);
        }
        if m.take("commit_group") {
            return Ok(Op::CommitGroup);
        }
        if m.take("wait_all") {
            return Ok(Op::WaitAll);
        }
        if m.take("wait_group") {
            let [pending] = self.count(operands)?;
            return Ok(Op::WaitGroup { pending: self.immediate(pending)?.max(0) as usize });
        }
        let only16 = m.take("cg");
        if !(only16 || m.take("ca")) || !(m.take("shared") || m.take("shared::cta")) || !m.take("global") {
            return Err(m.unknown());
        }
        hints(m);
        let [to, from, bytes, size @ ..] = operands else { return self.wrong("cp.async needs three operands") };
        let bytes = self.immediate(bytes)? as usize;
        if !matches!((bytes, only16), (16, _) | (4 | 8, false)) {
            return self.wrong(format!("cp.async copies 4, 8 or 16 bytes (.cg: 16), not {bytes}"));
        }
        let size = match size {
            [] => NONE,
            [size] => self.source(size, Type::U32)?,
            _ => return self.wrong("cp.async has at most four operands here"),
        };
        Ok(Op::CopyAsync { to: self.address(to)?, from: self.address(from)?, bytes, size })
    }
}

fn width(m: &mut Modifiers) -> usize {
    match m.take_any(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    }
}

/// What `atom.operation` does to memory.
fn update(operation: &str, kind: Type) -> Option<Update> {
    macro_rules! on {
        ($t:ty, |$a:ident, $b:ident| $e:expr) => {{
            fn update(a: u64, b: u64, _: u64) -> u64 {
                let ($a, $b) = (<$t>::of(a), <$t>::of(b));
                Lane::bits($e)
            }
            Some(update as Update)
        }};
    }
    fn pairs<T: Half>(a: [T; 2], b: [T; 2]) -> [T; 2] {
        [0, 1].map(|i| T::round(a[i].wide() + b[i].wide()))
    }
    match (operation, kind) {
        ("add", Type::U32 | Type::S32) => on!(u32, |a, b| a.wrapping_add(b)),
        ("add", Type::U64) => on!(u64, |a, b| a.wrapping_add(b)),
        ("add", Type::F32) => on!(f32, |a, b| a + b),
        ("add", Type::F64) => on!(f64, |a, b| a + b),
        ("add", Type::F16) => on!(f16, |a, b| f16::round(a.wide() + b.wide())),
        ("add", Type::Bf16) => on!(bf16, |a, b| bf16::round(a.wide() + b.wide())),
        ("add", Type::F16x2) => on!([f16; 2], |a, b| pairs(a, b)),
        ("add", Type::Bf16x2) => on!([bf16; 2], |a, b| pairs(a, b)),
        ("min", Type::U32) => on!(u32, |a, b| a.min(b)),
        ("max", Type::U32) => on!(u32, |a, b| a.max(b)),
        ("min", Type::S32) => on!(i32, |a, b| a.min(b)),
        ("max", Type::S32) => on!(i32, |a, b| a.max(b)),
        ("min", Type::U64) => on!(u64, |a, b| a.min(b)),
        ("max", Type::U64) => on!(u64, |a, b| a.max(b)),
        ("min", Type::S64) => on!(i64, |a, b| a.min(b)),
        ("max", Type::S64) => on!(i64, |a, b| a.max(b)),
        ("and", Type::B32 | Type::B64) => on!(u64, |a, b| a & b),
        ("or", Type::B32 | Type::B64) => on!(u64, |a, b| a | b),
        ("xor", Type::B32 | Type::B64) => on!(u64, |a, b| a ^ b),
        ("exch", Type::B32 | Type::B64) => on!(u64, |_a, b| b),
        ("cas", Type::B32 | Type::B64) => Some(|a, b, c| if a == b { c } else { a }),
        ("inc", Type::U32) => on!(u32, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", Type::U32) => on!(u32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        _ => None,
    }
}

/// What `redux.sync.operation` does; the same functions.
pub(super) fn reduction(operation: &str, kind: Type) -> Option<Update> {
    match (operation, kind) {
        ("add" | "min" | "max", Type::U32 | Type::S32) => update(operation, kind),
        ("and" | "or" | "xor", Type::B32) => update(operation, kind),
        _ => None,
    }
}

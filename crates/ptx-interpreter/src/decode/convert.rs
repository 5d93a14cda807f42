//! `cvt` and `cvta`.

use half::{bf16, f16};

use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::float::{flush, to_tf32};
use crate::kernel::Op;
use crate::lanes::{Half, Map, map};
use crate::memory::SHARED_WINDOW;
use crate::syntax::{Operand, Type};

const ROUNDINGS: [&str; 9] = ["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"];

impl Decoder {
    pub(super) fn conversion(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let from = m.last_type()?;
        if name == "cvta" {
            let to = m.take("to");
            let shared = m.take("shared") || m.take("shared::cta");
            if !shared && !m.take("global") {
                return Err(m.unknown());
            }
            let f = match (shared, to) {
                (false, _) => map!(u64, |a| a),
                (true, true) => map!(u64, |a| a.wrapping_sub(SHARED_WINDOW)),
                (true, false) => map!(u64, |a| a.wrapping_add(SHARED_WINDOW)),
            };
            return self.mapped(f, from, &[from], operands);
        }
        let to = m.last_type()?;
        let rounding = m.take_any(&ROUNDINGS).unwrap_or("");
        let (ftz, saturate) = (m.take("ftz"), m.take("sat"));
        if matches!(to, Type::F16x2 | Type::Bf16x2) && from == Type::F32 {
            // The first source becomes the high half.
            let f = match (to, rounding) {
                (Type::F16x2, "rn") => map!(f32, |a, b| [f16::from_f32(b), f16::from_f32(a)]),
                (Type::Bf16x2, "rn") => map!(f32, |a, b| [bf16::from_f32(b), bf16::from_f32(a)]),
                (Type::F16x2, "rz") => map!(f32, |a, b| [toward_zero(b), toward_zero(a)]),
                _ => return Err(m.unknown()),
            };
            return self.mapped(f, to, &[from, from], operands);
        }
        let f = match (from.is_float(), to.is_float(), rounding) {
            (true, ..) => from_float(to, from, rounding, ftz, saturate),
            (false, true, "rn") | (false, false, "") => from_integer(to, from),
            _ => None,
        };
        let f = f.filter(|_| !saturate || to == Type::F32 && from == Type::F32).ok_or_else(|| m.unknown())?;
        let [d, a] = self.count(operands)?;
        let zero = self.constant(0)?;
        let s = [self.wide_source(a, from)?, zero, zero];
        // Bytes are extended to 16 bits, the narrowest register.
        let d = match to {
            Type::S8 => self.target(d, Type::S16)?,
            Type::U8 => self.wide_target(d, to)?,
            _ => self.target(d, to)?,
        };
        Ok(Op::Map { f, d, s })
    }
}

fn toward_zero(x: f32) -> f16 {
    let near = f16::from_f32(x);
    if near.is_finite() && near.to_f32().abs() > x.abs() || near.is_infinite() && x.is_finite() {
        return f16::from_bits(near.to_bits() - 1);
    }
    near
}

/// NaN becomes 0 in 32 bits, and the highest bit in 64.
fn wide_integer<T>(x: f64, to: impl Fn(f64) -> T, nan: T) -> T {
    if x.is_nan() { nan } else { to(x) }
}

fn from_float(to: Type, from: Type, rounding: &str, ftz: bool, saturate: bool) -> Option<Map> {
    macro_rules! integer {
        ($t:ty, $wide:expr, $round:expr) => {
            match to {
                Type::U16 => Some(map!($t, |a| $round($wide(a)) as u16)),
                Type::S16 => Some(map!($t, |a| $round($wide(a)) as i16)),
                Type::U32 => Some(map!($t, |a| $round($wide(a)) as u32)),
                Type::S32 => Some(map!($t, |a| $round($wide(a)) as i32)),
                Type::U64 => Some(map!($t, |a| wide_integer($round($wide(a)), |x| x as u64, 1 << 63))),
                Type::S64 => Some(map!($t, |a| wide_integer($round($wide(a)), |x| x as i64, i64::MIN))),
                _ => None,
            }
        };
    }
    macro_rules! rounded {
        ($t:ty, $wide:expr) => {
            match rounding {
                "rni" => integer!($t, $wide, f64::round_ties_even),
                "rzi" => integer!($t, $wide, f64::trunc),
                "rmi" => integer!($t, $wide, f64::floor),
                "rpi" => integer!($t, $wide, f64::ceil),
                _ => None,
            }
        };
    }
    if !to.is_float() {
        return match from {
            Type::F32 => rounded!(f32, f64::from),
            Type::F64 => rounded!(f64, f64::from),
            Type::F16 => rounded!(f16, f16::to_f64),
            Type::Bf16 => rounded!(bf16, bf16::to_f64),
            _ => None,
        };
    }
    match (to, from, rounding) {
        (Type::F32, Type::F16, "") => Some(map!(f16, |a| a.to_f32())),
        (Type::F32, Type::Bf16, "") => Some(map!(bf16, |a| a.to_f32())),
        (Type::F16, Type::F32, "rn") => Some(map!(f32, |a| f16::from_f32(a))),
        (Type::F16, Type::F32, "rz") => Some(map!(f32, |a| toward_zero(a))),
        (Type::Bf16, Type::F32, "rn") => Some(map!(f32, |a| bf16::from_f32(a))),
        (Type::Tf32, Type::F32, "rna") => Some(map!(f32, |a| to_tf32(a))),
        (Type::F64, Type::F32, "") => Some(map!(f32, |a| f64::from(a))),
        (Type::F32, Type::F64, "rn") => Some(map!(f64, |a| a as f32)),
        (Type::F16, Type::F64, "rn") => Some(map!(f64, |a| f16::round(a))),
        (Type::F32, Type::F32, "") if saturate => Some(map!(f32, |a| if a > 0.0 { a.min(1.0) } else { 0.0 })),
        (Type::F32, Type::F32, "") if ftz => Some(map!(f32, |a| flush(a))),
        (Type::F32, Type::F32, "rni") => Some(map!(f32, |a| a.round_ties_even())),
        (Type::F32, Type::F32, "rzi") => Some(map!(f32, |a| a.trunc())),
        (Type::F32, Type::F32, "rmi") => Some(map!(f32, |a| a.floor())),
        (Type::F32, Type::F32, "rpi") => Some(map!(f32, |a| a.ceil())),
        _ => None,
    }
}

fn from_integer(to: Type, from: Type) -> Option<Map> {
    macro_rules! onto {
        ($t:ty) => {
            match to {
                Type::U8 => Some(map!($t, |a| a as u8)),
                Type::S8 => Some(map!($t, |a| a as i8 as i16)),
                Type::U16 => Some(map!($t, |a| a as u16)),
                Type::S16 => Some(map!($t, |a| a as i16)),
                Type::U32 => Some(map!($t, |a| a as u32)),
                Type::S32 => Some(map!($t, |a| a as i32)),
                Type::U64 => Some(map!($t, |a| a as u64)),
                Type::S64 => Some(map!($t, |a| a as i64)),
                Type::F32 => Some(map!($t, |a| a as f32)),
                Type::F64 => Some(map!($t, |a| a as f64)),
                Type::F16 => Some(map!($t, |a| f16::from_f64(a as f64))),
                _ => None,
            }
        };
    }
    match from {
        Type::U8 => onto!(u8),
        Type::S8 => onto!(i8),
        Type::U16 => onto!(u16),
        Type::S16 => onto!(i16),
        Type::U32 => onto!(u32),
        Type::S32 => onto!(i32),
        Type::U64 => onto!(u64),
        Type::S64 => onto!(i64),
        _ => None,
    }
}

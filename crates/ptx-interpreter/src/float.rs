//! Floating-point functions of PTX.
//!
//! The `.approx` functions are modelled by the exact function, rounded once: the hardware's ex2, lg2, rcp, rsqrt and sqrt
//! are within 2 units in the last place of that (PTX ISA, "Floating Point Instructions"), sin and cos within 2^-20.5 of
//! one near zero, tanh.approx.f32 within 2^-11 relative. Results that must hold on a card need tolerances that allow for it.

/// Subnormal numbers become zero, as `.ftz` wants it.
pub(crate) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// A wide function, rounded to f32.
pub(crate) fn through(x: f32, f: impl Fn(f64) -> f64) -> f32 {
    f(f64::from(x)) as f32
}

/// `min` of PTX: a number wins over NaN, -0 is less than +0.
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a == b { if a.is_sign_negative() { a } else { b } } else { a.min(b) }
}
/// `max` of PTX.
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a == b { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}
/// `min.NaN`
pub(crate) fn min_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { min(a, b) }
}
/// `max.NaN`
pub(crate) fn max_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { max(a, b) }
}

/// To tf32: 10 bits of mantissa, ties away from zero.
pub(crate) fn to_tf32(x: f32) -> f32 {
    if x.is_finite() { f32::from_bits((x.to_bits().wrapping_add(0x1000)) & !0x1fff) } else { x }
}
/// What a tensor core reads of an f32 operand: the low 13 bits are ignored.
pub(crate) fn tf32_part(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits & !0x1fff))
}

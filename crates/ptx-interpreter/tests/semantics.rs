//! Each scalar and packed instruction against its definition in the PTX ISA, case by case.

mod common;

use common::run;
use ptx_interpreter::ptxas;

/// Instruction on `%d, %a, %b, %c`; their bits; rows of a, b, c and the result.
type Case = (&'static str, [u32; 4], &'static [([u64; 3], u64)]);

const fn f(x: f32) -> u64 {
    x.to_bits() as u64
}
const fn d(x: f64) -> u64 {
    x.to_bits()
}
const fn s(x: i32) -> u64 {
    x as u32 as u64
}
const fn l(x: i64) -> u64 {
    x as u64
}
/// Two halves, low first.
const fn p(low: u64, high: u64) -> u64 {
    low | high << 16
}
const NAN: u64 = 0x7fc0_0000;
const INF: f32 = f32::INFINITY;
const TINY: u64 = 1; // the smallest subnormal
// Halves.
const H1: u64 = 0x3c00; // 1
const H2: u64 = 0x4000; // 2
const H3: u64 = 0x4200; // 3
const B1: u64 = 0x3f80;
const B2: u64 = 0x4000;
const B3: u64 = 0x4040;

const W: [u32; 4] = [32; 4];
const Q: [u32; 4] = [64; 4];
const H: [u32; 4] = [16; 4];

const CASES: &[Case] = &[
    // Integers.
    ("add.u32 %d, %a, %b;", W, &[([1, 2, 0], 3), ([0xffff_ffff, 1, 0], 0)]),
    ("add.s32 %d, %a, -7;", W, &[([s(5), 0, 0], s(-2))]),
    ("add.u64 %d, %a, %b;", Q, &[([0xffff_ffff, 1, 0], 0x1_0000_0000), ([u64::MAX, 2, 0], 1)]),
    ("add.u16 %d, %a, %b;", H, &[([0xffff, 2, 0], 1)]),
    ("sub.s32 %d, %a, %b;", W, &[([3, 5, 0], s(-2))]),
    ("mul.lo.u32 %d, %a, %b;", W, &[([0x1_0001, 0x1_0001, 0], 0x2_0001)]),
    ("mul.lo.s32 %d, %a, %b;", W, &[([s(-3), 7, 0], s(-21))]),
    ("mul.hi.u32 %d, %a, %b;", W, &[([0xffff_ffff, 0xffff_ffff, 0], 0xffff_fffe)]),
    ("mul.hi.s32 %d, %a, %b;", W, &[([s(-1), s(1), 0], s(-1)), ([s(i32::MIN), s(i32::MIN), 0], 0x4000_0000)]),
    ("mul.hi.u64 %d, %a, %b;", Q, &[([u64::MAX, u64::MAX, 0], u64::MAX - 1)]),
    ("mul.wide.u32 %d, %a, %b;", [64, 32, 32, 32], &[([0xffff_ffff, 2, 0], 0x1_ffff_fffe)]),
    ("mul.wide.s32 %d, %a, %b;", [64, 32, 32, 32], &[([s(-2), 3, 0], l(-6))]),
    ("mul.wide.u16 %d, %a, %b;", [32, 16, 16, 32], &[([0xffff, 0xffff, 0], 0xfffe_0001)]),
    ("mad.lo.u32 %d, %a, %b, %c;", W, &[([3, 4, 5], 17), ([0x8000_0000, 2, 1], 1)]),
    ("mad.lo.s32 %d, %a, %b, %c;", W, &[([s(-3), 4, 5], s(-7))]),
    ("mad.wide.u32 %d, %a, %b, %c;", [64, 32, 32, 64], &[([0xffff_ffff, 4, 1], 0x3_ffff_fffd)]),
    ("mad.wide.s32 %d, %a, %b, %c;", [64, 32, 32, 64], &[([s(-1), 4, 16], 12)]),
    ("mad.hi.u32 %d, %a, %b, %c;", W, &[([0x8000_0000, 4, 5], 7)]),
    ("div.u32 %d, %a, %b;", W, &[([17, 5, 0], 3), ([0xffff_ffff, 2, 0], 0x7fff_ffff)]),
    ("div.s32 %d, %a, %b;", W, &[([s(-17), 5, 0], s(-3))]),
    ("rem.u32 %d, %a, %b;", W, &[([17, 5, 0], 2)]),
    ("rem.s32 %d, %a, %b;", W, &[([s(-17), 5, 0], s(-2))]),
    ("div.u64 %d, %a, %b;", Q, &[([1 << 40, 3, 0], (1 << 40) / 3)]),
    ("min.s32 %d, %a, %b;", W, &[([s(-1), 1, 0], s(-1))]),
    ("min.u32 %d, %a, %b;", W, &[([s(-1), 1, 0], 1)]),
    ("max.s32 %d, %a, %b;", W, &[([s(-1), 1, 0], 1)]),
    ("max.u32 %d, %a, %b;", W, &[([s(-1), 1, 0], s(-1))]),
    ("neg.s32 %d, %a;", W, &[([5, 0, 0], s(-5))]),
    ("abs.s32 %d, %a;", W, &[([s(-5), 0, 0], 5)]),
    // Bits.
    ("and.b32 %d, %a, %b;", W, &[([0b1100, 0b1010, 0], 0b1000)]),
    ("or.b32 %d, %a, %b;", W, &[([0b1100, 0b1010, 0], 0b1110)]),
    ("xor.b64 %d, %a, %b;", Q, &[([0b1100, 0b1010 | 1 << 40, 0], 0b0110 | 1 << 40)]),
    ("not.b32 %d, %a;", W, &[([0, 0, 0], 0xffff_ffff)]),
    ("not.b16 %d, %a;", H, &[([1, 0, 0], 0xfffe)]),
    ("shl.b32 %d, %a, %b;", W, &[([1, 31, 0], 0x8000_0000), ([1, 32, 0], 0), ([3, 31, 0], 0x8000_0000)]),
    ("shl.b64 %d, %a, %b;", [64, 64, 32, 32], &[([1, 63, 0], 1 << 63), ([1, 64, 0], 0)]),
    ("shr.u32 %d, %a, %b;", W, &[([0x8000_0000, 31, 0], 1), ([0x8000_0000, 32, 0], 0)]),
    ("shr.s32 %d, %a, %b;", W, &[([s(-8), 1, 0], s(-4)), ([s(-8), 40, 0], s(-1))]),
    ("shr.u64 %d, %a, 33;", Q, &[([1 << 40, 0, 0], 1 << 7)]),
    ("shf.l.wrap.b32 %d, %a, %b, %c;", W, &[([0x8000_0001, 0xf, 4], 0xf8), ([1, 2, 32], 2)]),
    ("shf.r.wrap.b32 %d, %a, %b, %c;", W, &[([0x12, 0x3, 4], 0x3000_0001), ([7, 8, 32], 7)]),
    ("shf.l.clamp.b32 %d, %a, %b, %c;", W, &[([5, 6, 40], 5)]),
    ("shf.r.clamp.b32 %d, %a, %b, %c;", W, &[([5, 6, 40], 6)]),
    ("lop3.b32 %d, %a, %b, %c, 0xe8;", W, &[([0b1100, 0b1010, 0b1001], 0b1000)]), // majority
    ("lop3.b32 %d, %a, %b, %c, 0x96;", W, &[([0b1100, 0b1010, 0b1001], 0b1111)]), // a ^ b ^ c
    ("lop3.b32 %d, %a, %b, %c, 0xca;", W, &[([0b1100, 0b1010, 0b0101], 0b1001)]), // a ? b : c
    ("prmt.b32 %d, %a, %b, 0x5410;", W, &[([0x3333_1111, 0x4444_2222, 0], 0x2222_1111)]),
    ("prmt.b32 %d, %a, %b, 0x7632;", W, &[([0x3333_1111, 0x4444_2222, 0], 0x4444_3333)]),
    ("prmt.b32 %d, %a, %b, %c;", W, &[([0x0000_80ff, 0, 0x0098], 0xffff_ffff), ([0x44, 0, 0x4440], 0x44)]),
    ("bfe.u32 %d, %a, %b, %c;", W, &[([0xabcd_1234, 8, 8], 0x12), ([0xabcd_1234, 28, 8], 0xa), ([1, 0, 0], 0)]),
    ("bfe.s32 %d, %a, %b, %c;", W, &[([0x0000_f000, 12, 4], s(-1)), ([0x0000_7000, 12, 4], 7)]),
    ("bfi.b32 %d, %a, %b, 8, 8;", W, &[([0xab, 0x1122_3344, 0], 0x1122_ab44)]),
    ("popc.b32 %d, %a;", W, &[([0xf0f0, 0, 0], 8)]),
    ("popc.b64 %d, %a;", [32, 64, 32, 32], &[([u64::MAX, 0, 0], 64)]),
    ("clz.b32 %d, %a;", W, &[([1, 0, 0], 31), ([0, 0, 0], 32)]),
    ("brev.b32 %d, %a;", W, &[([1, 0, 0], 0x8000_0000)]),
    // Single precision.
    ("add.f32 %d, %a, %b;", W, &[([f(1.0), f(2.5), 0], f(3.5)), ([f(INF), f(1.0), 0], f(INF)), ([TINY, TINY, 0], 2)]),
    ("add.ftz.f32 %d, %a, %b;", W, &[([TINY, TINY, 0], 0), ([f(1.0), TINY, 0], f(1.0))]),
    ("sub.rn.f32 %d, %a, %b;", W, &[([f(1.0), f(2.5), 0], f(-1.5))]),
    ("mul.f32 %d, %a, %b;", W, &[([f(-1.5), f(2.0), 0], f(-3.0))]),
    ("mul.ftz.f32 %d, %a, %b;", W, &[([f(1e-30), f(-1e-10), 0], f(-0.0))]),
    (
        "fma.rn.f32 %d, %a, %b, %c;",
        W,
        &[([f(2.0), f(3.0), f(1.0)], f(7.0)), ([0x3f80_0800, 0x3f80_0800, 0xbf80_1000], 0x3380_0000)],
    ),
    ("div.rn.f32 %d, %a, %b;", W, &[([f(1.0), f(3.0), 0], f(1.0 / 3.0)), ([f(1.0), f(0.0), 0], f(INF))]),
    ("div.approx.f32 %d, %a, %b;", W, &[([f(6.0), f(3.0), 0], f(2.0))]),
    ("neg.f32 %d, %a;", W, &[([f(0.0), 0, 0], f(-0.0))]),
    ("abs.f32 %d, %a;", W, &[([f(-2.0), 0, 0], f(2.0))]),
    (
        "min.f32 %d, %a, %b;",
        W,
        &[([NAN, f(1.0), 0], f(1.0)), ([f(0.0), f(-0.0), 0], f(-0.0)), ([f(2.0), f(3.0), 0], f(2.0))],
    ),
    (
        "max.f32 %d, %a, %b;",
        W,
        &[([f(1.0), NAN, 0], f(1.0)), ([f(-0.0), f(0.0), 0], f(0.0)), ([f(2.0), f(3.0), 0], f(3.0))],
    ),
    ("max.NaN.f32 %d, %a, %b;", W, &[([f(1.0), NAN, 0], NAN), ([f(1.0), f(2.0), 0], f(2.0))]),
    ("min.NaN.f32 %d, %a, %b;", W, &[([NAN, f(1.0), 0], NAN)]),
    ("rcp.approx.f32 %d, %a;", W, &[([f(4.0), 0, 0], f(0.25)), ([f(-0.0), 0, 0], f(-INF))]),
    ("rcp.rn.f32 %d, %a;", W, &[([f(3.0), 0, 0], f(1.0 / 3.0))]),
    ("sqrt.rn.f32 %d, %a;", W, &[([f(2.0), 0, 0], 0x3fb5_04f3), ([f(-0.0), 0, 0], f(-0.0))]),
    ("sqrt.approx.f32 %d, %a;", W, &[([f(9.0), 0, 0], f(3.0))]),
    ("rsqrt.approx.f32 %d, %a;", W, &[([f(4.0), 0, 0], f(0.5)), ([f(0.0), 0, 0], f(INF))]),
    ("ex2.approx.f32 %d, %a;", W, &[([f(3.0), 0, 0], f(8.0)), ([f(-INF), 0, 0], 0), ([f(-149.0), 0, 0], TINY)]),
    ("ex2.approx.ftz.f32 %d, %a;", W, &[([f(-1.0), 0, 0], f(0.5)), ([f(-149.0), 0, 0], 0)]),
    ("lg2.approx.f32 %d, %a;", W, &[([f(8.0), 0, 0], f(3.0)), ([f(0.0), 0, 0], f(-INF))]),
    ("tanh.approx.f32 %d, %a;", W, &[([f(0.0), 0, 0], 0), ([f(100.0), 0, 0], f(1.0)), ([f(0.5), 0, 0], 0x3eec_9a9f)]),
    ("sin.approx.f32 %d, %a;", W, &[([f(0.0), 0, 0], 0)]),
    ("cos.approx.f32 %d, %a;", W, &[([f(0.0), 0, 0], f(1.0))]),
    ("copysign.f32 %d, %a, %b;", W, &[([f(-1.0), f(3.0), 0], f(-3.0))]), // the sign of a on b
    // Double precision.
    ("add.f64 %d, %a, %b;", Q, &[([d(0.1), d(0.2), 0], d(0.1 + 0.2))]),
    ("fma.rn.f64 %d, %a, %b, %c;", Q, &[([d(2.0), d(3.0), d(1.0)], d(7.0))]),
    ("div.rn.f64 %d, %a, %b;", Q, &[([d(1.0), d(3.0), 0], d(1.0 / 3.0))]),
    ("sqrt.rn.f64 %d, %a;", Q, &[([d(2.0), 0, 0], d(std::f64::consts::SQRT_2))]),
    // Halves.
    ("add.f16 %d, %a, %b;", H, &[([H1, H2, 0], H3), ([0x7bff, 0x7bff, 0], 0x7c00)]),
    ("add.rn.f16x2 %d, %a, %b;", W, &[([p(H1, H2), p(H2, H1), 0], p(H3, H3))]),
    ("mul.f16x2 %d, %a, %b;", W, &[([p(H1, H3), p(H2, H1), 0], p(H2, H3))]),
    ("fma.rn.f16x2 %d, %a, %b, %c;", W, &[([p(H1, H1), p(H1, H2), p(H2, H1)], p(H3, H3))]),
    ("fma.rn.relu.f16x2 %d, %a, %b, %c;", W, &[([p(H1, 0xbc00), p(H1, H2), p(H2, H1)], p(H3, 0))]),
    ("max.f16x2 %d, %a, %b;", W, &[([p(H1, 0x7e00), p(H2, H1), 0], p(H2, H1))]),
    ("neg.f16x2 %d, %a;", W, &[([p(H1, H2), 0, 0], p(0xbc00, 0xc000))]),
    ("fma.rn.bf16x2 %d, %a, %b, %c;", W, &[([p(B1, B1), p(B1, B2), p(B2, B1)], p(B3, B3))]),
    ("max.bf16x2 %d, %a, %b;", W, &[([p(B1, B3), p(B2, B1), 0], p(B2, B3))]),
    ("add.rn.bf16x2 %d, %a, %b;", W, &[([p(B1, B1), p(B1, B2), 0], p(B2, B3))]),
    ("mul.rn.bf16x2 %d, %a, %b;", W, &[([p(B1, B3), p(B2, B1), 0], p(B2, B3))]),
    ("ex2.approx.f16x2 %d, %a;", W, &[([p(H1, 0), 0, 0], p(H2, H1))]),
    ("ex2.approx.ftz.bf16x2 %d, %a;", W, &[([p(B1, 0), 0, 0], p(B2, B1))]),
    ("tanh.approx.f16x2 %d, %a;", W, &[([p(0, 0x7c00), 0, 0], p(0, H1))]),
    // Conversions.
    (
        "cvt.rn.f16.f32 %d, %a;",
        [16, 32, 32, 32],
        &[([f(1.0), 0, 0], H1), ([f(65520.0), 0, 0], 0x7c00), ([f(1.0004884), 0, 0], 0x3c01)],
    ),
    ("cvt.rz.f16.f32 %d, %a;", [16, 32, 32, 32], &[([f(1.0009), 0, 0], H1), ([f(1e6), 0, 0], 0x7bff)]),
    ("cvt.f32.f16 %d, %a;", [32, 16, 32, 32], &[([H3, 0, 0], f(3.0)), ([1, 0, 0], f(5.960_464_5e-8))]),
    ("cvt.rn.bf16.f32 %d, %a;", [16, 32, 32, 32], &[([0x3f80_8000, 0, 0], 0x3f80), ([0x3f81_8000, 0, 0], 0x3f82)]),
    ("cvt.f32.bf16 %d, %a;", [32, 16, 32, 32], &[([B3, 0, 0], f(3.0))]),
    ("cvt.rn.f16x2.f32 %d, %a, %b;", W, &[([f(1.0), f(2.0), 0], p(H2, H1))]), // a is the high half
    ("cvt.rn.bf16x2.f32 %d, %a, %b;", W, &[([f(1.0), f(2.0), 0], p(B2, B1))]),
    ("cvt.rna.tf32.f32 %d, %a;", W, &[([0x3f80_1000, 0, 0], 0x3f80_2000), ([0x3f80_0fff, 0, 0], 0x3f80_0000)]),
    (
        "cvt.rni.s32.f32 %d, %a;",
        W,
        &[([f(2.5), 0, 0], 2), ([f(-3.5), 0, 0], s(-4)), ([NAN, 0, 0], 0), ([f(1e20), 0, 0], s(i32::MAX))],
    ),
    ("cvt.rzi.u32.f32 %d, %a;", W, &[([f(2.9), 0, 0], 2), ([f(-1.0), 0, 0], 0), ([f(1e20), 0, 0], 0xffff_ffff)]),
    ("cvt.rmi.s32.f32 %d, %a;", W, &[([f(-2.1), 0, 0], s(-3))]),
    ("cvt.rpi.s32.f32 %d, %a;", W, &[([f(2.1), 0, 0], 3)]),
    ("cvt.rzi.s64.f32 %d, %a;", [64, 32, 32, 32], &[([f(-7.5), 0, 0], l(-7))]),
    ("cvt.rn.f32.s32 %d, %a;", W, &[([s(-3), 0, 0], f(-3.0)), ([0x0100_0001, 0, 0], f(16_777_216.0))]),
    ("cvt.rn.f32.u32 %d, %a;", W, &[([0xffff_ffff, 0, 0], f(4_294_967_296.0))]),
    ("cvt.rn.f32.u64 %d, %a;", [32, 64, 32, 32], &[([1 << 40, 0, 0], f(1_099_511_627_776.0))]),
    ("cvt.rn.f16.s32 %d, %a;", [16, 32, 32, 32], &[([s(3), 0, 0], H3)]),
    ("cvt.f64.f32 %d, %a;", [64, 32, 32, 32], &[([f(0.5), 0, 0], d(0.5))]),
    ("cvt.rn.f32.f64 %d, %a;", [32, 64, 32, 32], &[([d(0.1), 0, 0], f(0.1))]),
    ("cvt.rn.f64.s32 %d, %a;", [64, 32, 32, 32], &[([s(-2), 0, 0], d(-2.0))]),
    ("cvt.s64.s32 %d, %a;", [64, 32, 32, 32], &[([s(-2), 0, 0], l(-2))]),
    ("cvt.u64.u32 %d, %a;", [64, 32, 32, 32], &[([s(-2), 0, 0], 0xffff_fffe)]),
    ("cvt.u32.u64 %d, %a;", [32, 64, 32, 32], &[([0x5_0000_0007, 0, 0], 7)]),
    ("cvt.s32.s16 %d, %a;", [32, 16, 32, 32], &[([0xfffe, 0, 0], s(-2))]),
    ("cvt.u32.u16 %d, %a;", [32, 16, 32, 32], &[([0xfffe, 0, 0], 0xfffe)]),
    ("cvt.u16.u32 %d, %a;", [16, 32, 32, 32], &[([0x1_2345, 0, 0], 0x2345)]),
    ("cvt.rni.f32.f32 %d, %a;", W, &[([f(2.5), 0, 0], f(2.0)), ([f(3.5), 0, 0], f(4.0))]),
    ("cvt.sat.f32.f32 %d, %a;", W, &[([f(2.5), 0, 0], f(1.0)), ([f(-1.0), 0, 0], 0), ([NAN, 0, 0], 0)]),
    // Moves.
    ("mov.b32 %d, %a;", W, &[([7, 0, 0], 7)]),
    ("mov.b32 %d, {%a, %b};", [32, 16, 16, 32], &[([0x1111, 0x2222, 0], 0x2222_1111)]),
    ("mov.b64 %d, {%a, %b};", [64, 32, 32, 32], &[([1, 2, 0], 0x2_0000_0001)]),
    ("mov.f32 %d, 0f40400000;", W, &[([0, 0, 0], f(3.0))]),
    ("mov.f32 %d, 1.5;", W, &[([0, 0, 0], f(1.5))]),
    ("mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};", W, &[([0x2222_1111, 0, 0], 0x1111_2222)]),
    ("mov.b64 {%w0, %w1}, %a; mov.b64 %d, {%w1, %w0};", Q, &[([0x2_0000_0001, 0, 0], 0x1_0000_0002)]),
    ("mov.b64 {_, %w1}, %a; mov.b32 %d, %w1;", [32, 64, 32, 32], &[([0x2_0000_0001, 0, 0], 2)]),
    // Predicates.
    ("setp.lt.s32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([s(-1), 0, 0], 1), ([0, 0, 0], 2)]),
    ("setp.lt.u32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([s(-1), 0, 0], 2)]),
    ("setp.lo.u32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([0, 1, 0], 1)]),
    ("setp.ge.u64 %p, %a, %b; selp.b32 %d, 1, 2, %p;", [32, 64, 64, 32], &[([1 << 40, 1, 0], 1)]),
    ("setp.gt.f32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([f(2.0), f(1.0), 0], 1), ([NAN, f(1.0), 0], 2)]),
    ("setp.gtu.f32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([NAN, f(1.0), 0], 1), ([f(1.0), f(1.0), 0], 2)]),
    ("setp.ne.f32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([NAN, NAN, 0], 2), ([f(1.0), f(2.0), 0], 1)]),
    ("setp.neu.f32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([NAN, NAN, 0], 1), ([f(0.0), f(-0.0), 0], 2)]),
    ("setp.nan.f32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([NAN, f(1.0), 0], 1), ([f(1.0), f(1.0), 0], 2)]),
    ("setp.num.f32 %p, %a, %b; selp.b32 %d, 1, 2, %p;", W, &[([NAN, f(1.0), 0], 2), ([f(1.0), f(1.0), 0], 1)]),
    ("setp.lt.f16 %p, %a, %b; selp.b32 %d, 1, 2, %p;", [32, 16, 16, 32], &[([H1, H2, 0], 1)]),
    ("setp.eq.s32 %p|%q, %a, %b; selp.b32 %d, 1, 2, %q;", W, &[([1, 1, 0], 2), ([1, 2, 0], 1)]),
    (
        "setp.eq.s32 %q, %c, 1; setp.lt.and.s32 %p, %a, %b, %q; selp.b32 %d, 1, 2, %p;",
        W,
        &[([0, 1, 1], 1), ([0, 1, 0], 2)],
    ),
    (
        "setp.eq.s32 %q, %c, 1; setp.lt.or.s32 %p, %a, %b, !%q; selp.b32 %d, 1, 2, %p;",
        W,
        &[([1, 1, 1], 2), ([1, 1, 0], 1)],
    ),
    (
        "setp.eq.s32 %p, %a, 1; setp.eq.s32 %q, %b, 1; and.pred %p, %p, %q; selp.b32 %d, 1, 2, %p;",
        W,
        &[([1, 1, 0], 1), ([1, 0, 0], 2)],
    ),
    (
        "setp.eq.s32 %p, %a, 1; setp.eq.s32 %q, %b, 1; xor.pred %p, %p, %q; not.pred %p, %p; selp.b32 %d, 1, 2, %p;",
        W,
        &[([1, 1, 0], 1), ([1, 0, 0], 2)],
    ),
    ("set.lt.u32.f32 %d, %a, %b;", W, &[([f(1.0), f(2.0), 0], 0xffff_ffff), ([f(2.0), f(1.0), 0], 0)]),
    ("set.gt.f32.s32 %d, %a, %b;", W, &[([2, 1, 0], f(1.0))]),
    (
        "setp.eq.s32 %p, %a, 1; mov.b32 %d, 5; @%p mov.b32 %d, 6; @!%p add.u32 %d, %d, 2;",
        W,
        &[([1, 0, 0], 6), ([0, 0, 0], 7)],
    ),
];

/// All cases as entries of one module: `k0`, `k1`, ...
fn text() -> String {
    let mut text = ".version 8.0\n.target sm_90\n.address_size 64\n".to_owned();
    for (i, (instruction, bits, _)) in CASES.iter().enumerate() {
        let [d, a, b, c] = *bits;
        text += &format!(
            ".visible .entry k{i}(.param .u64 in, .param .u64 out) {{
    .reg .pred %p, %q;
    .reg .b16 %h0, %h1;
    .reg .b32 %lane, %w0, %w1;
    .reg .b64 %in, %out, %xa, %xb, %xc, %xd;
    .reg .b{d} %d;
    .reg .b{a} %a;
    .reg .b{b} %b;
    .reg .b{c} %c;
    ld.param.u64 %in, [in];
    ld.param.u64 %out, [out];
    mov.u32 %lane, %tid.x;
    mad.wide.u32 %in, %lane, 24, %in;
    mad.wide.u32 %out, %lane, 8, %out;
    ld.global.u64 %xa, [%in];
    ld.global.u64 %xb, [%in+8];
    ld.global.u64 %xc, [%in+16];
    {}
    {}
    {}
    {instruction}
    {}
    st.global.u64 [%out], %xd;
    ret;\n}}\n",
            narrow("%a", "%xa", a),
            narrow("%b", "%xb", b),
            narrow("%c", "%xc", c),
            if d == 64 { "mov.b64 %xd, %d;".to_owned() } else { format!("cvt.u64.u{d} %xd, %d;") },
        );
    }
    text
}
fn narrow(to: &str, from: &str, bits: u32) -> String {
    if bits == 64 { format!("mov.b64 {to}, {from};") } else { format!("cvt.u{bits}.u64 {to}, {from};") }
}

#[test]
fn instructions_do_what_the_isa_says() {
    let module = ptx_interpreter::Module::parse(&text()).unwrap_or_else(|e| panic!("{e}"));
    let mut wrong = vec![];
    for (i, (instruction, _, rows)) in CASES.iter().enumerate() {
        let mut machine = ptx_interpreter::Machine::new();
        let input: Vec<u8> = rows.iter().flat_map(|(abc, _)| abc.iter().flat_map(|x| x.to_le_bytes())).collect();
        let input = machine.upload("in", &input);
        let output = machine.alloc("out", 8 * rows.len());
        let (name, threads) = (format!("k{i}"), rows.len() as u32);
        machine.launch(&module, &name, [1, 1, 1], [threads, 1, 1], 0, &[input.into(), output.into()]).unwrap();
        let got = machine.download(output).unwrap();
        for ((abc, want), got) in rows.iter().zip(got.as_chunks::<8>().0) {
            let got = u64::from_le_bytes(*got);
            let nan = |x: u64| f32::from_bits(x as u32).is_nan();
            if got != *want && !(*want == NAN && nan(got)) {
                wrong.push(format!("{instruction} of {abc:x?}: {got:#x}, expected {want:#x}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ptxas_knows_all_of_it() {
    ptxas::assemble(&text(), "sm_90").unwrap_or_else(|e| panic!("{e}"));
}

/// Loads and stores: widths, signs, vectors, spaces.
#[test]
fn memory_moves_bytes() {
    let body = "
    .reg .b16 %h<4>;
    .reg .b32 %r<8>;
    .reg .b64 %x, %y, %q<4>;
    .shared .align 16 .b8 tile[64];
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%x];
    st.shared.v2.b32 [tile+8], {%r2, %r3};
    st.shared.v2.b32 [tile], {%r0, %r1};
    ld.shared.s8 %r4, [tile+3];
    ld.shared.u8 %r5, [tile+3];
    ld.shared.s16 %r6, [tile+2];
    ld.shared.s32 %q0, [tile+12];
    ld.shared.b16 %h0, [tile+2];
    ld.shared.v2.b64 {%q1, %q2}, [tile];
    mov.b32 %r7, tile;
    ld.shared.b32 %r7, [%r7+4];
    st.global.v4.b32 [%y], {%r4, %r5, %r6, %r7};
    st.global.v2.b64 [%y+16], {%q1, %q2};
    st.global.b64 [%y+32], %q0;
    st.global.b16 [%y+40], %h0;
    st.global.u8 [%y+42], %r5;
    cvta.shared.u64 %q3, %q3_;
    ld.b32 %r7, [%q3+8];
    st.global.b32 [%y+44], %r7;
    ret;"
        .replace("cvta.shared.u64 %q3, %q3_;", "mov.u64 %q3, tile;\n    cvta.shared.u64 %q3, %q3;");
    let text = common::module("sm_70", "", ".param .u64 x, .param .u64 y", &body);
    ptxas::assemble(&text, "sm_70").unwrap_or_else(|e| panic!("{e}"));
    let input = common::bytes_of_u32(&[0x8081_8283, 5, 6, 0xffff_fffe]);
    let out = run(&text, 1, 1, 0, &[input, vec![0; 48]]).unwrap().buffers.remove(1);
    let words = common::u32s(&out);
    assert_eq!(words[..4], [0xffff_ff80, 0x80, 0xffff_8081, 5]);
    assert_eq!(words[4..10], [0x8081_8283, 5, 6, 0xffff_fffe, 0xffff_fffe, 0xffff_ffff]);
    assert_eq!(out[40..44], [0x81, 0x80, 0x80, 0]);
    assert_eq!(words[11], 6);
}

/// Parameters: scalars, alignment, structs as byte arrays.
#[test]
fn parameters_have_their_places() {
    let body = "
    .reg .b32 %r<3>;
    .reg .f32 %f;
    .reg .b64 %y;
    ld.param.u32 %r0, [n];
    ld.param.u64 %y, [y];
    ld.param.v2.u32 {%r1, %r2}, [s];
    ld.param.f32 %f, [s+8];
    st.global.v2.u32 [%y], {%r0, %r1};
    st.global.u32 [%y+8], %r2;
    st.global.f32 [%y+12], %f;
    ret;";
    let params = ".param .u32 n, .param .u64 .ptr .global .align 16 y, .param .align 8 .b8 s[12]";
    let text = common::module("sm_80", "", params, body);
    ptxas::assemble(&text, "sm_80").unwrap_or_else(|e| panic!("{e}"));
    let module = ptx_interpreter::Module::parse(&text).unwrap();
    let mut machine = ptx_interpreter::Machine::new();
    let y = machine.alloc("y", 16);
    let mut structure = vec![];
    for x in [2, 3, 4.5_f32.to_bits()] {
        structure.extend(x.to_le_bytes());
    }
    let arguments = [7_u32.into(), y.into(), ptx_interpreter::Argument::Bytes(structure)];
    machine.launch(&module, "k", [1, 1, 1], [1, 1, 1], 0, &arguments).unwrap();
    assert_eq!(common::u32s(&machine.download(y).unwrap()), [7, 2, 3, 4.5_f32.to_bits()]);
    // Wrong arguments are sentences.
    let error = machine.launch(&module, "k", [1, 1, 1], [1, 1, 1], 0, &arguments[..2]).unwrap_err().to_string();
    assert_eq!(error, "k: expected 3 arguments, got 2");
    let wrong = [7_u64.into(), y.into(), arguments[2].clone()];
    let error = machine.launch(&module, "k", [1, 1, 1], [1, 1, 1], 0, &wrong).unwrap_err().to_string();
    assert_eq!(error, "k: parameter n has 4 bytes, the argument 8");
}

/// Geometry: every special register in a block of 3 x 5 x 3 threads.
#[test]
fn special_registers() {
    let body = "
    .reg .b32 %r<12>;
    .reg .b64 %y;
    ld.param.u64 %y, [y];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %tid.y;
    mov.u32 %r2, %tid.z;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %ntid.y;
    mad.lo.u32 %r5, %r2, %r4, %r1;
    mad.lo.u32 %r5, %r5, %r3, %r0;
    mov.u32 %r6, %ctaid.y;
    mov.u32 %r7, %nctaid.x;
    mov.u32 %r8, %ctaid.x;
    mad.lo.u32 %r6, %r6, %r7, %r8;
    mad.lo.u32 %r5, %r6, 45, %r5;
    mul.wide.u32 %r9_, %r5, 16;
    add.u64 %y, %y, %r9_;
    mov.u32 %r9, %laneid;
    mov.u32 %r10, %lanemask_lt;
    mov.u32 %r11, %warpid;
    st.global.v4.u32 [%y], {%r5, %r9, %r10, %r11};
    ret;"
        .replace("%r9_", "%q")
        .replace(".reg .b64 %y;", ".reg .b64 %y, %q;");
    let text = common::module("sm_70", "", ".param .u64 y", &body);
    ptxas::assemble(&text, "sm_70").unwrap_or_else(|e| panic!("{e}"));
    let module = ptx_interpreter::Module::parse(&text).unwrap();
    let mut machine = ptx_interpreter::Machine::new();
    let y = machine.alloc("y", 16 * 45 * 6);
    machine.launch(&module, "k", [2, 3, 1], [3, 5, 3], 0, &[y.into()]).unwrap();
    let out = common::u32s(&machine.download(y).unwrap());
    for (i, row) in out.as_chunks::<4>().0.iter().enumerate() {
        let thread = i as u32 % 45;
        assert_eq!(*row, [i as u32, thread % 32, (1 << (thread % 32)) - 1, thread / 32]);
    }
}

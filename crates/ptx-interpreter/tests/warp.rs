//! Instructions of whole warps against the PTX ISA: shuffles, votes, reductions, matrices, atomics, counters.

mod common;

use common::{bytes_of_f32, bytes_of_u32, f32s, noise, run, u32s};
use half::{bf16, f16};
use ptx_interpreter::ptxas;

/// One warp; `body` sets `%r0` from the lane number `%t` and `%r1` (the lane's word of `x`).
fn lanes(target: &str, body: &str, x: &[u32]) -> Vec<u32> {
    let body = format!(
        "
    .reg .pred %p<4>;
    .reg .b32 %r<8>, %t;
    .reg .b64 %x, %y;
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mov.u32 %t, %laneid;
    mad.wide.u32 %x, %t, 4, %x;
    mad.wide.u32 %y, %t, 4, %y;
    ld.global.u32 %r1, [%x];
    {body}
    st.global.u32 [%y], %r0;
    ret;"
    );
    let text = common::module(target, "", ".param .u64 x, .param .u64 y", &body);
    ptxas::assemble(&text, target).unwrap_or_else(|e| panic!("{body}: {e}"));
    u32s(&run(&text, 1, 32, 0, &[bytes_of_u32(x), vec![0; 128]]).unwrap_or_else(|e| panic!("{body}: {e}")).buffers[1])
}

#[test]
fn shuffles() {
    let x: Vec<u32> = (100..132).collect();
    let is = |body: &str, want: &dyn Fn(usize) -> usize| {
        let want: Vec<u32> = (0..32).map(|lane| x[want(lane)]).collect();
        assert_eq!(lanes("sm_70", body, &x), want, "{body}");
    };
    is("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;", &|l| l ^ 5);
    is("shfl.sync.idx.b32 %r0, %r1, 7, 31, -1;", &|_| 7);
    is("add.u32 %r2, %t, 3; shfl.sync.idx.b32 %r0, %r1, %r2, 31, -1;", &|l| (l + 3) % 32);
    is("shfl.sync.up.b32 %r0, %r1, 4, 0, -1;", &|l| if l < 4 { l } else { l - 4 });
    is("shfl.sync.down.b32 %r0, %r1, 4, 31, -1;", &|l| if l + 4 > 31 { l } else { l + 4 });
    // Segments of 8 lanes: c = (32 - 8) << 8 | 7 (or | 0 for up).
    is("shfl.sync.down.b32 %r0, %r1, 2, 0x1807, -1;", &|l| if l % 8 + 2 > 7 { l } else { l + 2 });
    is("shfl.sync.up.b32 %r0, %r1, 2, 0x1800, -1;", &|l| if l % 8 < 2 { l } else { l - 2 });
    is("shfl.sync.idx.b32 %r0, %r1, 3, 0x1807, -1;", &|l| l / 8 * 8 + 3);
    is("shfl.sync.bfly.b32 %r0, %r1, 4, 0x1c03, -1;", &|l| if l % 4 + 4 > 3 && l % 8 < 4 { l } else { l ^ 4 });
    // The predicate says whether the source was in range.
    let body = "shfl.sync.down.b32 %r2|%p0, %r1, 4, 31, -1; selp.b32 %r0, 1, 0, %p0;";
    assert_eq!(lanes("sm_70", body, &x), (0..32).map(|l| u32::from(l + 4 <= 31)).collect::<Vec<_>>());
}

#[test]
fn votes_and_reductions() {
    let x: Vec<u32> = (0..32).map(|i| i * 7 % 5).collect();
    let ones: u32 = x.iter().enumerate().map(|(i, v)| u32::from(*v == 1) << i).sum();
    let same = |target: &str, body: &str, want: u32| assert_eq!(lanes(target, body, &x), [want; 32], "{body}");
    let test = "setp.eq.u32 %p0, %r1, 1;";
    same("sm_70", &format!("{test} vote.sync.ballot.b32 %r0, %p0, -1;"), ones);
    same("sm_70", &format!("{test} vote.sync.ballot.b32 %r0, !%p0, -1;"), !ones);
    same("sm_70", &format!("{test} vote.sync.any.pred %p1, %p0, -1; selp.b32 %r0, 1, 0, %p1;"), 1);
    same("sm_70", &format!("{test} vote.sync.all.pred %p1, %p0, -1; selp.b32 %r0, 1, 0, %p1;"), 0);
    same("sm_70", &format!("{test} vote.sync.uni.pred %p1, %p0, -1; selp.b32 %r0, 1, 0, %p1;"), 0);
    same("sm_80", "redux.sync.add.u32 %r0, %r1, -1;", x.iter().sum());
    same("sm_80", "redux.sync.max.s32 %r0, %r1, -1;", 4);
    same("sm_80", "neg.s32 %r2, %r1; redux.sync.min.s32 %r0, %r2, -1;", -4_i32 as u32);
    same("sm_80", "redux.sync.or.b32 %r0, %r1, -1;", 7);
    same("sm_80", "redux.sync.xor.b32 %r0, %t, -1;", 0);
    same("sm_70", "mov.u32 %r2, 5; match.all.sync.b32 %r0|%p0, %r2, -1;", u32::MAX);
    same("sm_70", "match.all.sync.b32 %r0|%p0, %t, -1;", 0);
    same("sm_70", "activemask.b32 %r0;", u32::MAX);
    same("sm_90", "elect.sync %r0|%p0, -1;", 0);
    let equal = |l: usize| (0..32).filter(|&i| x[i] == x[l]).map(|i| 1 << i).sum::<u32>();
    assert_eq!(lanes("sm_70", "match.any.sync.b32 %r0, %r1, -1;", &x), (0..32).map(equal).collect::<Vec<_>>());
    // Half of the warp.
    let half = "and.b32 %r2, %t, 16; setp.eq.u32 %p0, %r2, 0; mov.u32 %r0, 0; @%p0 redux.sync.add.u32 %r0, %t, 0xffff;";
    assert_eq!(lanes("sm_80", half, &x), (0..32).map(|l| if l < 16 { 120 } else { 0 }).collect::<Vec<_>>());
}

#[test]
fn atomics() {
    let body = "
    .reg .b32 %r<4>, %t;
    .reg .f32 %f;
    .reg .b64 %x;
    ld.param.u64 %x, [x];
    mov.u32 %t, %tid.x;
    cvt.rn.f32.u32 %f, %t;
    red.global.add.f32 [%x], %f;
    atom.global.add.u32 %r0, [%x+4], 2;
    red.global.max.u32 [%x+8], %t;
    red.global.min.s32 [%x+12], %t;
    red.global.or.b32 [%x+16], %t;
    atom.global.cas.b32 %r1, [%x+20], 9, 5;
    atom.global.inc.u32 %r2, [%x+24], 6;
    mov.b32 %r3, 0x3c004000;
    red.global.add.noftz.f16x2 [%x+28], %r3;
    red.global.add.v4.f32 [%x+32], {%f, %f, %f, %f};
    ret;";
    let text = common::module("sm_90", "", ".param .u64 x", body).replace(".version 8.0", ".version 8.1");
    ptxas::assemble(&text, "sm_90").unwrap_or_else(|e| panic!("{e}"));
    let input = bytes_of_u32(&[0, 1, 0, 50, 0, 9, 0, 0, 0, 0, 0, 0]);
    let out = u32s(&run(&text, 1, 64, 0, &[input]).unwrap().buffers[0]);
    let sum = 2016.0_f32.to_bits();
    let halves = u32::from(f16::from_f32(128.0).to_bits()) | u32::from(f16::from_f32(64.0).to_bits()) << 16;
    assert_eq!(out, [sum, 129, 63, 0, 63, 5, 64 % 7, halves, sum, sum, sum, sum]);
}

/// How an operand of a matrix product is stored in registers.
#[derive(Clone, Copy)]
enum Kind {
    F16,
    Bf16,
    Tf32,
    F32,
}

fn stored(kind: Kind, x: f32) -> (u32, f64) {
    match kind {
        Kind::F16 => (u32::from(f16::from_f32(x).to_bits()), f16::from_f32(x).to_f64()),
        Kind::Bf16 => (u32::from(bf16::from_f32(x).to_bits()), bf16::from_f32(x).to_f64()),
        Kind::Tf32 => (x.to_bits() & !0x1fff, f64::from(f32::from_bits(x.to_bits() & !0x1fff))),
        Kind::F32 => (x.to_bits(), f64::from(x)),
    }
}

/// Row-major matrix of noise: bits and values.
fn matrix(kind: Kind, seed: u32, len: usize) -> (Vec<u32>, Vec<f64>) {
    noise(seed, len).into_iter().map(|x| stored(kind, x)).unzip()
}

/// The registers of a warp, [register, lane], from elements and the place of each: `place(lane, i)` indexes `elements`.
fn fragment(halves: bool, per_lane: usize, elements: &[u32], place: impl Fn(usize, usize) -> usize) -> Vec<u32> {
    let per = if halves { 2 } else { 1 };
    let mut registers = vec![0; per_lane / per * 32];
    for lane in 0..32 {
        for i in 0..per_lane {
            registers[i / per * 32 + lane] |= elements[place(lane, i)] << (16 * (i % per));
        }
    }
    registers
}

/// Runs one `mma` on fragments given register by register.
fn product(target: &str, opcode: &str, a: &[u32], b: &[u32], c: &[u32], d_registers: usize) -> Vec<u32> {
    let (na, nb, nc) = (a.len() / 32, b.len() / 32, c.len() / 32);
    let list = |name: &str, n: usize| (0..n).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ");
    let float = |wide: bool| if wide { "f32" } else { "b32" };
    let types: Vec<&str> = opcode.split('.').rev().take(4).collect(); // c, b, a, d
    let mut body = format!(
        "
    .reg .b32 %t, %a<8>, %b<8>;
    .reg .{} %c<8>;
    .reg .{} %d<8>;
    .reg .b64 %pa, %pb, %pc, %pd;
    mov.u32 %t, %laneid;\n",
        float(types[0] == "f32"),
        float(types[3] == "f32")
    );
    for name in ["a", "b", "c", "d"] {
        body += &format!("    ld.param.u64 %p{name}, [{name}];\n    mad.wide.u32 %p{name}, %t, 4, %p{name};\n");
    }
    for (name, n) in [("a", na), ("b", nb), ("c", nc)] {
        for i in 0..n {
            body += &format!("    ld.global.b32 %{name}{i}, [%p{name}+{}];\n", 128 * i);
        }
    }
    body += &format!(
        "    {opcode} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list("d", d_registers),
        list("a", na),
        list("b", nb),
        list("c", nc)
    );
    for i in 0..d_registers {
        body += &format!("    st.global.b32 [%pd+{}], %d{i};\n", 128 * i);
    }
    body += "    ret;";
    let params = ".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d";
    let text = common::module(target, "", params, &body);
    ptxas::assemble(&text, target).unwrap_or_else(|e| panic!("{opcode}: {e}"));
    let inputs = [bytes_of_u32(a), bytes_of_u32(b), bytes_of_u32(c), vec![0; 128 * d_registers]];
    u32s(&run(&text, 1, 32, 0, &inputs).unwrap_or_else(|e| panic!("{opcode}: {e}")).buffers[3])
}

/// `m16n8kK` against the plain product, with the fragments written out from the figures of the PTX ISA.
#[test]
fn matrix_products() {
    for (opcode, kind, k, c_kind) in [
        ("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", Kind::F16, 8, Kind::F32),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", Kind::F16, 16, Kind::F32),
        ("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", Kind::F16, 16, Kind::F16),
        ("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", Kind::Bf16, 8, Kind::F32),
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", Kind::Bf16, 16, Kind::F32),
        ("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", Kind::Tf32, 4, Kind::F32),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", Kind::Tf32, 8, Kind::F32),
    ] {
        let tf32 = matches!(kind, Kind::Tf32);
        let c_halves = matches!(c_kind, Kind::F16);
        let (a, a_values) = matrix(kind, 1, 16 * k); // [16, k]
        let (b, b_values) = matrix(kind, 2, k * 8); // [k, 8]
        let (c, c_values) = matrix(c_kind, 3, 16 * 8); // [16, 8]
        // "groupID = lane >> 2, threadID_in_group = lane % 4"
        let a_place = |lane: usize, i: usize| {
            let (group, thread) = (lane >> 2, lane % 4);
            let (row, column) = if tf32 {
                (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
            } else {
                let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
                (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
            };
            row * k + column
        };
        let b_place = |lane: usize, i: usize| {
            let (group, thread) = (lane >> 2, lane % 4);
            let row = if tf32 { thread + 4 * i } else { thread * 2 + (i & 1) + if i >= 2 { 8 } else { 0 } };
            row * 8 + group
        };
        let c_place = |lane: usize, i: usize| {
            let (group, thread) = (lane >> 2, lane % 4);
            (if i < 2 { group } else { group + 8 }) * 8 + thread * 2 + (i & 1)
        };
        let a = fragment(!tf32, 16 * k / 32, &a, a_place);
        let b = fragment(!tf32, 8 * k / 32, &b, b_place);
        let c = fragment(c_halves, 4, &c, c_place);
        let d = product("sm_80", opcode, &a, &b, &c, if c_halves { 2 } else { 4 });
        check(opcode, k, &a_values, &b_values, &c_values, c_halves, |lane, i| {
            let bits = if c_halves { d[i / 2 * 32 + lane] >> (16 * (i % 2)) } else { d[i * 32 + lane] };
            (bits, c_place(lane, i))
        });
    }
}

/// Compares D with A B + C, in f64 and rounded once.
fn check(
    opcode: &str,
    k: usize,
    a: &[f64],
    b: &[f64],
    c: &[f64],
    halves: bool,
    d: impl Fn(usize, usize) -> (u32, usize),
) {
    for lane in 0..32 {
        for i in 0..4 {
            let (bits, place) = d(lane, i);
            let (row, column) = (place / 8, place % 8);
            let want = c[place] + (0..k).map(|x| a[row * k + x] * b[x * 8 + column]).sum::<f64>();
            let (got, bound) = if halves {
                (f16::from_bits(bits as u16).to_f64(), 2e-3)
            } else {
                (f64::from(f32::from_bits(bits)), 1e-6)
            };
            assert!((got - want).abs() <= bound, "{opcode}: [{row}, {column}] is {got}, expected {want}");
        }
    }
}

/// m8n8k4: four products in a warp, one for each pair of quads, in all four layouts.
#[test]
fn volta_products() {
    let quad_pair = |lane: usize| lane % 16 / 4; // lanes 0-3 with 16-19, 4-7 with 20-23, ...
    let upper = |lane: usize| if lane < 16 { 0 } else { 4 };
    for (a_layout, b_layout) in [("row", "col"), ("row", "row"), ("col", "col"), ("col", "row")] {
        for wide in [true, false] {
            let kind = if wide { "f32" } else { "f16" };
            let opcode = format!("mma.sync.aligned.m8n8k4.{a_layout}.{b_layout}.{kind}.f16.f16.{kind}");
            let (a, a_values) = matrix(Kind::F16, 4, 4 * 32); // [product, 8, 4]
            let (b, b_values) = matrix(Kind::F16, 5, 4 * 32); // [product, 4, 8]
            let (c, c_values) = matrix(if wide { Kind::F32 } else { Kind::F16 }, 6, 4 * 64); // [product, 8, 8]
            let a_place = |lane: usize, i: usize| {
                let (row, column) =
                    if a_layout == "row" { (lane % 4 + upper(lane), i) } else { (i % 4 + upper(lane), lane % 4) };
                quad_pair(lane) * 32 + row * 4 + column
            };
            let b_place = |lane: usize, i: usize| {
                let (row, column) =
                    if b_layout == "row" { (lane % 4, i + upper(lane)) } else { (i, lane % 4 + upper(lane)) };
                quad_pair(lane) * 32 + row * 8 + column
            };
            let c_place = |lane: usize, i: usize| {
                let (row, column) = if wide {
                    ((lane & 1) + (i & 2) + upper(lane), (i & 4) + (lane & 2) + (i & 1))
                } else {
                    (lane % 4 + upper(lane), i)
                };
                quad_pair(lane) * 64 + row * 8 + column
            };
            let a = fragment(true, 4, &a, a_place);
            let b = fragment(true, 4, &b, b_place);
            let c = fragment(!wide, 8, &c, c_place);
            let d = product("sm_70", &opcode, &a, &b, &c, if wide { 8 } else { 4 });
            for lane in 0..32 {
                for i in 0..8 {
                    let place = c_place(lane, i);
                    let (problem, row, column) = (place / 64, place / 8 % 8, place % 8);
                    let term =
                        |x: usize| a_values[problem * 32 + row * 4 + x] * b_values[problem * 32 + x * 8 + column];
                    let want = c_values[place] + (0..4).map(term).sum::<f64>();
                    let (got, bound) = if wide {
                        (f64::from(f32::from_bits(d[i * 32 + lane])), 1e-6)
                    } else {
                        (f16::from_bits((d[i / 2 * 32 + lane] >> (16 * (i % 2))) as u16).to_f64(), 2e-3)
                    };
                    assert!((got - want).abs() <= bound, "{opcode}: [{row}, {column}] is {got}, expected {want}");
                }
            }
        }
    }
}

/// `ldmatrix`, `stmatrix` and `movmatrix` on 8x8 matrices of numbers that name their places.
#[test]
fn matrices_move() {
    let body = |load: &str| {
        format!(
            "
    .reg .b32 %t, %s, %r<4>;
    .reg .b64 %x, %y;
    .shared .align 16 .b8 tile[512];
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mov.u32 %t, %laneid;
    mad.wide.u32 %x, %t, 16, %x;
    mad.wide.u32 %y, %t, 16, %y;
    mov.u32 %s, tile;
    mad.lo.u32 %s, %t, 16, %s;
    ld.global.v4.b32 {{%r0, %r1, %r2, %r3}}, [%x];
    st.shared.v4.b32 [%s], {{%r0, %r1, %r2, %r3}};
    bar.warp.sync -1;
    {load}
    st.global.v4.b32 [%y], {{%r0, %r1, %r2, %r3}};
    ret;"
        )
    };
    // Four matrices [matrix, row, column]; a half is its own index.
    let x: Vec<u32> = (0..128).map(|i| (2 * i) | (2 * i + 1) << 16).collect();
    let is = |target: &str, load: &str, want: &dyn Fn(usize, usize, usize) -> u32| {
        let text = common::module(target, "", ".param .u64 x, .param .u64 y", &body(load));
        ptxas::assemble(&text, target).unwrap_or_else(|e| panic!("{load}: {e}"));
        let buffers = run(&text, 1, 32, 0, &[bytes_of_u32(&x), vec![0; 512]]).unwrap_or_else(|e| panic!("{load}: {e}"));
        for (i, got) in u32s(&buffers.buffers[1]).into_iter().enumerate() {
            let (lane, register) = (i / 4, i % 4);
            let want = want(lane, register, 0) | want(lane, register, 1) << 16;
            assert_eq!(got, want, "{load}: lane {lane}, register {register}");
        }
    };
    let element = |matrix: usize, row: usize, column: usize| (64 * matrix + 8 * row + column) as u32;
    let unchanged = |lane: usize, register: usize, i: usize| (8 * lane + 2 * register + i) as u32;
    is("sm_80", "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%s];", &|lane, register, i| {
        element(register, lane / 4, lane % 4 * 2 + i)
    });
    is("sm_80", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r0, %r1, %r2, %r3}, [%s];", &|lane, register, i| {
        element(register, lane % 4 * 2 + i, lane / 4)
    });
    is("sm_80", "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r0, %r1}, [%s];", &|lane, register, i| {
        if register < 2 { element(register, lane / 4, lane % 4 * 2 + i) } else { unchanged(lane, register, i) }
    });
    is("sm_80", "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r0}, [%s];", &|lane, register, i| {
        if register == 0 { element(0, lane % 4 * 2 + i, lane / 4) } else { unchanged(lane, register, i) }
    });
    is(
        "sm_90",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%s]; bar.warp.sync -1;
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%s], {%r3, %r2, %r1, %r0}; bar.warp.sync -1;
        ld.shared.v4.b32 {%r0, %r1, %r2, %r3}, [%s];",
        &|lane, register, i| element(3 - lane / 8, lane % 8, 2 * register + i),
    );
    is(
        "sm_90",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%s];
        movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r0;",
        &|lane, register, i| match register {
            1 => element(0, lane % 4 * 2 + i, lane / 4),
            _ => element(register, lane / 4, lane % 4 * 2 + i),
        },
    );
}

/// `cp.async`: sizes, zero fill, groups in order.
#[test]
fn asynchronous_copies() {
    let body = "
    .reg .b32 %t, %s, %n, %r<4>;
    .reg .pred %p;
    .reg .b64 %x, %y, %z;
    .shared .align 16 .b8 tile[1024];
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mov.u32 %t, %laneid;
    mad.wide.u32 %z, %t, 16, %x;
    mad.wide.u32 %y, %t, 16, %y;
    mov.u32 %s, tile;
    mad.lo.u32 %s, %t, 16, %s;
    // Lane 5 copies 8 bytes and 8 zeros, lane 6 nothing but zeros.
    mov.u32 %n, 16;
    setp.eq.u32 %p, %t, 5;
    @%p mov.u32 %n, 8;
    setp.eq.u32 %p, %t, 6;
    @%p mov.u32 %n, 0;
    cp.async.cg.shared.global [%s], [%z], 16, %n;
    cp.async.commit_group;
    cp.async.ca.shared.global [%s+512], [%z], 8;
    cp.async.ca.shared.global [%s+520], [%z+4], 4;
    cp.async.commit_group;
    cp.async.wait_group 1;
    ld.shared.v4.b32 {%r0, %r1, %r2, %r3}, [%s];
    cp.async.wait_all;
    ld.shared.b32 %r3, [%s+520];
    st.global.v4.b32 [%y], {%r0, %r1, %r2, %r3};
    ret;";
    let text = common::module("sm_80", "", ".param .u64 x, .param .u64 y", body);
    ptxas::assemble(&text, "sm_80").unwrap_or_else(|e| panic!("{e}"));
    let x: Vec<u32> = (1000..1128).collect();
    let out = u32s(&run(&text, 1, 32, 0, &[bytes_of_u32(&x), vec![0; 512]]).unwrap().buffers[1]);
    for (lane, row) in out.as_chunks::<4>().0.iter().enumerate() {
        let first = 1000 + 4 * lane as u32;
        let want = match lane {
            5 => [first, first + 1, 0, first + 1],
            6 => [0, 0, 0, first + 1],
            _ => [first, first + 1, first + 2, first + 1],
        };
        assert_eq!(*row, want, "lane {lane}");
    }
}

/// Counters: a column of a matrix without padding is 32 times as slow as one with.
#[test]
fn counters_see_conflicts_and_sectors() {
    let body = |stride: usize, step: usize| {
        format!(
            "
    .reg .b32 %t, %s, %r;
    .reg .f32 %f;
    .reg .b64 %x;
    .shared .align 16 .b8 tile[8192];
    ld.param.u64 %x, [x];
    mov.u32 %t, %tid.x;
    mad.wide.u32 %x, %t, {step}, %x;
    ld.global.f32 %f, [%x];
    mov.u32 %s, tile;
    mad.lo.u32 %s, %t, {stride}, %s;
    st.shared.f32 [%s], %f;
    bar.sync 0;
    ld.shared.f32 %f, [tile];
    ret;"
        )
    };
    let report = |stride: usize, step: usize| {
        let text = common::module("sm_70", "", ".param .u64 x", &body(stride, step));
        run(&text, 1, 32, 0, &[bytes_of_f32(&noise(7, 32 * 32))]).unwrap().report
    };
    let (good, bad) = (report(132, 4), report(128, 128));
    assert_eq!((good.bank_conflicts, bad.bank_conflicts), (0, 31));
    assert_eq!((good.global_sectors, bad.global_sectors), (4, 32));
    assert_eq!((good.global_read_bytes, good.shared_written_bytes, good.shared_read_bytes), (128, 128, 128));
    assert_eq!(bad.bank_conflicts_by_line.values().sum::<u64>(), 31);
    assert_eq!((good.barriers, good.blocks, good.issued_of("ld.")), (1, 1, 3));
    assert_eq!(good.lane_instructions(), 32 * good.issued());
    assert_eq!(f32s(&bytes_of_f32(&[1.0])), [1.0]);
}

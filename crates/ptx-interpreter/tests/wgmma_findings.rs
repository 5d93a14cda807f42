//! A right kernel of warpgroup products, changed in one place in many ways: what is found, by which rule.

mod common;

use common::{f32s, noise, run};
use half::bf16;
use ptx_interpreter::{Error, Rule, ptxas};

const KERNEL: &str = include_str!("kernels/attention_wgmma.ptx");
const KEYS: usize = 128;

/// Multiples of 1/8 in -1..1, so that all sums are exact.
fn matrix(seed: u32, rows: usize) -> Vec<bf16> {
    noise(seed, 64 * rows).into_iter().map(|x| bf16::from_f32((x * 8.0).round() / 8.0)).collect()
}
fn inputs() -> [Vec<bf16>; 3] {
    [matrix(1, 64), matrix(2, KEYS), matrix(3, KEYS)]
}

/// bf16(Q K^T / 8) V.
fn wanted([q, k, v]: &[Vec<bf16>; 3]) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..64).map(|x| q[64 * i + x].to_f64() * k[64 * j + x].to_f64()).sum::<f64>();
    let mut out = vec![0.0; 64 * 64];
    for (i, out) in out.chunks_exact_mut(64).enumerate() {
        for j in 0..KEYS {
            let p = bf16::from_f64(dot(i, j) / 8.0).to_f64();
            out.iter_mut().zip(&v[64 * j..]).for_each(|(out, v)| *out += p * v.to_f64());
        }
    }
    out
}

fn output(text: &str, threads: u32) -> Result<Vec<f32>, Error> {
    let bytes = inputs().map(|x| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let [q, k, v] = bytes;
    Ok(f32s(&run(text, 1, threads, 0, &[q, k, v, vec![0; 4 * 64 * 64]])?.buffers[3]))
}
fn is_right(out: &[f32]) -> bool {
    out.iter().zip(wanted(&inputs())).all(|(got, want)| (f64::from(*got) - want).abs() <= 1e-4)
}

#[test]
fn the_kernel_is_right_and_ptx() {
    assert!(is_right(&output(KERNEL, 128).unwrap_or_else(|e| panic!("{e}"))));
    for usage in ptxas::assemble(KERNEL, "sm_90a").unwrap_or_else(|e| panic!("{e}")) {
        assert_eq!((usage.spills, usage.stack), (0, 0));
    }
}

/// How a change shows itself.
#[derive(Clone, Copy)]
enum Shows {
    /// By a finding with this in its message.
    As(Rule, &'static str),
    /// By wrong numbers.
    Wrong,
    /// By wrong numbers or by any finding, as the place may be.
    Somehow,
}
use Shows::{As, Somehow, Wrong};

const FENCE: &str = "wgmma.fence.sync.aligned;";
const BASE: &str = "add.u64 %base, %base, 0x4000004000010000;";
const SCORES: &str = "wgmma.wait_group.sync.aligned 0; // S";
const OUTPUTS: &str = "wgmma.wait_group.sync.aligned 0; // O";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n    wgmma.wait_group.sync.aligned 0; // O";

/// What is replaced, by what (each place alone), and how that shows.
#[rustfmt::skip]
const CHANGES: &[(&str, &str, Shows)] = &[
    // Registers.
    (FENCE, "", As(Rule::RegisterFence, "wgmma.fence is missing")),
    ("// O += P V\n    wgmma.fence.sync.aligned;", "", As(Rule::RegisterFence, "another instruction wrote %p0 since the last")),
    (SCORES, "", As(Rule::AsyncRegister, "reads %s0, which the wgmma.mma_async of line")),
    (SCORES, "wgmma.wait_group.sync.aligned 1;", As(Rule::AsyncRegister, "reads %s0, which")),
    (OUTPUTS, "wgmma.wait_group.sync.aligned 0; mov.f32 %o3, 0f00000000;", Wrong),
    (COMMIT, "mov.f32 %o3, 0f00000000; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        As(Rule::AsyncRegister, "writes %o3, which the wgmma.mma_async of line")),
    (COMMIT, "mov.b32 %p9, 0; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        As(Rule::AsyncRegister, "writes %p9, which")),
    (COMMIT, "mov.b32 %i, %p9; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        As(Rule::AsyncRegister, "reads %p9, which")),
    (COMMIT, "wgmma.wait_group.sync.aligned 0;", As(Rule::Race, "may still read")), // not in a group
    (COMMIT, "wgmma.wait_group.sync.aligned 0; bra OUT;", As(Rule::AsyncRegister, "ends before wgmma.wait_group covers")),
    (COMMIT, "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%o0, %o1, %o2, %o3}, %dq, %dk, %sums, 1, 1, 0, 0;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        As(Rule::RegisterFence, "%o0 was accumulated by a product of another shape (n = 64)")),
    ("setp.ne.u32 %sums, 0, 0;", "setp.eq.u32 %sums, 0, 0;", As(Rule::UnwrittenRegister, "reads %s0, which was never written")),
    // Shared memory.
    ("fence.proxy.async;", "", As(Rule::ProxyFence, "A: reads bytes 0 and on of shared memory, which thread 0 wrote in line")),
    ("fence.proxy.async;", "fence.proxy.async.global;", As(Rule::ProxyFence, "executed no fence.proxy.async since")),
    ("fence.proxy.async;\n    bar.sync 0;", "bar.sync 0; fence.proxy.async;", As(Rule::ProxyFence, "only after the barrier")),
    ("fence.proxy.async;", "setp.ne.u32 %first, %thread, 77; @%first fence.proxy.async;", As(Rule::ProxyFence, "which thread 77 wrote")),
    ("fence.proxy.async;\n    bar.sync 0; // the tiles are there", "fence.proxy.async;\n", As(Rule::Race, "race: reads bytes that were written by")),
    ("fence.proxy.async;\n    bar.sync 0; // the tiles are there", "fence.proxy.async; bar.warp.sync -1;", As(Rule::UnwrittenMemory, "A: reads byte")),
    ("bar.sync 0; // the tiles may be overwritten", "", As(Rule::Race, "race: reads bytes that were written by")),
    (OUTPUTS, "bar.sync 0; cp.async.cg.shared.global [%to+16384], [%v+0], 16;", As(Rule::Race, "may still read")),
    ("cp.async.wait_group 0;", "", As(Rule::UnwrittenMemory, "a wait is missing")),
    ("cp.async.wait_group 0;\n    fence.proxy.async;", "fence.proxy.async; cp.async.wait_group 0;", As(Rule::ProxyFence, "no fence.proxy.async since")),
    ("cp.async.cg.shared.global [%to+8192], [%k+0], 16;", "", As(Rule::UnwrittenMemory, "B: reads byte")),
    // Descriptors.
    (BASE, "add.u64 %base, %base, 0x4000004000010008;", As(Rule::Descriptor, "lies 128 bytes after a multiple of 1024")),
    (BASE, "add.u64 %base, %base, 0x4000004000010007;", As(Rule::Descriptor, "lies 112 bytes into a row of 128")),
    (BASE, "add.u64 %base, %base, 0x4000002000010000;", As(Rule::Descriptor, "stride byte offset 512 is no multiple of the 1024 bytes")),
    (BASE, "add.u64 %base, %base, 0x4002004000010000;", As(Rule::Descriptor, "has base offset 1")),
    (BASE, "add.u64 %base, %base, 0x4000004000014000;", As(Rule::Descriptor, "has bits that must be 0 (0x4000)")),
    (BASE, "add.u64 %base, %base, 0x400000c000010000;", As(Rule::OutOfBounds, "outside of shared memory")),
    (BASE, "add.u64 %base, %base, 0x4000000000010000;", Wrong),
    (BASE, "add.u64 %base, %base, 0x0000004000010000;", Somehow), // not swizzled
    ("add.u64 %dk, %base, 514;", "add.u64 %dk, %base, 520;", As(Rule::Descriptor, "B: start address")), // 128 bytes on
    ("add.u64 %dk, %base, 514;", "add.u64 %dk, %base, 516;", Wrong),
    ("add.u64 %dv, %base, 1152;", "add.u64 %dv, %base, 1026;", As(Rule::Descriptor, "run out of it")), // as K goes on
    ("add.u64 %dv, %base, 1152;", "add.u64 %dv, %base, 1088;", Wrong), // 8 keys on
    ("%dv, %sums, 1, 1, 1;", "%dv, %sums, 1, 1, 0;", Somehow),
    ("%dq, %dk, %sums, 1, 1, 0, 0;", "%dq, %dk, %sums, 1, 1, 0, 1;", Somehow),
    ("%dk, %sums, 1, 1,", "%dk, %sums, 1, -1,", Wrong),
    ("xor.b32 %c, %c, %i;", "", Wrong),
    ("{%p4, %p5, %p6, %p7}", "{%p4, %p6, %p5, %p7}", Wrong),
    // Warpgroups.
    (BASE, "add.u64 %base, %base, 0x4000004000010000; setp.gt.u32 %more, %thread, 95; @%more add.u64 %base, %base, 64;",
        As(Rule::Warpgroup, "different descriptors")),
    (BASE, "add.u64 %base, %base, 0x4000004000010000; setp.eq.u32 %more, %thread, 40; @%more add.u64 %base, %base, 64;",
        As(Rule::Warpgroup, "the lanes of a warp give different descriptors")),
    ("setp.ne.u32 %sums, %tile, 0;", "setp.gt.u32 %sums, %thread, 63;", As(Rule::Warpgroup, "differ in scale-d")),
    ("bar.sync 0; // the tiles are there", "bar.sync 0; setp.gt.u32 %first, %thread, 95; @%first bra OUT;",
        As(Rule::Warpgroup, "warp 3 of the warpgroup never executes this")),
    ("bar.sync 0; // the tiles are there", "bar.sync 0; setp.eq.u32 %first, %thread, 127; @%first bra OUT;",
        As(Rule::WrongMask, "all 32 lanes must execute this together")),
    ("// O += P V", "setp.lt.u32 %first, %thread, 32; @%first wgmma.fence.sync.aligned;", As(Rule::Warpgroup, "the warps of the warpgroup part")),
];

#[test]
fn every_change_shows() {
    let mut missed = vec![];
    for (old, new, shows) in CHANGES {
        let places: Vec<usize> = KERNEL.match_indices(old).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{old:?} is not in the kernel");
        for at in places {
            let changed = format!("{}{new}{}", &KERNEL[..at], &KERNEL[at + old.len()..]);
            let line = KERNEL[..at].matches('\n').count() + 1;
            let got = match (shows, output(&changed.replace("    ret;", "OUT:\n    ret;"), 128)) {
                (Wrong | Somehow, Ok(out)) if !is_right(&out) => continue,
                (Somehow, Err(_)) => continue,
                (As(rule, says), Err(e)) if e.rule() == Some(*rule) && e.to_string().contains(says) => continue,
                (_, Ok(_)) => "no finding".to_owned(),
                (_, Err(error)) => error.to_string(),
            };
            missed.push(format!("line {line}: {old:?} to {new:?}: {got}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// A block of three warps and one of five have no whole warpgroup at the end.
#[test]
fn warpgroups_are_whole() {
    let text = KERNEL.replace(".maxntid 128, 1, 1", "").replace("bar.sync 0; // the tiles are there", "bar.sync 0;");
    for threads in [96, 160] {
        let error = output(&text, threads).unwrap_err();
        assert!(matches!(error.rule(), Some(Rule::Warpgroup | Rule::OutOfBounds | Rule::Race)), "{error}");
    }
    let error = output(&text, 96).unwrap_err();
    assert_eq!(error.rule(), Some(Rule::Warpgroup), "{error}");
}

/// What is no `wgmma` of the PTX ISA, or none that is known here, is refused.
#[test]
fn unknown_products_are_refused() {
    let refused = |body: &str, says: &str| {
        let head = ".reg .pred %p; .reg .f32 %d<8>; .reg .b32 %a<4>; .reg .b64 %x, %y;";
        let text = common::module("sm_90a", "", "", &format!("{head} {body}"));
        let error = ptx_interpreter::Module::parse(&text).unwrap_err();
        assert!(error.to_string().contains(says), "{body}: {error}");
    };
    let product = "wgmma.mma_async.sync.aligned";
    refused(&format!("{product}.m64n12k16.f32.bf16.bf16 {{%d0}}, %x, %y, %p, 1, 1, 0, 0;"), "is not known");
    refused(&format!("{product}.m64n8k8.f32.tf32.tf32 {{%d0, %d1, %d2, %d3}}, %x, %y, %p, 1, 1;"), "is not known");
    refused(
        &format!("{product}.m64n8k16.f32.bf16.f16 {{%d0, %d1, %d2, %d3}}, %x, %y, %p, 1, 1, 0, 0;"),
        "is not known",
    );
    refused(
        &format!("{product}.m64n8k16.f32.bf16.bf16 {{%d0, %d1}}, %x, %y, %p, 1, 1, 0, 0;"),
        "expected 4 registers, got 2",
    );
    refused(&format!("{product}.m64n8k16.f32.bf16.bf16 {{%d0, %d1, %d2, %d3}}, %x, %y, %p, 1, 1, 0;"), "imm-trans-a");
    refused(
        &format!(
            "{product}.m64n8k16.f32.bf16.bf16 {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, %y, %p, 1, 1, 0, 0;"
        ),
        "imm-trans-a",
    );
    refused(
        &format!("{product}.m64n8k16.f32.bf16.bf16 {{%d0, %d1, %d2, %d3}}, %x, %y, %p, 2, 1, 0, 0;"),
        "imm-scale is 1 or -1, not 2",
    );
    refused("wgmma.wait_group.sync.aligned 8;", "at most 0 to 7");
    refused("fence.proxy.alias;", "is not known");
}

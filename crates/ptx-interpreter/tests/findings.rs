//! Every rule of the checker: a small kernel that breaks it, the finding it gives, and the repaired kernel that passes.

mod common;

use common::run;
use ptx_interpreter::{Rule, ptxas};

/// Registers and addresses that all kernels here share: `%y` is the thread's own word of `y`, `%s` of `tile`.
const HEAD: &str = "
    .reg .pred %p<4>;
    .reg .b32 %r<8>, %t, %s;
    .reg .f32 %f<8>;
    .reg .b64 %x, %y, %base;
    .shared .align 16 .b8 tile[512];
    ld.param.u64 %x, [x];
    ld.param.u64 %base, [y];
    mov.u32 %t, %tid.x;
    mad.wide.u32 %x, %t, 4, %x;
    mad.wide.u32 %y, %t, 4, %base;
    mov.u32 %s, tile;
    mad.lo.u32 %s, %t, 4, %s;
";

struct Try {
    what: &'static str,
    rule: Rule,
    /// Part of the message.
    says: &'static str,
    broken: &'static str,
    repaired: &'static str,
}

const TRIES: &[Try] = &[
    Try {
        what: "a register that only one path writes",
        rule: Rule::UnwrittenRegister,
        says: "reads %r1, which was never written",
        broken: "setp.lt.u32 %p0, %t, 31; @%p0 mov.u32 %r1, 1; st.global.u32 [%y], %r1;",
        repaired: "setp.lt.u32 %p0, %t, 31; mov.u32 %r1, 0; @%p0 mov.u32 %r1, 1; st.global.u32 [%y], %r1;",
    },
    Try {
        what: "a predicate that nobody wrote",
        rule: Rule::UnwrittenRegister,
        says: "reads %p1",
        broken: "@%p1 st.global.u32 [%y], %t;",
        repaired: "setp.lt.u32 %p1, %t, 64; @%p1 st.global.u32 [%y], %t;",
    },
    Try {
        what: "shared memory that nobody wrote",
        rule: Rule::UnwrittenMemory,
        says: "shared memory, which was never written",
        broken: "ld.shared.u32 %r0, [%s]; st.global.u32 [%y], %r0;",
        repaired: "st.shared.u32 [%s], %t; ld.shared.u32 %r0, [%s]; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "one word beyond a buffer",
        rule: Rule::OutOfBounds,
        says: "outside of buffer 0 (256 bytes)",
        broken: "ld.global.u32 %r0, [%x+4]; st.global.u32 [%y], %r0;",
        repaired: "ld.global.u32 %r0, [%x]; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "one word before a buffer",
        rule: Rule::OutOfBounds,
        says: "4 bytes at offset -4 are outside of buffer 1",
        broken: "st.global.u32 [%y+-4], %t;",
        repaired: "st.global.u32 [%y], %t;",
    },
    Try {
        what: "an address that is none",
        rule: Rule::OutOfBounds,
        says: "is in no allocation",
        broken: "cvt.u64.u32 %y, %t; shl.b64 %y, %y, 2; st.global.u32 [%y], %t;",
        repaired: "st.global.u32 [%y], %t;",
    },
    Try {
        what: "shared memory beyond its end",
        rule: Rule::OutOfBounds,
        says: "outside of shared memory (512 bytes)",
        broken: "st.shared.u32 [%s+260], %t;",
        repaired: "st.shared.u32 [%s+256], %t;",
    },
    Try {
        what: "a misaligned vector",
        rule: Rule::Misaligned,
        says: "is no multiple of the 8 bytes",
        broken: "ld.global.v2.u32 {%r0, %r1}, [%x]; st.global.u32 [%y], %r0;",
        repaired: "mul.wide.u32 %y, %t, 4; add.u64 %y, %y, %base; and.b64 %x, %x, -8;
            ld.global.v2.u32 {%r0, %r1}, [%x]; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "a missing barrier between warps: read after write",
        rule: Rule::Race,
        says: "and no barrier lies between",
        broken: "mov.u32 %r5, 0; st.shared.u32 [%s], %r5; bar.sync 0; st.shared.u32 [%s], %t; xor.b32 %r0, %t, 32; shl.b32 %r0, %r0, 2; mov.u32 %r1, tile;
            add.u32 %r0, %r0, %r1; ld.shared.u32 %r2, [%r0]; st.global.u32 [%y], %r2;",
        repaired: "mov.u32 %r5, 0; st.shared.u32 [%s], %r5; bar.sync 0; st.shared.u32 [%s], %t; xor.b32 %r0, %t, 32; shl.b32 %r0, %r0, 2; mov.u32 %r1, tile;
            add.u32 %r0, %r0, %r1; bar.sync 0; ld.shared.u32 %r2, [%r0]; st.global.u32 [%y], %r2;",
    },
    Try {
        what: "a missing barrier between warps: write after read",
        rule: Rule::Race,
        says: "race: writes bytes that were read by",
        broken: "st.shared.u32 [%s], %t; bar.sync 0; ld.shared.u32 %r0, [tile]; setp.eq.u32 %p0, %t, 0;
            @%p0 st.shared.u32 [tile], 7; st.global.u32 [%y], %r0;",
        repaired: "st.shared.u32 [%s], %t; bar.sync 0; ld.shared.u32 %r0, [tile]; setp.eq.u32 %p0, %t, 0;
            bar.sync 0; @%p0 st.shared.u32 [tile], 7; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "lanes of a warp that trust in lockstep",
        rule: Rule::Race,
        says: "race: reads bytes that were written by thread",
        broken: "st.shared.u32 [%s], %t; xor.b32 %r0, %s, 4; ld.shared.u32 %r2, [%r0]; st.global.u32 [%y], %r2;",
        repaired: "st.shared.u32 [%s], %t; bar.warp.sync -1; xor.b32 %r0, %s, 4; ld.shared.u32 %r2, [%r0];
            st.global.u32 [%y], %r2;",
    },
    Try {
        what: "two threads that write one word",
        rule: Rule::Race,
        says: "race: writes bytes that were written by",
        broken: "st.global.u32 [%base], %t;",
        repaired: "setp.eq.u32 %p0, %t, 0; @%p0 st.global.u32 [%base], %t;",
    },
    Try {
        what: "a plain read beside atomics",
        rule: Rule::Race,
        says: "race: reads bytes that were written by",
        broken: "red.global.add.u32 [%base], 1; ld.global.u32 %r0, [%base];",
        repaired: "red.global.add.u32 [%base], 1; bar.sync 0; ld.global.u32 %r0, [%base];",
    },
    Try {
        what: "a barrier that half of a warp reaches",
        rule: Rule::Barrier,
        says: "only 16 of the 32 live lanes of the warp reach this barrier",
        broken: "and.b32 %r0, %t, 16; setp.eq.u32 %p0, %r0, 0; @%p0 bar.sync 0;",
        repaired: "and.b32 %r0, %t, 16; setp.eq.u32 %p0, %r0, 0; bar.sync 0;",
    },
    Try {
        what: "a barrier that one warp never reaches",
        rule: Rule::Barrier,
        says: "no warp can go on: barrier 1 has 32 of 64 threads",
        broken: "setp.lt.u32 %p0, %t, 32; @!%p0 bra END; bar.sync 1, 64; END:",
        repaired: "setp.lt.u32 %p0, %t, 32; @!%p0 bra END; bar.sync 1, 32; END:",
    },
    Try {
        what: "a barrier with two counts",
        rule: Rule::Barrier,
        says: "used with two counts",
        broken: "setp.lt.u32 %p0, %t, 32; @%p0 bra A; bar.sync 1, 64; bra END; A: bar.arrive 1, 96; END:",
        repaired: "setp.lt.u32 %p0, %t, 32; @%p0 bra A; bar.sync 1, 64; bra END; A: bar.arrive 1, 64; END:",
    },
    Try {
        what: "a shuffle that half of a warp reaches",
        rule: Rule::WrongMask,
        says: "the member mask is 0xffffffff, but the lanes here are 0x0000ffff",
        broken: "and.b32 %r0, %t, 16; setp.eq.u32 %p0, %r0, 0; @%p0 shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;",
        repaired: "and.b32 %r0, %t, 16; setp.eq.u32 %p0, %r0, 0; @%p0 shfl.sync.bfly.b32 %r1, %t, 1, 31, 0xffff;",
    },
    Try {
        what: "a shuffle that reads a lane that is not there",
        rule: Rule::WrongMask,
        says: "reads lane 16, which takes no part",
        broken: "and.b32 %r0, %t, 16; setp.eq.u32 %p0, %r0, 0;
            @%p0 shfl.sync.bfly.b32 %r1, %t, 16, 31, 0xffff;",
        repaired: "and.b32 %r0, %t, 16; setp.eq.u32 %p0, %r0, 0;
            @%p0 shfl.sync.bfly.b32 %r1, %t, 8, 31, 0xffff;",
    },
    Try {
        what: "a matrix instruction without a lane",
        rule: Rule::WrongMask,
        says: "all 32 lanes must execute this together",
        broken: "setp.ne.u32 %p0, %t, 5; st.shared.u32 [%s], %t; bar.sync 0; mov.u32 %r1, tile; and.b32 %r2, %t, 7;
            mad.lo.u32 %r1, %r2, 16, %r1; @%p0 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r1];",
        repaired: "setp.ne.u32 %p0, %t, 5; st.shared.u32 [%s], %t; bar.sync 0; mov.u32 %r1, tile; and.b32 %r2, %t, 7;
            mad.lo.u32 %r1, %r2, 16, %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r1];",
    },
    Try {
        what: "a copy that nobody waited for",
        rule: Rule::UnwrittenMemory,
        says: "which an asynchronous copy has not delivered: a wait is missing",
        broken: "cp.async.ca.shared.global [%s], [%x], 4; cp.async.commit_group; bar.sync 0;
            ld.shared.u32 %r0, [%s]; st.global.u32 [%y], %r0;",
        repaired: "cp.async.ca.shared.global [%s], [%x], 4; cp.async.commit_group; cp.async.wait_group 0;
            ld.shared.u32 %r0, [%s]; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "a copy that others waited for, without a barrier",
        rule: Rule::Race,
        says: "and no barrier lies between",
        broken: "cp.async.ca.shared.global [%s], [%x], 4; cp.async.wait_all; xor.b32 %r0, %s, 4;
            ld.shared.u32 %r0, [%r0]; st.global.u32 [%y], %r0;",
        repaired: "cp.async.ca.shared.global [%s], [%x], 4; cp.async.wait_all; bar.sync 0; xor.b32 %r0, %s, 4;
            ld.shared.u32 %r0, [%r0]; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "a wait for too few groups",
        rule: Rule::UnwrittenMemory,
        says: "a wait is missing",
        broken: "cp.async.ca.shared.global [%s], [%x], 4; cp.async.commit_group;
            cp.async.ca.shared.global [%s+256], [%x], 4; cp.async.commit_group; cp.async.wait_group 1;
            ld.shared.u32 %r0, [%s+256]; st.global.u32 [%y], %r0;",
        repaired: "cp.async.ca.shared.global [%s], [%x], 4; cp.async.commit_group;
            cp.async.ca.shared.global [%s+256], [%x], 4; cp.async.commit_group; cp.async.wait_group 1;
            ld.shared.u32 %r0, [%s]; st.global.u32 [%y], %r0;",
    },
    Try {
        what: "a loop without an end",
        rule: Rule::Endless,
        says: "loop without an end",
        broken: "mov.u32 %r0, 0; LOOP: add.u32 %r0, %r0, 1; setp.ne.u32 %p0, %r0, -2; @%p0 bra LOOP;",
        repaired: "mov.u32 %r0, 0; LOOP: add.u32 %r0, %r0, 1; setp.ne.u32 %p0, %r0, 9; @%p0 bra LOOP;",
    },
];

fn text(body: &str) -> String {
    let body = body.replace("; ", ";\n    ");
    common::module("sm_80", "", ".param .u64 x, .param .u64 y", &format!("{HEAD}    {body}\n    ret;"))
}

#[test]
fn every_rule_bites_and_lets_the_repaired_kernel_pass() {
    let buffers = [common::bytes_of_u32(&(0..64).collect::<Vec<_>>()), vec![0; 256]];
    for one in TRIES {
        let broken = text(one.broken);
        let error = run(&broken, 1, 64, 0, &buffers).expect_err(one.what);
        assert_eq!(error.rule(), Some(one.rule), "{}: {error}", one.what);
        assert!(error.to_string().contains(one.says), "{}: {error}", one.what);
        assert!(error.to_string().starts_with("kernel k, line "), "{error}");
        run(&text(one.repaired), 1, 64, 0, &buffers).unwrap_or_else(|e| panic!("{}, repaired: {e}", one.what));
        // Broken or not, it is PTX.
        for text in [&broken, &text(one.repaired)] {
            ptxas::assemble(text, "sm_80").unwrap_or_else(|e| panic!("{}: {e}", one.what));
        }
    }
}

/// Blocks of one launch race; the next launch does not.
#[test]
fn blocks_are_not_ordered() {
    let store = text("setp.eq.u32 %p0, %t, 0; @%p0 st.global.u32 [%base], %t;");
    let buffers = [vec![0; 256], vec![0; 256]];
    let error = run(&store, 2, 64, 0, &buffers).unwrap_err();
    assert_eq!(error.rule(), Some(Rule::Race));
    assert!(error.to_string().contains("of another block in line"), "{error}");
    run(&store, 1, 64, 0, &buffers).unwrap();
    run(&text("red.global.add.u32 [%base], 1;"), 3, 64, 0, &buffers).unwrap();
    let load = text("ld.global.u32 %r0, [%base];");
    let [store, load] = [store, load].map(|text| ptx_interpreter::Module::parse(&text).unwrap());
    let mut machine = ptx_interpreter::Machine::new();
    let (x, y) = (machine.alloc("x", 256), machine.alloc("y", 256));
    for _ in 0..2 {
        for (module, blocks) in [(&store, 1), (&load, 3), (&load, 1)] {
            machine.launch(module, "k", [blocks, 1, 1], [64, 1, 1], 0, &[x.into(), y.into()]).unwrap();
        }
    }
}

/// What is not written comes from nowhere.
#[test]
fn unwritten_buffers_are_found() {
    let module = ptx_interpreter::Module::parse(&text("ld.global.u32 %r0, [%x]; st.global.u32 [%y], %r0;")).unwrap();
    let mut machine = ptx_interpreter::Machine::new();
    let (x, y) = (machine.alloc("weights", 256), machine.alloc("y", 256));
    let error = machine.launch(&module, "k", [1, 1, 1], [64, 1, 1], 0, &[x.into(), y.into()]).unwrap_err();
    assert_eq!(error.rule(), Some(Rule::UnwrittenMemory));
    assert!(error.to_string().contains("reads byte 0 of weights, which was never written"), "{error}");
    assert_eq!(machine.download(y).unwrap_err().to_string(), "byte 0 of y was never written");
}

/// A named barrier orders those who take part, and nobody else.
#[test]
fn named_barriers_order_their_threads() {
    // Warp 0 produces, warp 1 consumes, twice; the second round reuses the word after "empty" (barrier 2).
    let body = |empty: &str| {
        format!(
            "setp.lt.u32 %p0, %t, 32; mov.u32 %r0, 0; mov.u32 %r3, tile; and.b32 %r4, %t, 31; mad.lo.u32 %r3, %r4, 4, %r3;
            @!%p0 bra CONSUME;
            PRODUCE: setp.eq.u32 %p1, %r0, 0; @%p1 bra FIRST; {} FIRST: st.shared.u32 [%r3], %r0; bar.arrive 1, 64;
            add.u32 %r0, %r0, 1; setp.lt.u32 %p1, %r0, 2; @%p1 bra PRODUCE; bra END;
            CONSUME: bar.sync 1, 64; ld.shared.u32 %r1, [tile]; st.global.u32 [%y], %r1; setp.eq.u32 %p1, %r0, 1;
            @%p1 bra END; {} add.u32 %r0, %r0, 1; bra CONSUME; END:",
            if empty.is_empty() { "" } else { "bar.sync 2, 64;" },
            empty
        )
    };
    let buffers = [vec![0; 256], vec![0; 256]];
    let whole = text(&body("bar.arrive 2, 64;"));
    ptxas::assemble(&whole, "sm_80").unwrap_or_else(|e| panic!("{e}"));
    let out = run(&whole, 1, 64, 0, &buffers).unwrap().buffers.remove(1);
    assert_eq!(common::u32s(&out)[32..], [1; 32]);
    let error = run(&text(&body("")), 1, 64, 0, &buffers).unwrap_err();
    assert!(matches!(error.rule(), Some(Rule::Race | Rule::Barrier)), "{error}");
}

/// What it does not know, it refuses by name and line.
#[test]
fn unknown_text_is_refused() {
    let refused = |body: &str, says: &str| {
        let error = ptx_interpreter::Module::parse(&common::module("sm_80", "", ".param .u64 x", body)).unwrap_err();
        assert!(error.to_string().contains(says), "{body}: {error}");
    };
    refused(".reg .b32 %r;\nmad24.lo.s32 %r, %r, %r, %r;", "line 8: instruction mad24.lo.s32 is not known");
    refused(".reg .f32 %r; add.rz.f32 %r, %r, %r;", "modifier .rz of add.rz.f32 is not known");
    refused("bra NOWHERE;", "there is no label NOWHERE");
    refused(".reg .b32 %r; mov.u32 %r, %s;", "%s is neither declared nor a known special register");
    refused(".reg .b32 %r; .reg .b64 %q; mov.u32 %r, %q;", "%q has 8 bytes, the instruction works on 4");
    refused(".reg .b32 %r, %r;", "%r is declared twice");
    refused(".reg .b32 %r; ld.param.u32 %r, [x+8];", "bytes 8 to 12 of x are read, it has 8");
    refused(".reg .f32 %f; add.f32 %f, %f, 1;", "1 is a whole number");
    refused("bar.sync 0", "expected ';'");
    refused(".local .b32 x;", ".local is not supported");
}

/// Labels and registers live in their blocks, so that pieces of text can be used twice.
#[test]
fn blocks_have_names_of_their_own() {
    let piece = "{ .reg .b32 %i; .reg .pred %q; mov.u32 %i, 0;
        L: add.u32 %r0, %r0, 2; add.u32 %i, %i, 1; setp.lt.u32 %q, %i, 3; @%q bra L; }";
    let whole = text(&format!("mov.u32 %r0, 0; {piece} {piece} st.global.u32 [%y], %r0;"));
    ptxas::assemble(&whole, "sm_80").unwrap_or_else(|e| panic!("{e}"));
    let out = run(&whole, 1, 64, 0, &[vec![0; 256], vec![0; 256]]).unwrap().buffers.remove(1);
    assert_eq!(common::u32s(&out), [12; 64]);
}

/// Lanes part and meet: each lane loops as often as its number says, and all meet for the shuffle.
#[test]
fn lanes_meet_again() {
    let body = "mov.u32 %r0, 0; mov.u32 %r1, 0; and.b32 %r2, %t, 31;
        LOOP: setp.ge.u32 %p0, %r0, %r2; @%p0 bra DONE; and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 0; @%p1 bra EVEN;
        add.u32 %r1, %r1, 3; bra NEXT; EVEN: add.u32 %r1, %r1, 10; NEXT: add.u32 %r0, %r0, 1; bra LOOP;
        DONE: shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1; st.global.u32 [%y], %r4;";
    let whole = text(body);
    ptxas::assemble(&whole, "sm_80").unwrap_or_else(|e| panic!("{e}"));
    let out = run(&whole, 1, 64, 0, &[vec![0; 256], vec![0; 256]]).unwrap().buffers.remove(1);
    let sum = |n: u32| (0..n).map(|i| if i % 2 == 0 { 10 } else { 3 }).sum::<u32>();
    assert_eq!(common::u32s(&out), (0..64).map(|t| sum((t ^ 1) % 32)).collect::<Vec<_>>());
}

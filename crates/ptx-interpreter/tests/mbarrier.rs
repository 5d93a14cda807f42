//! `mbarrier` and bulk copies: a right pipeline, and what is found when it is changed in one place.

mod common;

use common::{bytes_of_u32, run, u32s};
use ptx_interpreter::{Error, Rule, ptxas};

const KERNEL: &str = include_str!("kernels/pipeline.ptx");

fn output(text: &str) -> Result<Vec<u32>, Error> {
    let x: Vec<u32> = (0..6 * 128).map(|i| i * i % 1009).collect();
    Ok(u32s(&run(text, 1, 160, 0, &[bytes_of_u32(&x), vec![0; 512]])?.buffers[1]))
}
fn is_right(out: &[u32]) -> bool {
    let want = |t: u32| (0..6).map(|tile| tile * 128 + t).map(|i| i * i % 1009).sum::<u32>();
    out.iter().zip(0..).all(|(got, t)| *got == want(t))
}

const BRING: &str = "%p, %thread, 128;\n    @%p bra END;";
const COPY: &str = "[%data], [%x], 512, [%full]";

/// What is replaced, by what (each place alone), the rule that finds it and a part of its message; no rule: wrong numbers.
#[rustfmt::skip]
const CHANGES: &[(&str, &str, Option<Rule>, &str)] = &[
    ("fence.mbarrier_init.release.cluster;", "", Some(Rule::ProxyFence), "is not known to bulk copies"),
    ("bar.sync 0;", "", Some(Rule::Race), "written by thread 0"),
    ("mbarrier.init.shared::cta.b64 [barriers+8], 1;", "", Some(Rule::Barrier), "there is no mbarrier at byte 1032"),
    ("mbarrier.init.shared::cta.b64 [barriers+8], 1;", "mbarrier.init.shared::cta.b64 [barriers], 1;",
        Some(Rule::Barrier), "mbarrier.inval must come first"),
    ("mbarrier.init.shared::cta.b64 [barriers+8], 1;", "mbarrier.init.shared::cta.b64 [barriers+12], 1;", Some(Rule::Misaligned), "8 bytes"),
    ("[barriers+16], 128;", "[barriers+16], 127;", Some(Rule::Barrier), "arrive in phase 0 and in phase 1"),
    ("[barriers+16], 128;", "[barriers+16], 129;", Some(Rule::Barrier), "has 128 of 129 arrivals"),
    ("[%full], 512;\n    cp", "[%full], 1024;\n    cp", Some(Rule::Barrier), "misses 512 bytes in phase 0"),
    ("arrive.expect_tx.shared::cta.b64 _, [%full], 512;", "arrive.shared::cta.b64 _, [%full];", Some(Rule::UnwrittenMemory), "a wait is missing"),
    ("@!%done bra FREE;", "", Some(Rule::Race), "race: writes bytes"),
    ("@!%done bra HERE;", "", Some(Rule::UnwrittenMemory), "reads byte"),
    ("xor.b32 %phase, %phase, 1;", "", Some(Rule::Barrier), "no warp can go on"),
    ("mbarrier.arrive.shared::cta.b64 %state, [%empty];", "", Some(Rule::Barrier), "no warp can go on"),
    // Released before it is read.
    ("    ld.shared.u32 %v, [%r];\n    add.u32 %sum, %sum, %v;\n    mbarrier.arrive.shared::cta.b64 %state, [%empty];",
        "    mbarrier.arrive.shared::cta.b64 %state, [%empty];\n    ld.shared.u32 %v, [%r];\n    add.u32 %sum, %sum, %v;",
        Some(Rule::Race), "race: writes bytes that were read by"),
    ("ld.shared.u32 %v, [%r];", "ld.shared.u32 %v, [%full];", Some(Rule::Barrier), "touches the mbarrier at byte 1024"),
    ("ld.shared.u32 %v, [%r];", "ld.shared.u32 %v, [%data];", None, ""),
    (COPY, "[%data+8], [%x], 512, [%full]", Some(Rule::Misaligned), "destination"),
    (COPY, "[%data], [%x+4], 512, [%full]", Some(Rule::Misaligned), "source"),
    (COPY, "[%data], [%x], 508, [%full]", Some(Rule::Misaligned), "size"),
    (COPY, "[%data], [%x+16], 512, [%full]", Some(Rule::OutOfBounds), "outside of buffer 0"),
    (COPY, "[%data+16], [%x], 512, [%full]", Some(Rule::Barrier), "touches the mbarrier at byte 1024"),
    (BRING, "%p, %thread, 128;", Some(Rule::Barrier), "which waits for 0 more in this phase"),
    ("%more, %tile, 6;\n    @%more bra ADD;", "%more, %tile, 5;\n    @%more bra ADD;", Some(Rule::Barrier), "nobody waited"),
];

#[test]
fn every_change_shows() {
    assert!(is_right(&output(KERNEL).unwrap_or_else(|e| panic!("{e}"))));
    ptxas::assemble(KERNEL, "sm_90a").unwrap_or_else(|e| panic!("{e}"));
    let mut missed = vec![];
    for (old, new, rule, says) in CHANGES {
        let places: Vec<usize> = KERNEL.match_indices(old).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{old:?} is not in the kernel");
        for at in places {
            let changed = format!("{}{new}{}", &KERNEL[..at], &KERNEL[at + old.len()..]);
            let line = KERNEL[..at].matches('\n').count() + 1;
            let got = match output(&changed) {
                Ok(out) if rule.is_none() && !is_right(&out) => continue,
                Err(error) if error.rule() == *rule && error.to_string().contains(says) => continue,
                Ok(_) => "no finding".to_owned(),
                Err(error) => error.to_string(),
            };
            missed.push(format!("line {line}: {old:?} to {new:?}: {got}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The other forms: `test_wait` by the phase that an arrival gave, `expect_tx` alone, counts, `inval`, generic addresses.
#[test]
fn other_forms() {
    let body = "
    .reg .pred %p, %q;
    .reg .b32 %t, %a, %r<4>;
    .reg .b64 %x, %y, %state, %g;
    .shared .align 16 .b8 tile[128];
    .shared .align 8 .b64 barrier;
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    mov.u32 %t, %tid.x;
    mov.u32 %a, barrier;
    cvta.shared.u64 %g, barrier;
    setp.eq.u32 %p, %t, 0;
    @%p mbarrier.init.b64 [%g], 34;
    @%p fence.proxy.async;
    bar.sync 0;
    mbarrier.arrive.release.cta.shared::cta.b64 %state, [%a];
    setp.ne.u32 %q, %t, 0;
    @%q bra ASK;
    mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%a], 128;
    mov.u32 %r0, 128;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%x], %r0, [%a];
    mbarrier.arrive.shared::cta.b64 _, [%a], 2;
ASK:
    mbarrier.test_wait.shared::cta.b64 %q, [%a], %state;
    @!%q bra ASK;
    mad.lo.u32 %r1, %t, 4, 0;
    mov.u32 %r2, tile;
    add.u32 %r1, %r1, %r2;
    ld.shared.u32 %r3, [%r1];
    mad.wide.u32 %y, %t, 4, %y;
    st.global.u32 [%y], %r3;
    bar.sync 0;
    @%p mbarrier.inval.shared::cta.b64 [%a];
    @%p mbarrier.init.shared::cta.b64 [%a], 1;
    setmaxnreg.dec.sync.aligned.u32 24;
    ret;";
    let text =
        common::module("sm_90a", "", ".param .u64 x, .param .u64 y", body).replace("y)\n{", "y) .maxntid 32, 1, 1\n{");
    ptxas::assemble(&text.replace("setmaxnreg.dec.sync.aligned.u32 24;", ""), "sm_90a")
        .unwrap_or_else(|e| panic!("{e}"));
    let x: Vec<u32> = (100..132).collect();
    let buffers = [bytes_of_u32(&x), vec![0; 128]];
    let error = run(&text, 1, 32, 0, &buffers).unwrap_err();
    assert_eq!(error.rule(), Some(Rule::Warpgroup), "{error}");
    let out = run(&text.replace("setmaxnreg.dec.sync.aligned.u32 24;", ""), 1, 32, 0, &buffers).unwrap();
    assert_eq!(u32s(&out.buffers[1]), x);
    assert_eq!((out.report.shared_written_bytes, out.report.global_read_bytes), (128, 128));
    let error = ptx_interpreter::Module::parse(&text.replace("u32 24", "u32 20")).unwrap_err();
    assert!(error.to_string().contains("setmaxnreg takes a multiple of 8 from 24 to 256, not 20"), "{error}");
}

/// Two warpgroups change their registers, each for itself.
#[test]
fn registers_move() {
    let body = "
    .reg .pred %p;
    .reg .b32 %t;
    .reg .b64 %y;
    ld.param.u64 %y, [y];
    mov.u32 %t, %tid.x;
    mad.wide.u32 %y, %t, 4, %y;
    setp.lt.u32 %p, %t, 128;
    @%p bra MORE;
    setmaxnreg.dec.sync.aligned.u32 40;
    bra DONE;
MORE:
    setmaxnreg.inc.sync.aligned.u32 232;
DONE:
    st.global.u32 [%y], %t;
    ret;";
    let text = common::module("sm_90a", "", ".param .u64 y", body).replace("y)\n{", "y) .maxntid 256, 1, 1\n{");
    ptxas::assemble(&text, "sm_90a").unwrap_or_else(|e| panic!("{e}"));
    let run = |text: &str| run(text, 1, 256, 0, &[vec![0; 1024]]);
    assert_eq!(u32s(&run(&text).unwrap().buffers[0]), (0..256).collect::<Vec<_>>());
    let error = run(&text.replace("%t, 128;", "%t, 96;")).unwrap_err();
    assert_eq!(error.rule(), Some(Rule::Warpgroup), "{error}");
}

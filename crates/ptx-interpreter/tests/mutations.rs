//! Does the checker bite? Four right kernels, each changed in one place in many ways: every change must be found, by a
//! finding or by a wrong result.

mod common;

use std::time::Instant;

use common::{bytes_of_f32, f32s, noise, run};
use half::{bf16, f16};
use ptx_interpreter::ptxas;

struct Subject {
    text: &'static str,
    grid: u32,
    threads: u32,
    buffers: Vec<Vec<u8>>,
    want: Vec<f64>,
}

fn matmul(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let cell = |i: usize, j: usize| (0..k).map(|x| a[i * k + x] * b[x * n + j]).sum();
    (0..m * n).map(|at| cell(at / n, at % n)).collect()
}
fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn matmul_f32() -> Subject {
    let (a, b) = (noise(1, 64 * 64), noise(2, 64 * 64));
    Subject {
        text: include_str!("kernels/matmul_f32.ptx"),
        grid: 4,
        threads: 64,
        want: matmul(&wide(&a), &wide(&b), 64, 64, 64),
        buffers: vec![bytes_of_f32(&a), bytes_of_f32(&b), vec![0; 4 * 64 * 64]],
    }
}
fn row_sum() -> Subject {
    let x = noise(3, 5 * 300);
    Subject {
        text: include_str!("kernels/row_sum.ptx"),
        grid: 5,
        threads: 128,
        want: x.chunks(300).map(|row| row.iter().map(|x| f64::from(*x)).sum()).collect(),
        buffers: vec![bytes_of_f32(&x), vec![0; 20]],
    }
}
fn matmul_bf16() -> Subject {
    let round = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (a, b) = (round(noise(4, 32 * 64)), round(noise(5, 64 * 16)));
    let values = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let bytes = |x: &[bf16]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    Subject {
        text: include_str!("kernels/matmul_bf16.ptx"),
        grid: 1,
        threads: 64,
        want: matmul(&values(&a), &values(&b), 32, 64, 16),
        buffers: vec![bytes(&a), bytes(&b), vec![0; 4 * 32 * 16]],
    }
}
fn matmul_volta() -> Subject {
    let round = |x: Vec<f32>| x.into_iter().map(f16::from_f32).collect::<Vec<_>>();
    let (a, b) = (round(noise(6, 16 * 8)), round(noise(7, 8 * 16)));
    let values = |x: &[f16]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let bytes = |x: &[f16]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    Subject {
        text: include_str!("kernels/matmul_volta.ptx"),
        grid: 1,
        threads: 32,
        want: matmul(&values(&a), &values(&b), 16, 8, 16),
        buffers: vec![bytes(&a), bytes(&b), vec![0; 4 * 16 * 16]],
    }
}

impl Subject {
    /// What is wrong with `text`, if it is found.
    fn fault(&self, text: &str) -> Option<String> {
        let run = std::panic::catch_unwind(|| run(text, self.grid, self.threads, 0, &self.buffers));
        let Ok(run) = run else { return Some("the schedules disagree".to_owned()) };
        let out = match run {
            Ok(run) => f32s(run.buffers.last().expect("a result")),
            Err(error) => return Some(error.to_string()),
        };
        let off = out.iter().zip(&self.want).position(|(got, want)| (f64::from(*got) - want).abs() > 1e-4)?;
        Some(format!("element {off} is {}, expected {}", out[off], self.want[off]))
    }
    /// Applies each change alone; a change is `(old, new)`, and may hit several lines, which are then tried one by one.
    fn survive(&self, changes: &[(&str, &str)]) {
        assert_eq!(self.fault(self.text), None, "the kernel itself is wrong");
        let mut tried = 0;
        for (old, new) in changes {
            let places: Vec<usize> = self.text.match_indices(old).map(|(at, _)| at).collect();
            assert!(!places.is_empty(), "{old:?} is not in the kernel");
            for at in places {
                let changed = format!("{}{new}{}", &self.text[..at], &self.text[at + old.len()..]);
                let line = self.text[..at].matches('\n').count() + 1;
                let fault = self.fault(&changed);
                println!("line {line}: {old:?} to {new:?}: {}", fault.as_deref().unwrap_or("NOT FOUND"));
                assert!(fault.is_some(), "line {line}: {old:?} to {new:?} is not found");
                tried += 1;
            }
        }
        println!("{tried} changes found");
    }
}

#[test]
fn tiled_matmul() {
    matmul_f32().survive(&[
        ("    bar.sync 0; ", "    "),           // each barrier
        ("bar.sync 0; ", "bar.warp.sync -1; "), // ordered in warps only
        ("%at, 34, %j", "%at, 33, %j"),         // strides
        ("%row, 136, %a_at", "%row, 132, %a_at"),
        ("%at, 36, %j", "%at, 32, %j"),
        ("%b_at, %b_at, 144", "%b_at, %b_at, 128"),
        ("[%a_at+272]", "[%a_at+268]"),
        ("%a_at, %a_at, 6;", "%a_at, %a_at, 5;"),
        ("%i, 1024;", "%i, 960;"),                                    // a tile not quite filled
        ("%i, %i, 64;", "%i, %i, 32;"),                               // filled twice, by two warps
        ("%k, %k, 32;", "%k, %k, 64;"),                               // half of the sum
        ("setp.lt.u32 %more, %k, 64;", "setp.le.u32 %more, %k, 64;"), // one tile too many
        ("mov.f32 %sum7, 0f00000000;", ""),                           // a register not cleared
        ("%x2, %y1, %sum9", "%x1, %y1, %sum9"),
        ("[%c+512]", "[%c+516]"),
    ]);
}

#[test]
fn reduction_by_shuffles() {
    row_sum().survive(&[
        ("    bar.sync 0;", ""),
        ("bar.sync 0;", "@%first bar.sync 0;"), // reached by one lane
        ("@%first st.shared", "st.shared"),     // all lanes write one word
        ("0xffffffff", "0x0000ffff"),           // half of the mask
        ("%sum, 16, 31", "%sum, 8, 31"),
        ("%sum, 1, 31", "%sum, 1, 0"),
        ("%thread, 31;", "%thread, 63;"),
        ("%thread, 5;", "%thread, 6;"),
        ("%i, 300;", "%i, 301;"), // one beyond the row
        ("%more, %i, 300;", "%more, %i, 299;"),
        ("bra ADDED", "bra DONE"), // lanes leave before the shuffle
        ("[partial+12]", "[partial+16]"),
        ("[partial+12]", "[partial+10]"),
        ("mov.f32 %sum, 0f00000000;", ""),
        ("%block, 1200", "%block, 1196"),
    ]);
}

#[test]
fn tensor_cores_with_asynchronous_copies() {
    matmul_bf16().survive(&[
        ("    bar.sync 0; ", "    "),
        ("    bar.sync 1; ", "    "),
        ("cp.async.wait_group 1;", ""),
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;"),
        ("LOADED:\n    cp.async.commit_group; ", "LOADED:\n    "), // the groups are one late
        ("8.x4.trans.shared", "8.x4.shared"),                      // not transposed
        ("8.x4.shared", "8.x4.trans.shared"),
        ("{%x0, %x1, %x2, %x3}, [%at]", "{%x0, %x2, %x1, %x3}, [%at]"), // fragments swapped
        ("{%y0, %y1}", "{%y1, %y0}"),
        ("{%y2, %y3}", "{%y0, %y3}"),
        ("{%c0, %c1, %c2, %c3}, {%x0", "{%c2, %c1, %c0, %c3}, {%x0"),
        ("%row, 48, %a_from", "%row, 32, %a_from"), // strides
        ("%row, 48, %b_to", "%row, 56, %b_to"),
        ("%warp, 768, %a_from", "%warp, 752, %a_from"),
        ("%stage, 1536", "%stage, 768"),
        ("%i, 768, %b_to", "%i, 0, %b_to"), // one stage for both
        ("%b, %b, 512", "%b, %b, 256"),
        ("and.b32 %stage, %k, 1", "and.b32 %stage, %k, 0"),
        ("setp.lt.u32 %loads_b, %thread, 32", "setp.lt.u32 %loads_b, %thread, 34"),
        ("setp.lt.u32 %loads_b, %thread, 32", "setp.lt.u32 %loads_b, %thread, 31"),
        ("[%out+544]", "[%out+512]"),
        ("bar.sync 1;", "setp.eq.u32 %more, %lane, 0; @%more bar.sync 1;"),
    ]);
}

#[test]
fn tensor_cores_of_volta() {
    matmul_volta().survive(&[
        ("k4.row.row", "k4.col.row"), // layouts
        ("k4.row.row", "k4.row.col"),
        ("{%x0, %x1}, {%y0", "{%x1, %x0}, {%y0"), // fragments swapped
        ("{%x2, %x3}, {%y2", "{%x0, %x1}, {%y2"),
        ("{%y2, %y3}, {%c0", "{%y3, %y2}, {%c0"),
        ("%c6, %c7}, {%x0", "%c7, %c6}, {%x0"),
        ("{%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7}, {%x2", "{%c4, %c5, %c6, %c7, %c0, %c1, %c2, %c3}, {%x2"),
        ("%lane, 7;", "%lane, 3;"), // products 1 and 3 with the rows of 0 and 2
        ("%lane, 5;", "%lane, 7;"), // as if two lanes shared a row of c
        ("%lane, 2;", "%lane, 1;"),
        ("%upper, 8, %row", "%upper, 4, %row"),
        ("%right, 4, %column", "%right, 8, %column"),
        ("%row, 32, %b", "%row, 30, %b"),
        ("[%b+128]", "[%b+64]"),
        ("[%out+128]", "[%out+64]"),
        ("[%out+32]", "[%out+16]"),
        ("mov.f32 %c5, 0f00000000;", ""), // a register not cleared
        ("mma.sync", "setp.lt.u32 %p, %lane, 16; @%p mma.sync"),
    ]);
}

#[test]
fn the_kernels_are_ptx_and_free_of_conflicts() {
    for (subject, targets, most) in [
        (matmul_f32(), &["sm_70", "sm_80", "sm_90", "sm_120"][..], 0.2),
        (row_sum(), &["sm_70", "sm_80", "sm_90", "sm_120"][..], 0.0),
        // Reads are free of conflicts; copies of two halves of a row fall on banks of the third row after it.
        (matmul_volta(), &["sm_70", "sm_75"][..], 0.0),
        (matmul_bf16(), &["sm_80", "sm_90", "sm_120"][..], 0.3),
    ] {
        for target in targets {
            for usage in ptxas::assemble(subject.text, target).unwrap_or_else(|e| panic!("{e}")) {
                println!("{target}: {usage:?}");
                assert_eq!((usage.spills, usage.stack), (0, 0));
            }
        }
        let start = Instant::now();
        let report = run(subject.text, subject.grid, subject.threads, 0, &subject.buffers).unwrap().report;
        let rate = 2.0 * report.lane_instructions() as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("{report}\n{rate:.0} M lane instructions a second");
        let share = report.bank_conflicts as f64 / report.shared_passes.max(1) as f64;
        assert!(share <= most, "bank conflicts: {:?}", report.bank_conflicts_by_line);
    }
}

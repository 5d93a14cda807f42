//! `wgmma` against plain loops: every layout of the operands in shared memory, A in registers, all kinds of shapes.

mod common;

use common::{bytes_of_f32, f32s, noise, run};
use half::{bf16, f16};
use ptx_interpreter::ptxas;

/// How a matrix [rows (M or N), k] lies in shared memory, and its descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// Each row has `width` bytes of k: `[row, k]` tiles, as keys are stored.
    KMajor { width: usize },
    /// Each k has `width` bytes of rows: `[k, row]` tiles, as values are stored.
    RowMajor { width: usize },
    /// No swizzle: blocks of 8 rows times 16 bytes of k.
    KBlocks,
    /// No swizzle: blocks of 8 of k times 16 bytes of rows.
    RowBlocks,
}
use Layout::*;

impl Layout {
    fn transposed(self) -> usize {
        usize::from(matches!(self, RowMajor { .. } | RowBlocks))
    }
    /// Byte of element [row, k] in the tile, which is aligned to 1024 bytes. Tiles wider than the swizzle are one behind
    /// the other.
    fn place(self, row: usize, k: usize, rows: usize, depth: usize) -> usize {
        // Piece c of 16 bytes of a row of 128 lies at c ^ (row % 8); narrower rows share the bits of 128-byte lines.
        let swizzled = |line: usize, column: usize, width: usize, lines: usize| {
            let (tile, within) = (column / width, column % width);
            let at = tile * lines * width + line * width + within;
            let bits = at / 128 % (width / 16);
            at ^ (bits * 16)
        };
        match self {
            KMajor { width } => swizzled(row, 2 * k, width, rows),
            RowMajor { width } => swizzled(k, 2 * row, width, depth),
            KBlocks => (k / 8) * (rows * 16) + row * 16 + 2 * (k % 8),
            RowBlocks => (row / 8) * (depth * 16) + k * 16 + 2 * (row % 8),
        }
    }
    /// The descriptor without the address, and the bytes by which the address advances for 16 of k.
    fn descriptor(self, rows: usize, depth: usize) -> (u64, usize) {
        let of = |leading: usize, stride: usize, mode: u64| {
            (leading as u64 >> 4) << 16 | (stride as u64 >> 4) << 32 | mode << 62
        };
        let mode = |width: usize| [1, 2, 3][[128, 64, 32].iter().position(|w| *w == width).unwrap()];
        match self {
            KMajor { width } => (of(16, 8 * width, mode(width)), 32),
            RowMajor { width } => (of(depth * width, 8 * width, mode(width)), 16 * width),
            KBlocks => (of(rows * 16, 128, 0), 2 * rows * 16),
            RowBlocks => (of(128, depth * 16, 0), 256),
        }
    }
    /// Bytes of the tile.
    fn bytes(self, rows: usize, depth: usize) -> usize {
        if let KMajor { width } = self { rows * width } else { rows * depth * 2 }
    }
    /// Most of k in one tile.
    fn depth(self) -> usize {
        if let KMajor { width } = self { width / 2 } else { 64 }
    }
}

struct Case {
    n: usize,
    kind: &'static str,
    /// `None`: in registers.
    a: Option<Layout>,
    b: Layout,
    scales: [i32; 2],
    /// D starts from what it holds.
    accumulates: bool,
}

const M: usize = 64;

impl Case {
    fn depth(&self) -> usize {
        self.b.depth().min(self.a.map_or(64, Layout::depth))
    }
    /// Bytes in the image before B's tile.
    fn start(&self) -> usize {
        self.a.map_or(0, |a| a.bytes(M, self.depth())).next_multiple_of(1024)
    }
    /// 128 threads: `image` (A's tile and B's) into shared memory, `a` [64, k] into registers, then the product on `d`.
    fn text(&self) -> String {
        let (n, depth, kind) = (self.n, self.depth(), self.kind);
        let bytes = self.start() + self.b.bytes(n, depth);
        let list: Vec<_> = (0..n / 2).map(|i| format!("%d{i}")).collect();
        let mut body = format!(
            "
    .reg .b32 %t, %s, %i, %row, %column, %a<4>;
    .reg .b64 %pi, %pa, %pd, %at, %da, %db;
    .reg .f32 %d<{}>;
    .reg .pred %p, %more;
    .reg .b32 %v<4>;
    .shared .align 1024 .b8 tile[{bytes}];
    ld.param.u64 %pi, [image];
    ld.param.u64 %pa, [a];
    ld.param.u64 %pd, [d];
    mov.u32 %t, %tid.x;
    mul.lo.u32 %i, %t, 16;
COPY:
    setp.lt.u32 %more, %i, {bytes};
    @!%more bra COPIED;
    cvt.u64.u32 %at, %i;
    add.u64 %at, %at, %pi;
    ld.global.v4.b32 {{%v0, %v1, %v2, %v3}}, [%at];
    mov.u32 %s, tile;
    add.u32 %s, %s, %i;
    st.shared.v4.b32 [%s], {{%v0, %v1, %v2, %v3}};
    add.u32 %i, %i, 2048;
    bra COPY;
COPIED:
    // Row of D: 16 * warp + lane / 4; column: 2 * (lane % 4).
    shr.u32 %row, %t, 5;
    shl.b32 %row, %row, 4;
    shr.u32 %i, %t, 2;
    and.b32 %i, %i, 7;
    add.u32 %row, %row, %i;
    and.b32 %column, %t, 3;
    shl.b32 %column, %column, 1;
    mad.lo.u32 %i, %row, {depth}, %column;
    mad.wide.u32 %pa, %i, 2, %pa;
    mad.lo.u32 %i, %row, {n}, %column;
    mad.wide.u32 %pd, %i, 4, %pd;
    setp.ne.u32 %p, {}, 0;
    mov.u32 %s, tile;
    shr.u32 %s, %s, 4;
    cvt.u64.u32 %at, %s;
    fence.proxy.async;
    bar.sync 0;
",
            n / 2,
            u32::from(self.accumulates),
        );
        if self.accumulates {
            for i in 0..n / 4 {
                let at = 4 * (i / 2 * 8 + i % 2 * 8 * n);
                body += &format!("    ld.global.v2.f32 {{%d{}, %d{}}}, [%pd+{at}];\n", 2 * i, 2 * i + 1);
            }
        }
        for step in 0..depth / 16 {
            let flags = |layout: Layout| format!("{}, ", layout.transposed());
            let a = match self.a {
                None => {
                    for i in 0..4 {
                        let at = 2 * (16 * step + i % 2 * 8 * depth + i / 2 * 8);
                        body += &format!("    ld.global.b32 %a{i}, [%pa+{at}];\n");
                    }
                    "{%a0, %a1, %a2, %a3}"
                }
                Some(layout) => {
                    let (bits, advance) = layout.descriptor(M, depth);
                    body += &format!("    add.u64 %da, %at, {:#x};\n", bits + (advance * step / 16) as u64);
                    "%da"
                }
            };
            let (bits, advance) = self.b.descriptor(n, depth);
            let start = self.start() + advance * step;
            body += &format!(
                "    add.u64 %db, %at, {:#x};
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind} {{{}}}, {a}, %db, %p, {}, {}, {}{};
    setp.eq.u32 %p, 0, 0;\n",
                bits + (start / 16) as u64,
                list.join(", "),
                self.scales[0],
                self.scales[1],
                self.a.map_or(String::new(), flags),
                self.b.transposed(),
            );
            if self.a.is_none() {
                body += "    wgmma.commit_group.sync.aligned;\n    wgmma.wait_group.sync.aligned 0;\n";
            }
        }
        body += "    wgmma.commit_group.sync.aligned;\n    wgmma.wait_group.sync.aligned 0;\n";
        for i in 0..n / 4 {
            let at = 4 * (i / 2 * 8 + i % 2 * 8 * n);
            body += &format!("    st.global.v2.f32 [%pd+{at}], {{%d{}, %d{}}};\n", 2 * i, 2 * i + 1);
        }
        body += "    ret;";
        common::module("sm_90a", "", ".param .u64 image, .param .u64 a, .param .u64 d", &body)
    }
    fn check(&self) {
        let (n, depth) = (self.n, self.depth());
        let round = |x: f32| match self.kind {
            "f16" => (f16::from_f32(x).to_bits(), f16::from_f32(x).to_f64()),
            _ => (bf16::from_f32(x).to_bits(), bf16::from_f32(x).to_f64()),
        };
        let matrix = |seed, count| noise(seed, count).into_iter().map(round).unzip::<_, _, Vec<u16>, Vec<f64>>();
        let (a, a_values) = matrix(1, M * depth); // [64, k]
        let (b, b_values) = matrix(2, n * depth); // [n, k]
        let d = noise(3, M * n);
        let start = self.start();
        let mut image = vec![0; start + self.b.bytes(n, depth)];
        let mut put = |at: usize, half: u16| image[at..at + 2].copy_from_slice(&half.to_le_bytes());
        if let Some(layout) = self.a {
            a.iter().enumerate().for_each(|(i, x)| put(layout.place(i / depth, i % depth, M, depth), *x));
        }
        b.iter().enumerate().for_each(|(i, x)| put(start + self.b.place(i / depth, i % depth, n, depth), *x));
        let a_bytes: Vec<u8> = a.iter().flat_map(|x| x.to_le_bytes()).collect();

        let text = self.text();
        let name = format!("m64n{n}k{depth} {} {:?} {:?}", self.kind, self.a, self.b);
        for usage in ptxas::assemble(&text, "sm_90a").unwrap_or_else(|e| panic!("{name}: {e}\n{text}")) {
            assert_eq!((usage.spills, usage.stack), (0, 0), "{name}");
        }
        let out = run(&text, 1, 128, 0, &[image, a_bytes, bytes_of_f32(&d)]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let sign = f64::from(self.scales[0] * self.scales[1]);
        for (i, got) in f32s(&out.buffers[2]).into_iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let sum: f64 = (0..depth).map(|k| a_values[row * depth + k] * b_values[column * depth + k]).sum();
            let want = sign * sum + if self.accumulates { f64::from(d[i]) } else { 0.0 };
            assert!((f64::from(got) - want).abs() <= 1e-5, "{name}: [{row}, {column}] is {got}, expected {want}");
        }
        // Each warp reads its rows of A, the four together B, in every step.
        let products = 4 * depth / 16;
        assert_eq!(out.report.issued_of("wgmma.mma_async"), products as u64);
        assert_eq!(
            out.report.shared_read_bytes,
            (2 * depth * (n + if self.a.is_some() { M } else { 0 })) as u64,
            "{name}"
        );
        assert_eq!(out.report.bank_conflicts, 0);
    }
}

const SWIZZLED: [Layout; 6] = [
    KMajor { width: 128 },
    KMajor { width: 64 },
    KMajor { width: 32 },
    RowMajor { width: 128 },
    RowMajor { width: 64 },
    RowMajor { width: 32 },
];

/// Layouts of B, with A in registers, as scores (K-major keys) and outputs (N-major values) of attention have them.
#[test]
fn b_in_every_layout() {
    for kind in ["bf16", "f16"] {
        for b in SWIZZLED.into_iter().chain([KBlocks, RowBlocks]) {
            for n in [64, 128] {
                Case { n, kind, a: None, b, scales: [1, 1], accumulates: n == 64 }.check();
            }
        }
    }
}

/// Both operands in shared memory.
#[test]
fn a_in_every_layout() {
    for a in SWIZZLED.into_iter().chain([KBlocks, RowBlocks]) {
        for b in [KMajor { width: 128 }, RowMajor { width: 128 }] {
            Case { n: 64, kind: "bf16", a: Some(a), b, scales: [1, 1], accumulates: false }.check();
        }
    }
}

/// Every kind of n: 8 times odd and even numbers, the least and the most.
#[test]
fn shapes_and_signs() {
    for (n, b, scales) in [
        (8, KMajor { width: 128 }, [-1, 1]),
        (24, KBlocks, [1, -1]),
        (40, RowBlocks, [-1, -1]),
        (96, KMajor { width: 64 }, [1, 1]),
        (192, RowMajor { width: 128 }, [1, -1]),
        (256, KMajor { width: 128 }, [1, 1]),
        (256, RowMajor { width: 32 }, [1, 1]),
    ] {
        for accumulates in [false, true] {
            Case { n, kind: "f16", a: Some(KMajor { width: 128 }), b, scales, accumulates }.check();
        }
    }
}

//! The functions of NVIDIA's cuBLASLt that `xlnet` calls, with plain loops on the interpreter's memory: where this library is
//! found as `libcublasLt.so.12` too (a link to the one that is `libcuda.so`, so that both are one), products take that path.
//!
//! Sizes, leading dimensions, alignments and the scratch are checked, as nobody does on a card. Products in half precision
//! whose rows begin at odd addresses have no algorithm here, so that our kernels take their turn too.

use std::ffi::{c_int, c_void};

use half::{bf16, f16};

use crate::{Card, Code, SUCCESS, Work, card, put};

const INVALID_VALUE: Code = 7;
const NOT_SUPPORTED: Code = 15;
/// Marks algorithms of ours.
const MARK: u64 = 0x786c_6e65;

/// Products that are added before they are added to others: long sums lose fewer bits.
const SLICE: usize = 64;

/// A matrix in columns.
#[derive(Clone, Copy, Debug)]
struct Layout {
    dtype: c_int,
    rows: usize,
    columns: usize,
    leading: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Desc {
    transposed: [bool; 2],
    epilogue: c_int,
    bias: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Preference {
    workspace: u64,
    scheme: u32,
    aligned: [u32; 4],
}

/// `d = alpha op(a) op(b) + beta d + bias`, in columns.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    desc: Desc,
    alpha: f32,
    beta: f32,
    a: (u64, Layout),
    b: (u64, Layout),
    d: (u64, Layout),
}

fn size(dtype: c_int) -> usize {
    if dtype == 0 { 4 } else { 2 }
}
fn decode(dtype: c_int, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half));
    match dtype {
        0 => bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect(),
        2 => halves().map(|half| f16::from_bits(half).to_f32()).collect(),
        _ => halves().map(|half| bf16::from_bits(half).to_f32()).collect(),
    }
}
fn encode(dtype: c_int, x: f32) -> Vec<u8> {
    match dtype {
        0 => x.to_le_bytes().to_vec(),
        2 => f16::from_f32(x).to_le_bytes().to_vec(),
        _ => bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

impl Layout {
    fn is_valid(&self) -> bool {
        [0, 2, 14].contains(&self.dtype) && self.rows.min(self.columns) > 0 && self.leading >= self.rows
    }
    /// Rows and columns of the matrix or its transpose.
    fn op(&self, transposed: bool) -> (usize, usize) {
        if transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
    /// Bytes from its first to its last number.
    fn bytes(&self) -> usize {
        ((self.columns - 1) * self.leading + self.rows) * size(self.dtype)
    }
}

impl Desc {
    /// m, n, k of a product that fits together.
    fn sizes(&self, a: &Layout, b: &Layout, c: &Layout, d: &Layout) -> Option<[usize; 3]> {
        let ((m, k), (k_of_b, n)) = (a.op(self.transposed[0]), b.op(self.transposed[1]));
        let fit = k == k_of_b && [c, d].iter().all(|out| (out.rows, out.columns) == (m, n));
        let types = a.dtype == b.dtype && c.dtype == d.dtype && (d.dtype == 0 || d.dtype == a.dtype);
        let valid = [a, b, c, d].iter().all(|layout| layout.is_valid()) && [1, 4].contains(&self.epilogue);
        (fit && types && valid).then_some([m, n, k])
    }
}

impl Card {
    fn matrix(&mut self, (address, layout): (u64, Layout)) -> Result<Vec<f32>, Code> {
        let mut bytes = vec![0; layout.bytes()];
        match self.read(address, &mut bytes) {
            SUCCESS => Ok(decode(layout.dtype, &bytes)),
            code => Err(code),
        }
    }
    /// Computes a product; sums are in f32, of [`SLICE`] products at a time.
    pub(crate) fn product(&mut self, product: &Product) -> Result<(), Code> {
        let Product { desc, alpha, beta, a, b, d } = product;
        let (first, second) = (self.matrix(*a)?, self.matrix(*b)?);
        let ((m, k), out) = (a.1.op(desc.transposed[0]), d.1);
        let mut old = if *beta == 0.0 { vec![] } else { self.matrix(*d)? };
        old.resize((out.columns - 1) * out.leading + m, 0.0);
        let bias = if desc.epilogue == 4 {
            self.matrix((desc.bias, Layout { dtype: out.dtype, rows: m, columns: 1, leading: m }))?
        } else {
            vec![0.0; m]
        };
        let at = |matrix: &[f32], layout: &Layout, transposed: bool, row: usize, column: usize| {
            matrix[if transposed { row * layout.leading + column } else { column * layout.leading + row }]
        };
        for column in 0..out.columns {
            let mut bytes = vec![];
            for row in 0..m {
                let product = |l: usize| {
                    let x = at(&first, &a.1, desc.transposed[0], row, l);
                    x * at(&second, &b.1, desc.transposed[1], l, column)
                };
                let slice = |begin: usize| (begin..k.min(begin + SLICE)).map(product).sum::<f32>();
                let sum: f32 = (0..k).step_by(SLICE).map(slice).sum();
                let x = alpha * sum + beta * old[column * out.leading + row] + bias[row];
                bytes.extend(encode(out.dtype, x));
            }
            match self.write(d.0 + (column * out.leading * size(out.dtype)) as u64, &bytes) {
                SUCCESS => {}
                code => return Err(code),
            }
        }
        Ok(())
    }
}

fn give<T>(to: *mut *mut c_void, value: T) -> Code {
    // SAFETY: the caller says that `to` is valid for a write.
    unsafe { put(to, Box::into_raw(Box::new(value)).cast()) }
}
fn refused(what: impl std::fmt::Display) -> Code {
    eprintln!("interpreted-cuda: cublasLt: {what}");
    INVALID_VALUE
}

/// See the documentation of cuBLASLt.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    120_805
}

// SAFETY of all bodies: the caller keeps the library's contract, which is that pointers are valid for the sizes given.
crate::driver! {
    cublasLtCreate(handle: *mut *mut c_void) { give(handle, ()) }
    cublasLtDestroy(handle: *mut c_void) { SUCCESS }

    cublasLtMatrixLayoutCreate(layout: *mut *mut c_void, dtype: c_int, rows: u64, columns: u64, leading: i64) {
        let made = Layout { dtype, rows: rows as usize, columns: columns as usize, leading: leading as usize };
        if made.is_valid() { give(layout, made) } else { refused(format_args!("{made:?}")) }
    }
    cublasLtMatrixLayoutDestroy(layout: *mut c_void) {
        drop(unsafe { Box::from_raw(layout.cast::<Layout>()) });
        SUCCESS
    }

    cublasLtMatmulDescCreate(desc: *mut *mut c_void, compute: c_int, scale: c_int) {
        if (compute, scale) != (68, 0) {
            return refused(format_args!("sums of type {compute}, factors of type {scale}"));
        }
        give(desc, Desc { epilogue: 1, ..Desc::default() })
    }
    cublasLtMatmulDescDestroy(desc: *mut c_void) {
        drop(unsafe { Box::from_raw(desc.cast::<Desc>()) });
        SUCCESS
    }
    cublasLtMatmulDescSetAttribute(desc: *mut c_void, attribute: c_int, from: *const c_void, bytes: usize) {
        let desc = unsafe { &mut *desc.cast::<Desc>() };
        let number = || unsafe { from.cast::<c_int>().read_unaligned() };
        match (attribute, bytes) {
            (3, 4) => desc.transposed[0] = number() == 1,
            (4, 4) => desc.transposed[1] = number() == 1,
            (7, 4) => desc.epilogue = number(),
            (8, 8) => desc.bias = unsafe { from.cast::<u64>().read_unaligned() },
            _ => return refused(format_args!("attribute {attribute} of a product in {bytes} bytes")),
        }
        SUCCESS
    }

    cublasLtMatmulPreferenceCreate(preference: *mut *mut c_void) { give(preference, Preference::default()) }
    cublasLtMatmulPreferenceDestroy(preference: *mut c_void) {
        drop(unsafe { Box::from_raw(preference.cast::<Preference>()) });
        SUCCESS
    }
    cublasLtMatmulPreferenceSetAttribute(preference: *mut c_void, attribute: c_int, from: *const c_void, bytes: usize) {
        let preference = unsafe { &mut *preference.cast::<Preference>() };
        match (attribute, bytes) {
            (1, 8) => preference.workspace = unsafe { from.cast::<u64>().read_unaligned() },
            (3, 4) => preference.scheme = unsafe { from.cast::<u32>().read_unaligned() },
            (5..=8, 4) => preference.aligned[attribute as usize - 5] = unsafe { from.cast::<u32>().read_unaligned() },
            _ => return refused(format_args!("attribute {attribute} of a preference in {bytes} bytes")),
        }
        SUCCESS
    }

    cublasLtMatmulAlgoGetHeuristic(
        handle: *mut c_void,
        desc: *mut c_void,
        a: *mut c_void, b: *mut c_void, c: *mut c_void, d: *mut c_void,
        preference: *mut c_void,
        asked: c_int,
        proposals: *mut c_void,
        count: *mut c_int
    ) {
        let (desc, preference) = unsafe { (*desc.cast::<Desc>(), *preference.cast::<Preference>()) };
        let [a, b, c, d] = [a, b, c, d].map(|layout| unsafe { *layout.cast::<Layout>() });
        let Some([m, n, k]) = desc.sizes(&a, &b, &c, &d) else {
            return refused(format_args!("{desc:?} of {a:?}, {b:?} to {c:?}, {d:?}"));
        };
        if desc.epilogue == 4 && desc.bias == 0 {
            return refused("a bias without an address");
        }
        if preference.scheme != 2 || preference.workspace < 1 << 20 || preference.aligned.contains(&0) {
            return refused(format_args!("{preference:?}"));
        }
        let odd = [a, b].iter().any(|layout| layout.dtype != 0 && !layout.leading.is_multiple_of(2));
        if odd || asked < 1 {
            unsafe { put(count, 0) };
            return NOT_SUPPORTED;
        }
        let aligned = preference.aligned.map(u64::from);
        let [m, n, k] = [m, n, k].map(|size| size as u64);
        let algorithm = [MARK, aligned[0], aligned[1], aligned[3], m, n, k, 0];
        // algorithm, scratch, status, waves, four reserved numbers
        let mut proposal = algorithm.to_vec();
        proposal.extend([1 << 20, 0, 0, 0]);
        unsafe { std::ptr::copy_nonoverlapping(proposal.as_ptr().cast::<u8>(), proposals.cast(), 96) };
        unsafe { put(count, 1) }
    }
    cublasLtMatmul(
        handle: *mut c_void,
        desc: *mut c_void,
        alpha: *const f32,
        a: u64, a_layout: *mut c_void,
        b: u64, b_layout: *mut c_void,
        beta: *const f32,
        c: u64, c_layout: *mut c_void,
        d: u64, d_layout: *mut c_void,
        algorithm: *const [u64; 8],
        workspace: u64,
        bytes: usize,
        stream: *mut c_void
    ) {
        let (desc, alpha, beta, algorithm) = unsafe { (*desc.cast::<Desc>(), *alpha, *beta, *algorithm) };
        let [la, lb, lc, ld] = [a_layout, b_layout, c_layout, d_layout].map(|layout| unsafe { *layout.cast::<Layout>() });
        let Some(sizes) = desc.sizes(&la, &lb, &lc, &ld) else { return refused("a product that does not fit together") };
        let [mark, for_a, for_b, for_d, of_sizes @ .., _] = algorithm;
        if mark != MARK || of_sizes != sizes.map(|size| size as u64) {
            return refused("an algorithm for something else");
        }
        if [(a, for_a), (b, for_b), (d, for_d)].iter().any(|(address, aligned)| !address.is_multiple_of(*aligned)) {
            return refused("an address that is aligned less than was promised");
        }
        let mut card = card();
        if c != d || bytes < 1 << 20 || card.locate(workspace, bytes).is_none() {
            return refused("a sum with another matrix, or no scratch");
        }
        card.make(crate::index(stream), Work::Product(Product { desc, alpha, beta, a: (a, la), b: (b, lb), d: (d, ld) }));
        SUCCESS
    }
}

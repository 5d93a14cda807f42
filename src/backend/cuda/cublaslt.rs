//! Matrix products by NVIDIA's cuBLASLt, looked for at run time: CUDA's toolkit has it, and so have Python's NVIDIA packages.
//!
//! `cudarc` declares the library too, but does not know the names of version 13, and ends the program where the library or a
//! function is missing. What is declared here is the same in every version from 11.4 to 13.
//!
//! The library thinks in columns. A row-major matrix is the transposed one in columns, so a row-major `out = op(a) op(b)` is
//! `out' = op(b)' op(a)'` there: the operands trade places, and no number moves.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, size_of};
use std::ptr::{from_mut, from_ref, null_mut};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{result, sys};
use libloading::Library as Dynamic;

use super::Product;
use super::context::Context;
use crate::tensor::DType;
use crate::{Error, Result};

/// Scratch of a product; what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20; // bytes
/// Alignment beyond which nothing is won.
const ALIGNED: u64 = 256; // bytes

// Numbers of the library's header, by its names.
const CUBLAS_STATUS_SUCCESS: c_int = 0;
const CUBLAS_COMPUTE_32F: c_int = 68; // sums in f32, and products of f32 in f32: no TF32
const CUBLASLT_MATMUL_DESC_TRANSA: c_int = 3;
const CUBLASLT_MATMUL_DESC_TRANSB: c_int = 4;
const CUBLASLT_MATMUL_DESC_EPILOGUE: c_int = 7;
const CUBLASLT_MATMUL_DESC_BIAS_POINTER: c_int = 8;
const CUBLASLT_EPILOGUE_BIAS: c_int = 4;
const CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: c_int = 1;
const CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: c_int = 3;
const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: c_int = 5; // and B, C, D
const CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: u32 = 2; // none is always allowed

/// Descriptors and the handle are pointers to what only the library knows.
type Opaque = *mut c_void;
type Destroy = unsafe extern "C" fn(Opaque) -> c_int;
type SetAttribute = unsafe extern "C" fn(Opaque, c_int, *const c_void, usize) -> c_int;

/// An algorithm, as the library writes it down.
type Algorithm = [u64; 8];

/// What the library proposes for a product.
#[repr(C)]
struct Proposal {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

macro_rules! functions {
    ($($field:ident = $name:literal: $type:ty;)*) => {
        /// Functions of the library.
        struct Functions { $($field: $type),* }
        impl Functions {
            fn load(library: &Dynamic) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of the library's header.
                Ok(Functions { $($field: unsafe { *library.get::<$type>($name)? }),* })
            }
        }
    };
}
pub(super) use functions;

functions! {
    version = b"cublasLtGetVersion": unsafe extern "C" fn() -> usize;
    create = b"cublasLtCreate": unsafe extern "C" fn(*mut Opaque) -> c_int;
    destroy = b"cublasLtDestroy": Destroy;
    layout_create = b"cublasLtMatrixLayoutCreate": unsafe extern "C" fn(*mut Opaque, c_int, u64, u64, i64) -> c_int;
    layout_destroy = b"cublasLtMatrixLayoutDestroy": Destroy;
    desc_create = b"cublasLtMatmulDescCreate": unsafe extern "C" fn(*mut Opaque, c_int, c_int) -> c_int;
    desc_destroy = b"cublasLtMatmulDescDestroy": Destroy;
    desc_set = b"cublasLtMatmulDescSetAttribute": SetAttribute;
    preference_create = b"cublasLtMatmulPreferenceCreate": unsafe extern "C" fn(*mut Opaque) -> c_int;
    preference_destroy = b"cublasLtMatmulPreferenceDestroy": Destroy;
    preference_set = b"cublasLtMatmulPreferenceSetAttribute": SetAttribute;
    propose = b"cublasLtMatmulAlgoGetHeuristic": unsafe extern "C" fn(
        Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, c_int, *mut Proposal, *mut c_int
    ) -> c_int;
    matmul = b"cublasLtMatmul": unsafe extern "C" fn(
        Opaque, Opaque, *const c_void, u64, Opaque, u64, Opaque, *const c_void, u64, Opaque, u64, Opaque,
        *const Algorithm, u64, usize, sys::CUstream
    ) -> c_int;
}

/// The library, loaded.
struct Library {
    name: String,
    version: usize,
    functions: Functions,
    /// Functions are valid while it is there.
    _library: Dynamic,
}

/// Names of the library for CUDA of `major`.
fn name(major: usize) -> String {
    if cfg!(windows) { format!("cublasLt64_{major}.dll") } else { format!("libcublasLt.so.{major}") }
}

/// The newest version that the driver can work with; `None` where there is none.
fn library() -> Option<&'static Library> {
    static FOUND: OnceLock<Option<Library>> = OnceLock::new();
    let find = || {
        let mut driver = 0;
        // SAFETY: writes one number. That there is a driver is known: a card was found.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().ok()?;
        [13, 12, 11].into_iter().filter(|major| *major <= driver as usize / 1000).find_map(|major| {
            let name = name(major);
            // SAFETY: loading runs the library's own start, which is NVIDIA's.
            let library = unsafe { Dynamic::new(&name) }.ok()?;
            let functions = Functions::load(&library).ok()?;
            // SAFETY: takes nothing, gives a number.
            let version = unsafe { (functions.version)() };
            Some(Library { name, version, functions, _library: library })
        })
    };
    FOUND.get_or_init(find).as_ref()
}

/// The library that `XLNET_PRODUCTS` lets take part: `ptx` wants none, `cublaslt` wants it to be there.
fn wished() -> Result<Option<&'static Library>> {
    match std::env::var("XLNET_PRODUCTS").as_deref() {
        Err(_) => Ok(library()),
        Ok("ptx") => Ok(None),
        Ok("cublaslt") => library().map(Some).ok_or_else(|| {
            Error::device(format!("XLNET_PRODUCTS is cublaslt, but {}; set LD_LIBRARY_PATH to its folder", missing()))
        }),
        Ok(other) => Err(Error::device(format!("XLNET_PRODUCTS is {other:?}; expected ptx or cublaslt"))),
    }
}

fn missing() -> String {
    format!("this machine has no cuBLASLt for its driver ({}, or of 12 or 11)", name(13))
}

/// Who computes matrix products on cards of this machine, for people; there must be a driver.
///
/// # Errors
/// When `XLNET_PRODUCTS` asks for what is not there.
pub fn products() -> Result<String> {
    Ok(match wished()? {
        Some(Library { name, version, .. }) => {
            format!("cuBLASLt {}.{}.{} ({name})", version / 10000, version / 100 % 100, version % 100)
        }
        None if std::env::var_os("XLNET_PRODUCTS").is_some() => "our kernels, as XLNET_PRODUCTS says".into(),
        None => format!("our kernels; {}", missing()),
    })
}

/// Something of the library's, given back when it is dropped.
struct Owned {
    pointer: Opaque,
    destroy: Destroy,
}

impl Owned {
    fn new(destroy: Destroy, create: impl FnOnce(*mut Opaque) -> c_int) -> Result<Self, Status> {
        let mut pointer = null_mut();
        done(create(&mut pointer))?;
        Ok(Owned { pointer, destroy })
    }
    fn set<T>(&self, set: SetAttribute, attribute: c_int, value: T) -> Result<(), Status> {
        // SAFETY: the library copies so many bytes of a value that outlives the call.
        done(unsafe { set(self.pointer, attribute, from_ref(&value).cast(), size_of::<T>()) })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the library made it, and it is given back once.
        unsafe { (self.destroy)(self.pointer) };
    }
}

/// What a function of the library gives back where it fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status(c_int);

fn done(status: c_int) -> Result<(), Status> {
    if status == CUBLAS_STATUS_SUCCESS { Ok(()) } else { Err(Status(status)) }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            1 => "CUBLAS_STATUS_NOT_INITIALIZED",
            3 => "CUBLAS_STATUS_ALLOC_FAILED",
            7 => "CUBLAS_STATUS_INVALID_VALUE",
            8 => "CUBLAS_STATUS_ARCH_MISMATCH",
            13 => "CUBLAS_STATUS_EXECUTION_FAILED",
            14 => "CUBLAS_STATUS_INTERNAL_ERROR",
            15 => "CUBLAS_STATUS_NOT_SUPPORTED",
            _ => "cuBLAS status",
        };
        write!(f, "{name} ({})", self.0)
    }
}

/// Everything that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3], // m, n, k
    transposed: [bool; 2],
    add: bool,
    operands: DType,
    result: DType,
    bias: bool,
    aligned: [u32; 3], // bytes: a, b, out
}

impl Shape {
    fn of(product: &Product) -> Self {
        let Product { a, b, bias, out, m, n, k, trans_a, trans_b, add, operands, result } = *product;
        // Where an address is a multiple of nothing less: which instructions may load from it.
        let aligned = |address: u64| (ALIGNED | address) & (ALIGNED | address).wrapping_neg();
        Shape {
            sizes: [m, n, k],
            transposed: [trans_a, trans_b],
            add,
            operands,
            result,
            bias: bias.is_some(),
            aligned: [a, b, out].map(|address| aligned(address) as u32),
        }
    }
}

/// A shape, ready to be launched.
struct Prepared {
    desc: Owned,
    layouts: [Owned; 3], // b, a, out: the library's A, B, and both C and D
    algorithm: Algorithm,
    workspace: usize,
    beta: f32,
}

/// The products of one program on one card.
pub struct Products {
    functions: &'static Functions,
    handle: Owned,
    /// Kept so that the context outlives the memory.
    _context: Arc<Context>,
    workspace: sys::CUdeviceptr,
    shapes: HashMap<Shape, Option<usize>>,
    prepared: Vec<Prepared>,
    products: Vec<(usize, Product)>, // with the shape of each
}

impl Products {
    /// Starts the library on the current context; `None` where there is none.
    ///
    /// # Errors
    /// When it does not start, there is no memory, or `XLNET_PRODUCTS` asks for what is not there.
    pub fn open(context: &Arc<Context>) -> Result<Option<Self>> {
        let Some(Library { functions, name, .. }) = wished()? else { return Ok(None) };
        // SAFETY: writes one pointer; the card's context is current.
        let handle = Owned::new(functions.destroy, |to| unsafe { (functions.create)(to) }).map_err(|status| {
            let card = &context.info.name;
            Error::device(format!("{card}: {name} does not start: {status}; XLNET_PRODUCTS=ptx does without it"))
        })?;
        // SAFETY: a plain allocation in the current context, freed in `drop`.
        let workspace = unsafe { result::malloc_sync(WORKSPACE) };
        let workspace = workspace.map_err(|error| context.failed("memory for products", error))?;
        let (shapes, prepared, products) = (HashMap::new(), vec![], vec![]);
        Ok(Some(Products { functions, handle, _context: context.clone(), workspace, shapes, prepared, products }))
    }
    /// Chooses how to compute a product, once for each shape; `None` where the library cannot.
    pub fn prepare(&mut self, product: &Product) -> Option<usize> {
        let shape = Shape::of(product);
        // Nothing says how a bias is loaded.
        if product.bias.is_some_and(|bias| !bias.is_multiple_of(16)) {
            return None;
        }
        let known = self.shapes.get(&shape).copied();
        let number = known.unwrap_or_else(|| {
            let prepared = self.choose(&shape, product);
            if let Err(status) = &prepared {
                let Shape { sizes: [m, n, k], operands, result, .. } = shape;
                tracing::debug!("cuBLASLt has no product {m} x {n} x {k} of {operands} to {result}: {status}");
            }
            let number = prepared.ok().map(|prepared| {
                self.prepared.push(prepared);
                self.prepared.len() - 1
            });
            self.shapes.insert(shape, number);
            number
        })?;
        self.products.push((number, product.clone()));
        Some(self.products.len() - 1)
    }
    fn choose(&self, shape: &Shape, product: &Product) -> Result<Prepared, Status> {
        let Functions { desc_set, preference_set, .. } = *self.functions;
        let Shape { sizes: [m, n, k], transposed: [trans_a, trans_b], .. } = *shape;
        let (operand, result) = (number_of(shape.operands)?, number_of(shape.result)?);
        // SAFETY: writes one pointer.
        let desc = Owned::new(self.functions.desc_destroy, |to| unsafe {
            (self.functions.desc_create)(to, CUBLAS_COMPUTE_32F, number_of(DType::F32).unwrap_or_default())
        })?;
        desc.set(desc_set, CUBLASLT_MATMUL_DESC_TRANSA, c_int::from(trans_b))?;
        desc.set(desc_set, CUBLASLT_MATMUL_DESC_TRANSB, c_int::from(trans_a))?;
        // A bias is in the type of the result; the choice wants to know where.
        if let Some(bias) = product.bias {
            desc.set(desc_set, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS)?;
            desc.set(desc_set, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        // Rows in memory, as the library's columns.
        let layout = |dtype: c_int, rows: usize, columns: usize| {
            // SAFETY: writes one pointer.
            Owned::new(self.functions.layout_destroy, |to| unsafe {
                (self.functions.layout_create)(to, dtype, columns as u64, rows as u64, columns as i64)
            })
        };
        let (a, b) = (if trans_a { (k, m) } else { (m, k) }, if trans_b { (n, k) } else { (k, n) });
        let layouts = [layout(operand, b.0, b.1)?, layout(operand, a.0, a.1)?, layout(result, m, n)?];
        let preference = Owned::new(self.functions.preference_destroy, |to| {
            // SAFETY: writes one pointer.
            unsafe { (self.functions.preference_create)(to) }
        })?;
        preference.set(preference_set, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE as u64)?;
        // Sums in parts are added in f32 and in order: a product has the same bits every time.
        let in_order = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        preference.set(preference_set, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, in_order)?;
        let [aligned_a, aligned_b, aligned_out] = shape.aligned;
        for (i, aligned) in [aligned_b, aligned_a, aligned_out, aligned_out].into_iter().enumerate() {
            preference.set(preference_set, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i as c_int, aligned)?;
        }
        let (mut proposal, mut count) = (MaybeUninit::<Proposal>::uninit(), 0);
        let [first, second, out] = layouts.each_ref().map(|layout| layout.pointer);
        // SAFETY: all descriptors were made above; there is room for the one proposal that is asked for.
        let proposal = unsafe {
            done((self.functions.propose)(
                self.handle.pointer,
                desc.pointer,
                first,
                second,
                out,
                out,
                preference.pointer,
                1,
                proposal.as_mut_ptr(),
                from_mut(&mut count),
            ))?;
            if count < 1 {
                return Err(NOT_SUPPORTED);
            }
            proposal.assume_init()
        };
        done(proposal.state)?;
        let Proposal { algorithm, workspace, .. } = proposal;
        let beta = if shape.add { 1.0 } else { 0.0 };
        Ok(Prepared { desc, layouts, algorithm, workspace, beta })
    }
    /// Launches a product by its number.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn launch(&self, number: usize, stream: sys::CUstream) -> Result<(), Status> {
        let (shape, product) = &self.products[number];
        let Prepared { desc, layouts, algorithm, workspace, beta } = &self.prepared[*shape];
        if let Some(bias) = product.bias {
            desc.set(self.functions.desc_set, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        let [first, second, out] = layouts.each_ref().map(|layout| layout.pointer);
        let alpha = 1.0_f32;
        // SAFETY: descriptors live in `self`, and the algorithm was proposed for them; tensors have the sizes that the layouts
        // say, as the op was checked; factors are read before the function returns.
        done(unsafe {
            (self.functions.matmul)(
                self.handle.pointer,
                desc.pointer,
                from_ref(&alpha).cast(),
                product.b,
                first,
                product.a,
                second,
                from_ref(beta).cast(),
                product.out,
                out,
                product.out,
                out,
                algorithm,
                self.workspace,
                *workspace,
                stream,
            )
        })
    }
    /// A product in words.
    pub fn describe(&self, number: usize) -> String {
        let Product { m, n, k, operands, .. } = self.products[number].1;
        format!("the product {m} x {n} x {k} of {operands} by cuBLASLt")
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: allocated in `open` and freed once; the card's stream, and so every product, is done.
        let _ = unsafe { result::free_sync(self.workspace) };
    }
}

const NOT_SUPPORTED: Status = Status(15);

/// The library's number of an element type.
fn number_of(dtype: DType) -> Result<c_int, Status> {
    match dtype {
        DType::F32 => Ok(0),
        DType::F16 => Ok(2),
        DType::Bf16 => Ok(14),
        _ => Err(NOT_SUPPORTED),
    }
}

//! Kernel text: hand-written templates of WGSL (`shaders/`) and PTX (`kernels/`), rendered at run time.
//!
//! A backend turns an op into launches; each names a [`Variant`]: a template and a value for each of its keys (element
//! type, work group size, head size, which optional terms there are). [`render`] gives the text, its label and a hash, by
//! which pipelines and modules are cached, so that only the variants in use are compiled. `XLNET_DUMP_KERNELS=dir`
//! writes every rendered text to `dir/<label>.wgsl`.
//!
//! # How to write a template
//!
//! The stem of the file is the name of the op and of its entry point. Where an op needs several kernels the others are
//! called `<op>_<step>`. Text is plain WGSL or PTX with three additions:
//!
//! - `//% if dropout`, `//% for i in range(4)`, `//% endif`: statements of [minijinja](https://docs.rs/minijinja), a
//!   line each;
//! - `${wg}`: the value of a key or of an expression;
//! - `//% include "lib/philox.wgsl"`: functions shared between kernels. Prefer functions to macros.
//!
//! A file begins with seven lines, which the renderer reads (longer ones go on after `//#` and two spaces or more):
//!
//! ```text
//! //# computes   out = dropout(f(x))
//! //# parallel   an invocation owns 8 consecutive elements, those of one Philox block
//! //# keys       dtype = f32|f16, kind = relu|tanh, wg = 256, dropout = flag
//! //# buffers    x, key, out
//! //# launch     flat, ceil(n / (8 wg)) work groups
//! //# numerics   f32 inside; no sums
//! //# history    1: first version
//! ```
//!
//! `keys` declares every key with its values; a flag is true or false, `none` says that there is no key. A key that is
//! used but not declared, declared but not used, not given or given another value is an error, and tests render and
//! validate *all* combinations, so keep them few: write the kernel so that each combination means something.
//!
//! `buffers` names the storage bindings. Binding `i` of group 0 is the `i`-th name, always `var<storage, read_write>`,
//! and its line ends with its shape. Operands that an op leaves out stay unbound in the text and bound to any other
//! buffer by the backend. Group 1 holds two uniforms: `p: Params` with sizes and constants, and `at: At` with one `u32` a
//! buffer, the first element of the operand in its binding. Every index therefore begins with `at.<name>`. (Bindings
//! begin at multiples of 256 bytes, tensors that are views do not.)
//!
//! `Params` mirrors a struct of [`params`] of the same name as the template, byte for byte, scalars of 4 bytes only; a
//! test compares both with naga's reflection. The same bytes are given to the PTX kernel of that name.
//!
//! A PTX kernel has the same name, keys, buffers and launch as the shader. Its first parameter is `params`, the bytes of the
//! params struct, then follows a `.u64` named `<buffer>_param` for each buffer, the address of its first element (any
//! address, where the op leaves it out). Each field is read as `ld.param.u32 %n, [params+8]; // n`, the comment being the
//! field's name, which a test compares with the struct. `.reqntid` is the block size. Registers have names; pieces of text that
//! kernels share are macros of `lib/` with registers of their own in a block `{ }`.
//!
//! Rules of arithmetic: load to f32, compute in f32, convert when storing; no float atomics, sums in an order that
//! depends on shapes alone, so that two runs give the same bits; no assumption about the subgroup size; an element of an
//! operand that the op may overwrite in place is last read by the invocation that writes it.

mod embed;
mod header;
pub mod params;
mod render;
mod variant;

pub use header::{Header, Key};
pub use render::{Rendered, render};
pub use variant::{Language, Value, Variant};

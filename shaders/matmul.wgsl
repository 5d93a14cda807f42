//# computes   out (=|+=) op(a) op(b) + bias, where op transposes on request; a and b may be in half precision, and then bias and out too
//# parallel   a work group owns a tile of out, an invocation 4 x 4 elements of it, of the big tile 8 x 4
//# keys       dtype = f32|f16, trans_a = flag, trans_b = flag, bias = flag, into = set|add|half, vec = flag, tile = 32|64
//# buffers    a, b, bias, out
//# launch     [ceil(n / tile), ceil(m / tile)] work groups of 64, of the big tile 128
//# numerics   f32; every element is one sum in ascending order of k, in blocks of 16: deterministic
//# history    1: tiles in work group memory, 4 x 4 in registers; vec loads 4 elements at once where all rows allow it
//#            2: 8 x 4 in registers, sums in blocks, operands in f16; 3: results in f16, each sum rounded once
//% if into == "half" and dtype != "f16"
enable f16;
//% endif
//% include "lib/dtype.wgsl"
//% set result = "f16" if into == "half" else "f32"

struct Params {
  m: u32, // rows of out
  n: u32, // columns of out
  k: u32, // summed
}
struct At { a: u32, b: u32, bias: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if vec
alias Memory = vec4<T>;
alias Result = vec4<${result}>;
//% else
alias Memory = T;
alias Result = ${result};
//% endif
@group(0) @binding(0) var<storage, read_write> a: array<Memory>;   // [m, k], or [k, m] when trans_a
@group(0) @binding(1) var<storage, read_write> b: array<Memory>;   // [k, n], or [n, k] when trans_b
//% if bias
@group(0) @binding(2) var<storage, read_write> bias: array<${result}>;   // [n]
//% endif
@group(0) @binding(3) var<storage, read_write> out: array<Result>; // [m, n]

const TILE = ${tile}u;
const QUADS = ${tile // 4}u; // of a tile's side
//% set parts = tile // 32
const LANES = ${tile * tile // (16 * parts)}u;
const DEPTH = 16u; // of a step along k

var<workgroup> a_tile: array<vec4f, ${tile * 4}>; // [DEPTH, QUADS] of 4 rows of out
var<workgroup> b_tile: array<vec4f, ${tile * 4}>; // [DEPTH, QUADS] of 4 columns of out

//% if into == "half"
//% include "lib/half.wgsl"

//% endif
// The part of operand `x` that belongs to rows (columns) `first`.. of out and to `k0`.. goes to its tile. `size` is the
// operand's dimension beside k; `along_k` says that k is the contiguous one.
//% macro load(x, size, along_k)
  for (var s = lane; s < TILE * 4u; s += LANES) {
//% if along_k and vec
    let row = s / 4u;
    let k = k0 + s % 4u * 4u;
    var v = vec4f(0.0);
    if first_${x} + row < p.${size} && k < p.k {
      v = vec4f(${x}[(at.${x} + (first_${x} + row) * p.k + k) / 4u]);
    }
    for (var j = 0u; j < 4u; j++) {
      ${x}_tile[(s % 4u * 4u + j) * QUADS + row / 4u][row % 4u] = v[j];
    }
//% elif along_k
    let k = k0 + s % DEPTH;
    let row = first_${x} + s / DEPTH * 4u;
    var v = vec4f(0.0);
    for (var j = 0u; j < 4u; j++) {
      if row + j < p.${size} && k < p.k {
        v[j] = f32(${x}[at.${x} + (row + j) * p.k + k]);
      }
    }
    ${x}_tile[s % DEPTH * QUADS + s / DEPTH] = v;
//% else
    let k = k0 + s / QUADS;
    let row = first_${x} + s % QUADS * 4u;
    var v = vec4f(0.0);
//% if vec
    if row < p.${size} && k < p.k {
      v = vec4f(${x}[(at.${x} + k * p.${size} + row) / 4u]);
    }
//% else
    for (var j = 0u; j < 4u; j++) {
      if row + j < p.${size} && k < p.k {
        v[j] = f32(${x}[at.${x} + k * p.${size} + row + j]);
      }
    }
//% endif
    ${x}_tile[s] = v;
//% endif
  }
//% endmacro

@compute @workgroup_size(${tile * tile // (16 * parts)})
fn matmul(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first_a = group.y * TILE;
  let first_b = group.x * TILE;
  let row_quad = lane / QUADS; // and 8 further on in the big tile
  let column_quad = lane % QUADS;
  var sums: array<vec4f, ${4 * parts}>; // [rows] of 4 columns
  for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
    workgroupBarrier(); // the last tiles have been read
${load("a", "m", not trans_a)}
${load("b", "n", trans_b)}
    workgroupBarrier();
    var block: array<vec4f, ${4 * parts}>; // short sums round less
    for (var k = 0u; k < DEPTH; k++) {
      let right = b_tile[k * QUADS + column_quad];
//% for part in range(parts)
      let left${part} = a_tile[k * QUADS + row_quad + ${8 * part}u];
//% for i in range(4)
      block[${4 * part + i}] = fma(vec4f(left${part}[${i}]), right, block[${4 * part + i}]);
//% endfor
//% endfor
    }
//% for i in range(4 * parts)
    sums[${i}] += block[${i}];
//% endfor
  }
  let column = first_b + column_quad * 4u;
//% if bias
  var shift = vec4f(0.0);
  for (var j = 0u; j < 4u; j++) {
    if column + j < p.n {
      shift[j] = f32(bias[at.bias + column + j]);
    }
  }
//% endif
//% for i in range(4 * parts)
  {
    let row = first_a + row_quad * 4u + ${i // 4 * 32 + i % 4}u;
    var value = sums[${i}];
//% if bias
    value += shift;
//% endif
//% if vec
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
//% if into == "add"
      value += out[to];
//% endif
//% if into == "half"
      out[to] = vec4<f16>(to_half_4(value));
//% else
      out[to] = value;
//% endif
    }
//% else
    for (var j = 0u; j < 4u; j++) {
      if row < p.m && column + j < p.n {
        let to = at.out + row * p.n + column + j;
//% if into == "add"
        out[to] += value[j];
//% elif into == "half"
        out[to] = f16(to_half(value[j]));
//% else
        out[to] = value[j];
//% endif
      }
    }
//% endif
  }
//% endfor
}

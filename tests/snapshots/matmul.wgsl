alias T = f32; // element type of floating-point tensors in memory

struct Params {
  m: u32, // rows of out
  n: u32, // columns of out
  k: u32, // summed
}
struct At { a: u32, b: u32, bias: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
alias Memory = vec4<T>;
@group(0) @binding(0) var<storage, read_write> a: array<Memory>;   // [m, k], or [k, m] when trans_a
@group(0) @binding(1) var<storage, read_write> b: array<Memory>;   // [k, n], or [n, k] when trans_b
@group(0) @binding(2) var<storage, read_write> bias: array<T>;     // [n]
@group(0) @binding(3) var<storage, read_write> out: array<Memory>; // [m, n]

const TILE = 64u;
const QUADS = 16u; // of a tile's side
const LANES = 256u;
const DEPTH = 16u; // of a step along k

var<workgroup> a_tile: array<vec4f, 256>; // [DEPTH, QUADS] of 4 rows of out
var<workgroup> b_tile: array<vec4f, 256>; // [DEPTH, QUADS] of 4 columns of out

// The part of operand `x` that belongs to rows (columns) `first`.. of out and to `k0`.. goes to its tile. `size` is the
// operand's dimension beside k; `along_k` says that k is the contiguous one.

@compute @workgroup_size(256)
fn matmul(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first_a = group.y * TILE;
  let first_b = group.x * TILE;
  let row_quad = lane / QUADS;
  let column_quad = lane % QUADS;
  var sums: array<vec4f, 4>; // [4 rows] of 4 columns
  for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
    workgroupBarrier(); // the last tiles have been read
  for (var s = lane; s < TILE * 4u; s += LANES) {
    let k = k0 + s / QUADS;
    let row = first_a + s % QUADS * 4u;
    var v = vec4f(0.0);
    if row < p.m && k < p.k {
      v = vec4f(a[(at.a + k * p.m + row) / 4u]);
    }
    a_tile[s] = v;
  }

  for (var s = lane; s < TILE * 4u; s += LANES) {
    let row = s / 4u;
    let k = k0 + s % 4u * 4u;
    var v = vec4f(0.0);
    if first_b + row < p.n && k < p.k {
      v = vec4f(b[(at.b + (first_b + row) * p.k + k) / 4u]);
    }
    for (var j = 0u; j < 4u; j++) {
      b_tile[(s % 4u * 4u + j) * QUADS + row / 4u][row % 4u] = v[j];
    }
  }

    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let left = a_tile[k * QUADS + row_quad];
      let right = b_tile[k * QUADS + column_quad];
      sums[0] = fma(vec4f(left[0]), right, sums[0]);
      sums[1] = fma(vec4f(left[1]), right, sums[1]);
      sums[2] = fma(vec4f(left[2]), right, sums[2]);
      sums[3] = fma(vec4f(left[3]), right, sums[3]);
    }
  }
  let column = first_b + column_quad * 4u;
  var shift = vec4f(0.0);
  for (var j = 0u; j < 4u; j++) {
    if column + j < p.n {
      shift[j] = f32(bias[at.bias + column + j]);
    }
  }
  {
    let row = first_a + row_quad * 4u + 0u;
    var value = sums[0];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      value += vec4f(out[to]);
      out[to] = vec4<T>(value);
    }
  }
  {
    let row = first_a + row_quad * 4u + 1u;
    var value = sums[1];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      value += vec4f(out[to]);
      out[to] = vec4<T>(value);
    }
  }
  {
    let row = first_a + row_quad * 4u + 2u;
    var value = sums[2];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      value += vec4f(out[to]);
      out[to] = vec4<T>(value);
    }
  }
  {
    let row = first_a + row_quad * 4u + 3u;
    var value = sums[3];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      value += vec4f(out[to]);
      out[to] = vec4<T>(value);
    }
  }
}

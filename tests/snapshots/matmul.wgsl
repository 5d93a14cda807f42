enable f16;
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
alias Result = vec4<f16>;
@group(0) @binding(0) var<storage, read_write> a: array<Memory>;   // [m, k], or [k, m] when trans_a
@group(0) @binding(1) var<storage, read_write> b: array<Memory>;   // [k, n], or [n, k] when trans_b
@group(0) @binding(2) var<storage, read_write> bias: array<f16>;   // [n]
@group(0) @binding(3) var<storage, read_write> out: array<Result>; // [m, n]

const TILE = 64u;
const QUADS = 16u; // of a tile's side
const LANES = 128u;
const DEPTH = 16u; // of a step along k

var<workgroup> a_tile: array<vec4f, 256>; // [DEPTH, QUADS] of 4 rows of out
var<workgroup> b_tile: array<vec4f, 256>; // [DEPTH, QUADS] of 4 columns of out

// Rounding to half precision, ties to even, by bits: WGSL leaves that of f16() to the driver.

// The nearest number of half precision.
fn to_half(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  // The lowest 13 bits go; 65520 and more is infinity.
  var half = bitcast<f32>((size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u);
  if size >= 0x477ff000u {
    half = bitcast<f32>(max(size, 0x7f800000u)); // NaN stays one
  } else if size < 0x38800000u {
    // Below 2^-14 numbers are multiples of 2^-24, which are the last bits of 0.5.
    half = f32(bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u) * 5.9604645e-8;
  }
  return select(half, -half, (bits >> 31u) == 1u);
}
fn to_half_4(x: vec4f) -> vec4f {
  return vec4f(to_half(x.x), to_half(x.y), to_half(x.z), to_half(x.w));
}

// The part of operand `x` that belongs to rows (columns) `first`.. of out and to `k0`.. goes to its tile. `size` is the
// operand's dimension beside k; `along_k` says that k is the contiguous one.

@compute @workgroup_size(128)
fn matmul(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first_a = group.y * TILE;
  let first_b = group.x * TILE;
  let row_quad = lane / QUADS; // and 8 further on in the big tile
  let column_quad = lane % QUADS;
  var sums: array<vec4f, 8>; // [rows] of 4 columns
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
    var block: array<vec4f, 8>; // short sums round less
    for (var k = 0u; k < DEPTH; k++) {
      let right = b_tile[k * QUADS + column_quad];
      let left0 = a_tile[k * QUADS + row_quad + 0u];
      block[0] = fma(vec4f(left0[0]), right, block[0]);
      block[1] = fma(vec4f(left0[1]), right, block[1]);
      block[2] = fma(vec4f(left0[2]), right, block[2]);
      block[3] = fma(vec4f(left0[3]), right, block[3]);
      let left1 = a_tile[k * QUADS + row_quad + 8u];
      block[4] = fma(vec4f(left1[0]), right, block[4]);
      block[5] = fma(vec4f(left1[1]), right, block[5]);
      block[6] = fma(vec4f(left1[2]), right, block[6]);
      block[7] = fma(vec4f(left1[3]), right, block[7]);
    }
    sums[0] += block[0];
    sums[1] += block[1];
    sums[2] += block[2];
    sums[3] += block[3];
    sums[4] += block[4];
    sums[5] += block[5];
    sums[6] += block[6];
    sums[7] += block[7];
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
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 1u;
    var value = sums[1];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 2u;
    var value = sums[2];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 3u;
    var value = sums[3];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 32u;
    var value = sums[4];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 33u;
    var value = sums[5];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 34u;
    var value = sums[6];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
  {
    let row = first_a + row_quad * 4u + 35u;
    var value = sums[7];
    value += shift;
    if row < p.m && column < p.n {
      let to = (at.out + row * p.n + column) / 4u;
      out[to] = vec4<f16>(to_half_4(value));
    }
  }
}

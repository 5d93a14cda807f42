enable wgpu_cooperative_matrix;
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
@group(0) @binding(0) var<storage, read_write> a: array<T>;    // [m, k], or [k, m] when trans_a
@group(0) @binding(1) var<storage, read_write> b: array<T>;    // [k, n], or [n, k] when trans_b
@group(0) @binding(2) var<storage, read_write> bias: array<f16>; // [n]
@group(0) @binding(3) var<storage, read_write> out: array<f16>;  // [m, n]

alias Left = coop_mat16x16<T, A>;
alias Right = coop_mat16x16<T, B>;
alias Sums = coop_mat16x16<f32, C>;

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

const DEPTH = 16u; // of a step along k
const A_PITCH = 24u;
const B_PITCH = 72u;
const C_PITCH = 68u;

var<workgroup> a_tile: array<T, 1536>;   // [64, DEPTH]
var<workgroup> b_tile: array<T, 1152>;   // [DEPTH, 64]
var<workgroup> c_tile: array<f32, 4352>; // [64, 64]

@compute @workgroup_size(128)
fn matmul_cooperative(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let first_row = group.y * 64u;
  let first_column = group.x * 64u;
  for (var e = lane; e < 4096u; e += 128u) {
    let row = first_row + e / 64u;
    let column = first_column + e % 64u;
    var value = 0.0;
    if row < p.m && column < p.n {
      value += f32(bias[at.bias + column]);
    }
    c_tile[e / 64u * C_PITCH + e % 64u] = value;
  }
  workgroupBarrier();
  let top = subgroup / 2u * 32u;
  let left = subgroup % 2u * 32u;
  var sums_0_0 = coopLoadT<Sums>(&c_tile[(top + 0u) * C_PITCH + left + 0u], C_PITCH);
  var sums_0_1 = coopLoadT<Sums>(&c_tile[(top + 0u) * C_PITCH + left + 16u], C_PITCH);
  var sums_1_0 = coopLoadT<Sums>(&c_tile[(top + 16u) * C_PITCH + left + 0u], C_PITCH);
  var sums_1_1 = coopLoadT<Sums>(&c_tile[(top + 16u) * C_PITCH + left + 16u], C_PITCH);
  for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
    workgroupBarrier(); // the last tiles have been read
    for (var e = lane; e < 1024u; e += 128u) {
      // Neighbours read neighbours: along k, or along the other side where that is the contiguous one.
      let a_row = e % 64u;
      let a_k = e / 64u;
      var value = T(0.0);
      if first_row + a_row < p.m && k0 + a_k < p.k {
        value = a[at.a + (k0 + a_k) * p.m + first_row + a_row];
      }
      a_tile[a_row * A_PITCH + a_k] = value;
      let b_column = e / DEPTH;
      let b_k = e % DEPTH;
      value = T(0.0);
      if first_column + b_column < p.n && k0 + b_k < p.k {
        value = b[at.b + (first_column + b_column) * p.k + k0 + b_k];
      }
      b_tile[b_k * B_PITCH + b_column] = value;
    }
    workgroupBarrier();
    let left_0_0 = coopLoadT<Left>(&a_tile[(top + 0u) * A_PITCH + 0u], A_PITCH);
    let left_0_1 = coopLoadT<Left>(&a_tile[(top + 16u) * A_PITCH + 0u], A_PITCH);
    let right_0_0 = coopLoadT<Right>(&b_tile[0u * B_PITCH + left + 0u], B_PITCH);
    let right_0_1 = coopLoadT<Right>(&b_tile[0u * B_PITCH + left + 16u], B_PITCH);
    sums_0_0 = coopMultiplyAdd(left_0_0, right_0_0, sums_0_0);
    sums_0_1 = coopMultiplyAdd(left_0_0, right_0_1, sums_0_1);
    sums_1_0 = coopMultiplyAdd(left_0_1, right_0_0, sums_1_0);
    sums_1_1 = coopMultiplyAdd(left_0_1, right_0_1, sums_1_1);
  }
  coopStoreT(sums_0_0, &c_tile[(top + 0u) * C_PITCH + left + 0u], C_PITCH);
  coopStoreT(sums_0_1, &c_tile[(top + 0u) * C_PITCH + left + 16u], C_PITCH);
  coopStoreT(sums_1_0, &c_tile[(top + 16u) * C_PITCH + left + 0u], C_PITCH);
  coopStoreT(sums_1_1, &c_tile[(top + 16u) * C_PITCH + left + 16u], C_PITCH);
  workgroupBarrier();
  for (var e = lane; e < 4096u; e += 128u) {
    let row = first_row + e / 64u;
    let column = first_column + e % 64u;
    if row < p.m && column < p.n {
      out[at.out + row * p.n + column] = f16(to_half(c_tile[e / 64u * C_PITCH + e % 64u]));
    }
  }
}

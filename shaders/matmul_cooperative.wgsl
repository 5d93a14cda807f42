//# computes   out (=|+=) op(a) op(b) + bias, where op transposes on request
//# parallel   a work group of four subgroups of 32 owns a tile of 64 x 64, a subgroup a quarter of it in cooperative matrices
//# keys       dtype = f32|f16, size = 8|16, trans_a = flag, trans_b = flag, bias = flag, into = set|add|half
//# buffers    a, b, bias, out
//# launch     [ceil(n / 64), ceil(m / 64)] work groups
//# numerics   products of dtype, summed in f32; every element is one sum in ascending order of k
//# history    1: valid text, never run: no adapter with cooperative matrices was at hand; XLNET_COOPERATIVE=on chooses it
//#            2: results in f16
enable wgpu_cooperative_matrix;
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
@group(0) @binding(0) var<storage, read_write> a: array<T>;    // [m, k], or [k, m] when trans_a
@group(0) @binding(1) var<storage, read_write> b: array<T>;    // [k, n], or [n, k] when trans_b
//% if bias
@group(0) @binding(2) var<storage, read_write> bias: array<${result}>; // [n]
//% endif
@group(0) @binding(3) var<storage, read_write> out: array<${result}>;  // [m, n]

//% set matrix = "coop_mat" ~ size ~ "x" ~ size
//% set parts = 32 // size
alias Left = ${matrix}<T, A>;
alias Right = ${matrix}<T, B>;
alias Sums = ${matrix}<f32, C>;

//% if into == "half"
//% include "lib/half.wgsl"

//% endif
const DEPTH = 16u; // of a step along k
const A_PITCH = 24u;
const B_PITCH = 72u;
const C_PITCH = 68u;

var<workgroup> a_tile: array<T, ${64 * 24}>;   // [64, DEPTH]
var<workgroup> b_tile: array<T, ${16 * 72}>;   // [DEPTH, 64]
var<workgroup> c_tile: array<f32, ${64 * 68}>; // [64, 64]

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
//% if bias
      value += f32(bias[at.bias + column]);
//% endif
//% if into == "add"
      value += out[at.out + row * p.n + column];
//% endif
    }
    c_tile[e / 64u * C_PITCH + e % 64u] = value;
  }
  workgroupBarrier();
  let top = subgroup / 2u * 32u;
  let left = subgroup % 2u * 32u;
//% for i in range(parts)
//% for j in range(parts)
  var sums_${i}_${j} = coopLoadT<Sums>(&c_tile[(top + ${i * size}u) * C_PITCH + left + ${j * size}u], C_PITCH);
//% endfor
//% endfor
  for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
    workgroupBarrier(); // the last tiles have been read
    for (var e = lane; e < 1024u; e += 128u) {
      // Neighbours read neighbours: along k, or along the other side where that is the contiguous one.
//% if trans_a
      let a_row = e % 64u;
      let a_k = e / 64u;
//% else
      let a_row = e / DEPTH;
      let a_k = e % DEPTH;
//% endif
      var value = T(0.0);
      if first_row + a_row < p.m && k0 + a_k < p.k {
//% if trans_a
        value = a[at.a + (k0 + a_k) * p.m + first_row + a_row];
//% else
        value = a[at.a + (first_row + a_row) * p.k + k0 + a_k];
//% endif
      }
      a_tile[a_row * A_PITCH + a_k] = value;
//% if trans_b
      let b_column = e / DEPTH;
      let b_k = e % DEPTH;
//% else
      let b_column = e % 64u;
      let b_k = e / 64u;
//% endif
      value = T(0.0);
      if first_column + b_column < p.n && k0 + b_k < p.k {
//% if trans_b
        value = b[at.b + (first_column + b_column) * p.k + k0 + b_k];
//% else
        value = b[at.b + (k0 + b_k) * p.n + first_column + b_column];
//% endif
      }
      b_tile[b_k * B_PITCH + b_column] = value;
    }
    workgroupBarrier();
//% for k in range(16 // size)
//% for i in range(parts)
    let left_${k}_${i} = coopLoadT<Left>(&a_tile[(top + ${i * size}u) * A_PITCH + ${k * size}u], A_PITCH);
//% endfor
//% for j in range(parts)
    let right_${k}_${j} = coopLoadT<Right>(&b_tile[${k * size}u * B_PITCH + left + ${j * size}u], B_PITCH);
//% endfor
//% for i in range(parts)
//% for j in range(parts)
    sums_${i}_${j} = coopMultiplyAdd(left_${k}_${i}, right_${k}_${j}, sums_${i}_${j});
//% endfor
//% endfor
//% endfor
  }
//% for i in range(parts)
//% for j in range(parts)
  coopStoreT(sums_${i}_${j}, &c_tile[(top + ${i * size}u) * C_PITCH + left + ${j * size}u], C_PITCH);
//% endfor
//% endfor
  workgroupBarrier();
  for (var e = lane; e < 4096u; e += 128u) {
    let row = first_row + e / 64u;
    let column = first_column + e % 64u;
    if row < p.m && column < p.n {
//% if into == "half"
      out[at.out + row * p.n + column] = f16(to_half(c_tile[e / 64u * C_PITCH + e % 64u]));
//% else
      out[at.out + row * p.n + column] = c_tile[e / 64u * C_PITCH + e % 64u];
//% endif
    }
  }
}

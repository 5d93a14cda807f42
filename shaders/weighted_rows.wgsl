//# computes   out[b] = sum over l of weight[b, l] * x[b, l]
//# parallel   an invocation owns one element of out
//# keys       dtype = f32, wg = 64
//# buffers    x, weight, out
//# launch     flat, ceil(n / wg) work groups
//# numerics   sums in f32 in ascending order: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32,    // B d, elements of out
  d: u32,    // row length
  rows: u32, // L
}
struct At { x: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;      // [B, L, d]
@group(0) @binding(1) var<storage, read_write> weight: array<T>; // [B, L]
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [B, d]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn weighted_rows(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i >= p.n {
    return;
  }
  let b = i / p.d;
  let c = i % p.d;
  var sum = 0.0;
  for (var r = b * p.rows; r < (b + 1u) * p.rows; r++) {
    sum = fma(f32(weight[at.weight + r]), f32(x[at.x + r * p.d + c]), sum);
  }
  out[at.out + i] = T(sum);
}

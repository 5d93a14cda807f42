//# computes   out[r] = weight[r] * row + (1 - weight[r]) * x[r]; without weights out[r] = row
//# parallel   an invocation owns one element
//# keys       dtype = f32, weighted = flag, wg = 256
//# buffers    x, row, weight, out
//# launch     flat, ceil(n / wg) work groups
//# numerics   f32 inside
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32, // R d, elements of out
  d: u32, // row length
}
struct At { x: u32, row: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if weighted
@group(0) @binding(0) var<storage, read_write> x: array<T>;      // [R, d]
@group(0) @binding(2) var<storage, read_write> weight: array<T>; // [R]
//% endif
@group(0) @binding(1) var<storage, read_write> row: array<T>;    // [d]
@group(0) @binding(3) var<storage, read_write> out: array<T>;    // [R, d]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn mix_rows(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i >= p.n {
    return;
  }
  let value = row[at.row + i % p.d];
//% if weighted
  let w = f32(weight[at.weight + i / p.d]);
  out[at.out + i] = T(w * f32(value) + (1.0 - w) * f32(x[at.x + i]));
//% else
  out[at.out + i] = value;
//% endif
}

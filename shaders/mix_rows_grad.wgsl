//# computes   dx[r] (=|+=) (1 - weight[r]) * dout[r]; the gradient of row is a weighted column_sum
//# parallel   an invocation owns one element
//# keys       dtype = f32, add = flag, wg = 256
//# buffers    dout, weight, dx
//# launch     flat, ceil(n / wg) work groups
//# numerics   f32 inside
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32, // R d, elements of dout
  d: u32, // row length
}
struct At { dout: u32, weight: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> dout: array<T>;   // [R, d]
@group(0) @binding(1) var<storage, read_write> weight: array<T>; // [R]
@group(0) @binding(2) var<storage, read_write> dx: array<T>;     // [R, d]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn mix_rows_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i >= p.n {
    return;
  }
  let d = (1.0 - f32(weight[at.weight + i / p.d])) * f32(dout[at.dout + i]);
//% if add
  dx[at.dx + i] = T(f32(dx[at.dx + i]) + d);
//% else
  dx[at.dx + i] = T(d);
//% endif
}

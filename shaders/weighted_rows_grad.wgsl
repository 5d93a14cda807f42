//# computes   dx[b, l] (=|+=) weight[b, l] * dout[b]; dweight[b, l] = x[b, l] . dout[b]
//# parallel   a work group owns one row (b, l)
//# keys       dtype = f32, add = flag, dweight = flag, wg = 64, subgroups = flag
//# buffers    x, weight, dout, dx, dweight
//# launch     flat, B L work groups
//# numerics   products in f32, summed over the work group: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32,    // B L, rows
  d: u32,    // row length
  rows: u32, // L
}
struct At { x: u32, weight: u32, dout: u32, dx: u32, dweight: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if dweight
@group(0) @binding(0) var<storage, read_write> x: array<T>;       // [B, L, d]
@group(0) @binding(4) var<storage, read_write> dweight: array<T>; // [B, L]
//% endif
@group(0) @binding(1) var<storage, read_write> weight: array<T>;  // [B, L]
@group(0) @binding(2) var<storage, read_write> dout: array<T>;    // [B, d]
@group(0) @binding(3) var<storage, read_write> dx: array<T>;      // [B, L, d]

//% include "lib/flat.wgsl"
//% include "lib/reduce.wgsl"

@compute @workgroup_size(${wg})
fn weighted_rows_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  lanes: Lanes,
) {
  let lane = lanes.lane;
  let r = flat_group(group, groups);
  if r >= p.n {
    return; // the whole work group
  }
  let w = f32(weight[at.weight + r]);
  var dot = 0.0;
  for (var c = lane; c < p.d; c += ${wg}u) {
    let d = f32(dout[at.dout + r / p.rows * p.d + c]);
    let to = at.dx + r * p.d + c;
//% if dweight
    dot = fma(f32(x[at.x + r * p.d + c]), d, dot);
//% endif
//% if add
    dx[to] = T(f32(dx[to]) + w * d);
//% else
    dx[to] = T(w * d);
//% endif
  }
//% if dweight
  let sum = group_sum(dot, lanes);
  if lane == 0u {
    dweight[at.dweight + r] = T(sum);
  }
//% endif
}

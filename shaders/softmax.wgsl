//# computes   out = softmax(x (1 - hidden) - 1e30 hidden) over the last dimension, or its logarithm
//# parallel   a work group owns one row
//# keys       dtype = f32, hidden = flag, log = flag, wg = 128, subgroups = flag
//# buffers    x, hidden, out
//# launch     flat, R work groups
//# numerics   maximum first, then sums in f32 over the work group: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,    // R
  columns: u32, // C
}
struct At { x: u32, hidden: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;      // [R, C]
//% if hidden
@group(0) @binding(1) var<storage, read_write> hidden: array<T>; // [R, C]
//% endif
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [R, C]

//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/reduce.wgsl"

// Score of an element.
fn score(i: u32) -> f32 {
//% if hidden
  let h = f32(hidden[at.hidden + i]);
  return f32(x[at.x + i]) * (1.0 - h) - 1e30 * h;
//% else
  return f32(x[at.x + i]);
//% endif
}

@compute @workgroup_size(${wg})
fn softmax(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  lanes: Lanes,
) {
  let lane = lanes.lane;
  let r = flat_group(group, groups);
  if r >= p.rows {
    return; // the whole work group
  }
  let row = r * p.columns;
  var largest = -3.4e38;
  for (var c = lane; c < p.columns; c += ${wg}u) {
    largest = max(largest, score(row + c));
  }
  largest = group_max(largest, lanes);
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += ${wg}u) {
    sum += exp_f32(score(row + c) - largest);
  }
  sum = group_sum(sum, lanes);
//% if log
  let log_sum = log_f32(sum);
//% endif
  // Each element is read for the last time by the invocation that writes it: out may be x.
  for (var c = lane; c < p.columns; c += ${wg}u) {
    let y = score(row + c) - largest;
//% if log
    out[at.out + row + c] = T(y - log_sum);
//% else
    out[at.out + row + c] = T(exp_f32(y) / sum);
//% endif
  }
}

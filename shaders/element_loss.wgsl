//# computes   row_loss = f(x, label); dx = weight * f'(x, label)
//# parallel   an invocation owns one row; the weighted sum of row_loss is a launch of sum
//# keys       dtype = f32, kind = squared_error|sigmoid_cross_entropy, dx = flag, wg = 64
//# buffers    x, labels, weights, row_loss, dx
//# launch     flat, ceil(R / wg) work groups
//# numerics   f32
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32, // R
}
struct At { x: u32, labels: u32, weights: u32, row_loss: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;          // [R]
@group(0) @binding(1) var<storage, read_write> labels: array<T>;     // [R]
//% if dx
@group(0) @binding(2) var<storage, read_write> weights: array<T>;    // [R]
@group(0) @binding(4) var<storage, read_write> dx: array<T>;         // [R]
//% endif
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>; // [R]

//% include "lib/flat.wgsl"
//% if kind == "sigmoid_cross_entropy"
//% include "lib/math.wgsl"
//% endif

@compute @workgroup_size(${wg})
fn element_loss(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let r = flat_group(group, groups) * ${wg}u + lane;
  if r >= p.rows {
    return;
  }
  let value = f32(x[at.x + r]);
  let label = f32(labels[at.labels + r]);
//% if kind == "squared_error"
  let error = value - label;
  row_loss[at.row_loss + r] = error * error;
//% else
  let t = exp_f32(-abs(value)); // at most 1
  // Not max(): what is no number must stay so.
  row_loss[at.row_loss + r] = select(value, 0.0, value < 0.0) - value * label + log_f32(1.0 + t);
//% endif
//% if dx
//% if kind == "squared_error"
  let slope = 2.0 * error;
//% else
  let slope = select(1.0, t, value < 0.0) / (1.0 + t) - label;
//% endif
  dx[at.dx + r] = T(f32(weights[at.weights + r]) * slope);
//% endif
}

//# computes   row_loss = -log softmax(logits)[label]; dlogits = weight * (softmax - onehot) * (1 - hidden)
//# parallel   a work group owns one row; the weighted sum of row_loss is a launch of sum
//# keys       dtype = f32, hidden = flag, dlogits = flag, wg = 128, subgroups = flag
//# buffers    logits, hidden, labels, weights, row_loss, dlogits
//# launch     flat, R work groups
//# numerics   maximum first, then sums in f32 over the work group: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,    // R
  columns: u32, // C
}
struct At { logits: u32, hidden: u32, labels: u32, weights: u32, row_loss: u32, dlogits: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> logits: array<T>;     // [R, C]
//% if hidden
@group(0) @binding(1) var<storage, read_write> hidden: array<T>;     // [R, C]
//% endif
@group(0) @binding(2) var<storage, read_write> labels: array<i32>;   // [R]
//% if dlogits
@group(0) @binding(3) var<storage, read_write> weights: array<T>;    // [R]
@group(0) @binding(5) var<storage, read_write> dlogits: array<T>;    // [R, C]
//% endif
@group(0) @binding(4) var<storage, read_write> row_loss: array<f32>; // [R]

//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/reduce.wgsl"

// Score of an element.
fn score(i: u32) -> f32 {
//% if hidden
  let h = f32(hidden[at.hidden + i]);
  return f32(logits[at.logits + i]) * (1.0 - h) - 1e30 * h;
//% else
  return f32(logits[at.logits + i]);
//% endif
}

@compute @workgroup_size(${wg})
fn softmax_cross_entropy(
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
  // The host has checked labels; the clamp keeps a foreign caller's mistake inside the row.
  let label = min(u32(max(labels[at.labels + r], 0)), p.columns - 1u);
  let wanted = score(row + label);
  storageBarrier(); // dlogits may overwrite it from here on
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
  if lane == 0u {
    row_loss[at.row_loss + r] = log_f32(sum) - (wanted - largest);
  }
//% if dlogits
  let weight = f32(weights[at.weights + r]);
  // Each element is read for the last time by the invocation that writes it: dlogits may be logits.
  for (var c = lane; c < p.columns; c += ${wg}u) {
    let i = row + c;
    var d = exp_f32(score(i) - largest) / sum - select(0.0, 1.0, c == label);
//% if hidden
    d *= 1.0 - f32(hidden[at.hidden + i]);
//% endif
    dlogits[at.dlogits + i] = T(weight * d);
  }
//% endif
}

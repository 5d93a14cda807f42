alias T = f32; // element type of floating-point tensors in memory

struct Params {
  rows: u32,    // R
  columns: u32, // C
}
struct At { y: u32, dy: u32, hidden: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> y: array<T>;      // [R, C]
@group(0) @binding(1) var<storage, read_write> dy: array<T>;     // [R, C]
@group(0) @binding(2) var<storage, read_write> hidden: array<T>; // [R, C]
@group(0) @binding(3) var<storage, read_write> dx: array<T>;     // [R, C]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}
// Sum and maximum over a work group. All invocations must call them; all get the result. The order depends on sizes alone:
// a tree over the work group, or each subgroup in the hardware's own order and then subgroup by subgroup.
struct Lanes {
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
  @builtin(num_subgroups) count: u32, // whatever their size
}
var<workgroup> shared_sums: array<f32, 128>; // one a subgroup

fn group_sum(value: f32, lanes: Lanes) -> f32 {
  let own = subgroupAdd(value);
  workgroupBarrier(); // the last reduction has been read
  if lanes.within == 0u {
    shared_sums[lanes.subgroup] = own;
  }
  workgroupBarrier();
  var sum = shared_sums[0];
  for (var i = 1u; i < lanes.count; i++) {
    sum += shared_sums[i];
  }
  return sum;
}

fn group_max(value: f32, lanes: Lanes) -> f32 {
  let own = subgroupMax(value);
  workgroupBarrier();
  if lanes.within == 0u {
    shared_sums[lanes.subgroup] = own;
  }
  workgroupBarrier();
  var largest = shared_sums[0];
  for (var i = 1u; i < lanes.count; i++) {
    largest = max(largest, shared_sums[i]);
  }
  return largest;
}

@compute @workgroup_size(128)
fn softmax_grad(
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
  var dot = 0.0;
  for (var c = lane; c < p.columns; c += 128u) {
    dot = fma(f32(y[at.y + row + c]), f32(dy[at.dy + row + c]), dot);
  }
  dot = group_sum(dot, lanes);
  for (var c = lane; c < p.columns; c += 128u) {
    let i = row + c;
    var d = f32(y[at.y + i]) * (f32(dy[at.dy + i]) - dot);
    d *= 1.0 - f32(hidden[at.hidden + i]);
    dx[at.dx + i] = T(f32(dx[at.dx + i]) + d);
  }
}

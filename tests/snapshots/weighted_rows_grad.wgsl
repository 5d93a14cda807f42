alias T = f32; // element type of floating-point tensors in memory

struct Params {
  n: u32,    // B L, rows
  d: u32,    // row length
  rows: u32, // L
}
struct At { x: u32, weight: u32, dout: u32, dx: u32, dweight: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;       // [B, L, d]
@group(0) @binding(4) var<storage, read_write> dweight: array<T>; // [B, L]
@group(0) @binding(1) var<storage, read_write> weight: array<T>;  // [B, L]
@group(0) @binding(2) var<storage, read_write> dout: array<T>;    // [B, d]
@group(0) @binding(3) var<storage, read_write> dx: array<T>;      // [B, L, d]

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
var<workgroup> shared_sums: array<f32, 64>; // one a subgroup

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

@compute @workgroup_size(64)
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
  for (var c = lane; c < p.d; c += 64u) {
    let d = f32(dout[at.dout + r / p.rows * p.d + c]);
    let to = at.dx + r * p.d + c;
    dot = fma(f32(x[at.x + r * p.d + c]), d, dot);
    dx[to] = T(f32(dx[to]) + w * d);
  }
  let sum = group_sum(dot, lanes);
  if lane == 0u {
    dweight[at.dweight + r] = T(sum);
  }
}

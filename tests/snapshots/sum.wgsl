alias T = f32; // element type of floating-point tensors in memory
alias S = f32; // element type of x

struct Params {
  n: u32,    // elements
  part: u32, // elements of a part
}
struct At { x: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<S>;      // [n]
@group(0) @binding(1) var<storage, read_write> weight: array<T>; // [n]
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [parts]

// Sum and maximum over a work group. All invocations must call them; all get the result. The order depends on sizes alone:
// a tree over the work group, or each subgroup in the hardware's own order and then subgroup by subgroup.
struct Lanes {
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
  @builtin(num_subgroups) count: u32, // whatever their size
}
var<workgroup> shared_sums: array<f32, 256>; // one a subgroup

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

@compute @workgroup_size(256)
fn sum(@builtin(workgroup_id) group: vec3u, lanes: Lanes) {
  let lane = lanes.lane;
  let end = min((group.x + 1u) * p.part, p.n);
  var total = 0.0;
  for (var i = group.x * p.part + lane; i < end; i += 256u) {
    let value = f32(x[at.x + i]);
    total = fma(value, f32(weight[at.weight + i]), total);
  }
  total = group_sum(total, lanes);
  if lane == 0u {
    let to = at.out + group.x;
    out[to] = T(f32(out[to]) + total);
  }
}

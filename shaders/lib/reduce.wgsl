// Sum and maximum over a work group. All invocations must call them; all get the result. The order depends on sizes alone:
// a tree over the work group, or each subgroup in the hardware's own order and then subgroup by subgroup.
//% if subgroups
struct Lanes {
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
  @builtin(num_subgroups) count: u32, // whatever their size
}
var<workgroup> shared_sums: array<f32, ${wg}>; // one a subgroup

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
//% else
struct Lanes {
  @builtin(local_invocation_index) lane: u32,
}
var<workgroup> shared_sums: array<f32, ${wg}>;

fn group_sum(value: f32, lanes: Lanes) -> f32 {
  workgroupBarrier(); // the last reduction has been read
  shared_sums[lanes.lane] = value;
  for (var half = ${wg}u / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lanes.lane < half {
      shared_sums[lanes.lane] += shared_sums[lanes.lane + half];
    }
  }
  workgroupBarrier();
  return shared_sums[0];
}

fn group_max(value: f32, lanes: Lanes) -> f32 {
  workgroupBarrier();
  shared_sums[lanes.lane] = value;
  for (var half = ${wg}u / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lanes.lane < half {
      shared_sums[lanes.lane] = max(shared_sums[lanes.lane], shared_sums[lanes.lane + half]);
    }
  }
  workgroupBarrier();
  return shared_sums[0];
}
//% endif

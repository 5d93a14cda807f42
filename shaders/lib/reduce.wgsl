// Sum and maximum over a work group, by a tree whose shape depends on its size alone. All invocations must call them; all
// get the result.
var<workgroup> shared_sums: array<f32, ${wg}>;

fn group_sum(value: f32, lane: u32) -> f32 {
  workgroupBarrier(); // the last reduction has been read
  shared_sums[lane] = value;
  for (var half = ${wg}u / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half {
      shared_sums[lane] += shared_sums[lane + half];
    }
  }
  workgroupBarrier();
  return shared_sums[0];
}

fn group_max(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  shared_sums[lane] = value;
  for (var half = ${wg}u / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half {
      shared_sums[lane] = max(shared_sums[lane], shared_sums[lane + half]);
    }
  }
  workgroupBarrier();
  return shared_sums[0];
}

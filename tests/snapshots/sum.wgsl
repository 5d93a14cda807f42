enable f16;
alias T = f32; // element type of floating-point tensors in memory
alias S = f16; // element type of x

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

// Sum and maximum over a work group, by a tree whose shape depends on its size alone. All invocations must call them; all
// get the result.
var<workgroup> shared_sums: array<f32, 256>;

fn group_sum(value: f32, lane: u32) -> f32 {
  workgroupBarrier(); // the last reduction has been read
  shared_sums[lane] = value;
  for (var half = 256u / 2u; half > 0u; half /= 2u) {
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
  for (var half = 256u / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half {
      shared_sums[lane] = max(shared_sums[lane], shared_sums[lane + half]);
    }
  }
  workgroupBarrier();
  return shared_sums[0];
}

@compute @workgroup_size(256)
fn sum(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let end = min((group.x + 1u) * p.part, p.n);
  var total = 0.0;
  for (var i = group.x * p.part + lane; i < end; i += 256u) {
    let value = f32(x[at.x + i]);
    total = fma(value, f32(weight[at.weight + i]), total);
  }
  total = group_sum(total, lane);
  if lane == 0u {
    let to = at.out + group.x;
    out[to] = T(f32(out[to]) + total);
  }
}

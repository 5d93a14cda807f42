alias T = f32; // element type of floating-point tensors in memory

struct Params {
  rows: u32,    // R
  columns: u32, // C
}
struct At { x: u32, hidden: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;      // [R, C]
@group(0) @binding(1) var<storage, read_write> hidden: array<T>; // [R, C]
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [R, C]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}
// exp, log, tanh and erf to a few units in the last place, on every driver: WGSL allows its own to be off by far more, its
// tanh overflows on some, erf does not exist. NaN stays NaN. The same approximations as src/backend/cpu/real.rs.

// By its bits: a driver may take it that floats are numbers, and comparisons with NaN for maxima (NVIDIA's does).
fn is_nan(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// 2^n for -126 <= n <= 127.
fn power_of_two(n: i32) -> f32 {
  return bitcast<f32>(u32(n + 127) << 23u);
}

fn exp_f32(x: f32) -> f32 {
  // Beyond these bounds the answer is 0 or infinity.
  var y = select(x, -104.0, x < -104.0);
  y = select(y, 89.0, y > 89.0);
  let n = round(y * 1.44269504);
  // ln 2 in two parts; the product with the first, 355/512, is exact.
  let r = fma(n, 2.1219444e-4, fma(n, -0.6933594, y)); // |r| <= ln(2)/2
  let p = fma(fma(fma(fma(fma(1.9875691e-4, r, 1.3982e-3), r, 8.333452e-3), r, 4.1665796e-2), r, 0.16666666), r, 0.5);
  // 2^n as two factors, since n reaches from -150 to 128.
  let whole = i32(n);
  let half = whole >> 1u;
  let power = (fma(p, r * r, r) + 1.0) * power_of_two(half) * power_of_two(whole - half);
  return select(power, x, is_nan(x));
}

// Of normal positive numbers.
fn log_f32(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  // Mantissa between sqrt(1/2) and sqrt(2).
  let e = i32(bits - 0x3f3504f3u) >> 23u;
  let m = bitcast<f32>(bits - u32(e << 23u)) - 1.0;
  let low = fma(fma(fma(7.0376836e-2, m, -0.1151461), m, 0.116769984), m, -0.12420141);
  let p = fma(fma(fma(fma(fma(low, m, 0.14249323), m, -0.16668057), m, 0.20000714), m, -0.24999994), m, 0.3333333);
  let z = m * m;
  let y = fma(p * m, z, fma(f32(e), -2.1219444e-4, -0.5 * z));
  return select(fma(f32(e), 0.6933594, m + y), x, is_nan(x));
}

fn tanh_f32(x: f32) -> f32 {
  let size = abs(x);
  let t = exp_f32(-2.0 * size);
  let far = sign(x) * ((1.0 - t) / (1.0 + t));
  let z = x * x;
  let p = fma(z, fma(z, fma(z, fma(z, -5.7049887e-3, 2.063909e-2), -5.3739716e-2), 0.13331442), -0.3333328);
  return select(far, fma(p * z, x, x), size < 0.625);
}

fn erf_f32(x: f32) -> f32 {
  let size = abs(x);
  // Abramowitz and Stegun 7.1.26, error below 1.5e-7.
  let t = 1.0 / fma(0.3275911, size, 1.0);
  let p = fma(t, fma(t, fma(t, fma(t, 1.0614054, -1.453152), 1.4214137), -0.28449674), 0.2548296);
  let far = sign(x) * (1.0 - p * t * exp_f32(-size * size));
  // An odd polynomial below 1, where 1 - ... would lose relative accuracy.
  let z = x * x;
  let low = fma(z, fma(z, fma(z, 7.853861e-5, -8.010194e-4), 5.1883277e-3), -2.6853812e-2);
  let q = fma(z, fma(z, fma(z, low, 0.11283585), -0.37612626), 1.1283792);
  return select(far, q * x, size < 1.0);
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

// Score of an element.
fn score(i: u32) -> f32 {
  let h = f32(hidden[at.hidden + i]);
  return f32(x[at.x + i]) * (1.0 - h) - 1e30 * h;
}

@compute @workgroup_size(128)
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
  for (var c = lane; c < p.columns; c += 128u) {
    largest = max(largest, score(row + c));
  }
  largest = group_max(largest, lanes);
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += 128u) {
    sum += exp_f32(score(row + c) - largest);
  }
  sum = group_sum(sum, lanes);
  let log_sum = log_f32(sum);
  // Each element is read for the last time by the invocation that writes it: out may be x.
  for (var c = lane; c < p.columns; c += 128u) {
    let y = score(row + c) - largest;
    out[at.out + row + c] = T(y - log_sum);
  }
}

enable f16;
alias T = f32; // element type of floating-point tensors in memory

struct Params {
  rows: u32,      // R
  d: u32,         // row length
  eps: f32,
  site: u32,      // number of the dropout place
  threshold: u32, // 16 bits below this drop an element
  scale: f32,     // factor of kept elements
  statistics: u32, // 1: write mean, 2: write rstd
  lead: u32,      // rows of a batch row in the first part
  tail: u32,      // rows of a batch row in the second part
  split: u32,     // rows of the first part
}
struct At { x: u32, residual: u32, key: u32, gamma: u32, beta: u32, out: u32, sum: u32, mean: u32, rstd: u32, rounded: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;        // [R, d]
@group(0) @binding(1) var<storage, read_write> residual: array<T>; // [R, d]
@group(0) @binding(2) var<storage, read_write> key: array<u32>;    // [2 + B]
@group(0) @binding(3) var<storage, read_write> gamma: array<T>;    // [d]
@group(0) @binding(4) var<storage, read_write> beta: array<T>;     // [d]
@group(0) @binding(5) var<storage, read_write> out: array<T>;      // [R, d]
@group(0) @binding(6) var<storage, read_write> sum: array<T>;      // [R, d]
@group(0) @binding(7) var<storage, read_write> mean: array<T>;     // [R]
@group(0) @binding(8) var<storage, read_write> rstd: array<T>;     // [R]
@group(0) @binding(9) var<storage, read_write> rounded: array<f16>; // [R, d]

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
// Rounding to half precision, ties to even, by bits: WGSL leaves that of f16() to the driver.

// The nearest number of half precision.
fn to_half(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  // The lowest 13 bits go; 65520 and more is infinity.
  var half = bitcast<f32>((size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u);
  if size >= 0x477ff000u {
    half = bitcast<f32>(max(size, 0x7f800000u)); // NaN stays one
  } else if size < 0x38800000u {
    // Below 2^-14 numbers are multiples of 2^-24, which are the last bits of 0.5.
    half = f32(bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u) * 5.9604645e-8;
  }
  return select(half, -half, (bits >> 31u) == 1u);
}
fn to_half_4(x: vec4f) -> vec4f {
  return vec4f(to_half(x.x), to_half(x.y), to_half(x.z), to_half(x.w));
}
// Where the rows of a tensor stand in the whole batch, as in src/op/philox.rs; needs p and key.

// Philox4x32-7, the bits of src/op/philox.rs: a block of four words is a function of counter and key alone.

// Arithmetic on 64 bits, low word first.

// High half of a 64-bit product, by 16-bit digits.
fn multiply_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let low = al * bl;
  let middle = ah * bl + (low >> 16u); // at most 0xfffe0001 + 0xfffe: fits
  let cross = al * bh + (middle & 0xffffu);
  return ah * bh + (middle >> 16u) + (cross >> 16u);
}

// Product of two fractions in units of 2^-64, cut off.
fn multiply_fractions(a: vec2u, b: vec2u) -> vec2u {
  let first = a.y * b.x;
  let second = a.x * b.y;
  let third = multiply_high(a.x, b.x);
  // Carry out of bit 64 of the lowest three parts.
  let sum = first + second;
  let total = sum + third;
  let carry = select(0u, 1u, sum < first) + select(0u, 1u, total < sum);
  let high = a.y * b.y;
  let add = vec3u(multiply_high(a.y, b.x), multiply_high(a.x, b.y), carry);
  var low = high;
  var top = multiply_high(a.y, b.y);
  low += add.x;
  top += select(0u, 1u, low < add.x);
  low += add.y;
  top += select(0u, 1u, low < add.y);
  low += add.z;
  top += select(0u, 1u, low < add.z);
  return vec2u(low, top);
}

fn philox(start: vec4u, start_key: vec2u) -> vec4u {
  var c = start;
  var k = start_key;
  for (var round = 0u; round < 7u; round++) {
    let first = vec2u(multiply_high(0xD2511F53u, c.x), 0xD2511F53u * c.x);
    let second = vec2u(multiply_high(0xCD9E8D57u, c.z), 0xCD9E8D57u * c.z);
    c = vec4u(second.x ^ c.y ^ k.x, second.y, first.x ^ c.w ^ k.y, first.y);
    k += vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}

// Decision `e` of 8 in a block: 16 bits, the low half of a word first.
fn keeps(words: vec4u, e: u32, threshold: u32) -> bool {
  return ((words[e / 2u] >> (16u * (e % 2u))) & 0xffffu) >= threshold;
}

// Words 1 and 2 of the counters of row r: its number in its batch row, and that in the whole batch.
fn place_of(r: u32) -> vec2u {
  let trails = r >= p.split;
  let within = r - select(0u, p.split, trails);
  let each = max(select(p.lead, p.tail, trails), 1u);
  return vec2u(within % each + select(0u, p.lead, trails), key[at.key + 2u + within / each]);
}
// Block i of a row that stands at `place`.
fn row_block(i: u32, place: vec2u) -> vec4u {
  return philox(vec4u(i, place, p.site), vec2u(key[at.key], key[at.key + 1u]));
}

@compute @workgroup_size(64)
fn layer_norm(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  lanes: Lanes,
) {
  let lane = lanes.lane;
  let r = flat_group(group, groups);
  if r >= p.rows {
    return; // the whole work group
  }
  let row = r * p.d;
  let place = place_of(r);
  var words = vec4u();
  // An invocation owns runs of 8 columns in every pass; the sums wait in memory that only it touches.
  var total = 0.0;
  for (var first = lane * 8u; first < p.d; first += 512u) {
    for (var c = first; c < min(first + 8u, p.d); c++) {
      let i = row + c;
      var s = f32(x[at.x + i]);
      if c % 8u == 0u {
        words = row_block(c / 8u, place);
      }
      s *= select(0.0, p.scale, keeps(words, c % 8u, p.threshold));
      s += f32(residual[at.residual + i]);
      sum[at.sum + i] = T(s);
      total += s;
    }
  }
  let m = group_sum(total, lanes) / f32(p.d);
  var squares = 0.0;
  for (var first = lane * 8u; first < p.d; first += 512u) {
    for (var c = first; c < min(first + 8u, p.d); c++) {
      let e = f32(sum[at.sum + row + c]) - m;
      squares = fma(e, e, squares);
    }
  }
  let deviation = 1.0 / sqrt(group_sum(squares, lanes) / f32(p.d) + p.eps);
  for (var first = lane * 8u; first < p.d; first += 512u) {
    for (var c = first; c < min(first + 8u, p.d); c++) {
      let normed = (f32(sum[at.sum + row + c]) - m) * deviation;
      let y = fma(normed, f32(gamma[at.gamma + c]), f32(beta[at.beta + c]));
      out[at.out + row + c] = T(y);
      rounded[at.rounded + row + c] = f16(to_half(y));
    }
  }
  if lane == 0u && (p.statistics & 1u) != 0u {
    mean[at.mean + r] = T(m);
  }
  if lane == 0u && (p.statistics & 2u) != 0u {
    rstd[at.rstd + r] = T(deviation);
  }
}

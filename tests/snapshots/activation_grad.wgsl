alias T = f32; // element type of floating-point tensors in memory

struct Params {
  rows: u32,      // R
  d: u32,         // row length
  site: u32,      // number of the dropout place
  threshold: u32, // 16 bits below this drop an element
  scale: f32,     // factor of kept elements
  lead: u32,      // rows of a batch row in the first part
  tail: u32,      // rows of a batch row in the second part
  split: u32,     // rows of the first part
}
struct At { x: u32, dout: u32, key: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;     // [R, d]
@group(0) @binding(1) var<storage, read_write> dout: array<T>;  // [R, d]
@group(0) @binding(2) var<storage, read_write> key: array<u32>; // [2 + B]
@group(0) @binding(3) var<storage, read_write> dx: array<T>;    // [R, d]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}
// Numbers as memory of type T holds them.
fn stored(x: f32) -> T {
  return x;
}
fn stored_4(x: vec4f) -> vec4f {
  return x;
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

// f'(x)
fn slope(x: f32) -> f32 {
  let t = tanh_f32(x);
  return 1.0 - t * t;
}

@compute @workgroup_size(64)
fn activation_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let item = flat_group(group, groups) * 64u + lane;
  let blocks = (p.d + 7u) / 8u;
  let r = item / blocks;
  let block = item % blocks;
  if r >= p.rows {
    return;
  }
  let words = row_block(block, place_of(r));
  let end = min(8u, p.d - block * 8u);
  for (var e = 0u; e < end; e++) {
    let i = r * p.d + block * 8u + e;
    var d = slope(f32(x[at.x + i])) * f32(dout[at.dout + i]);
    d *= select(0.0, p.scale, keeps(words, e, p.threshold));
    dx[at.dx + i] = stored(d);
  }
}

alias T = f32; // element type of floating-point tensors in memory

// What the kernels of relative attention share. `work` is the op's scratch: rel_attention_rows and
// rel_attention_segments fill it before the others read; the sizes of its parts stand at the fields that hold their first
// word. A launch serves one stream; rows, starts, hidden, scores and row_sums are those of that stream.

struct Params {
  batch: u32,         // B
  heads: u32,         // H
  d: u32,             // D
  rows: u32,          // rows of the stream: L, or T in the query stream
  length: u32,        // L
  memory: u32,        // M
  keys: u32,          // N = M + L
  positions: u32,     // P = N + L
  groups: u32,        // G
  scale: f32,         // of all score terms
  site: u32,          // number of the dropout place
  threshold: u32,     // 16 bits below this drop a probability; 0: no dropout
  keep: f32,          // factor of kept probabilities
  causal: u32,        // keys after the row's own position are hidden
  same_length: u32,   // each row sees M + 1 keys
  query: u32,         // 1: rows do not see themselves
  segments: u32,      // 1: there is a segment term
  accumulate: u32,    // 1: add to the results
  starts: u32,        // [B, rows] row of r that belongs to key 0, counted over all groups; 0xffffffff: padded target
  hidden: u32,        // [B, rows, 2, ceil(N/32)] bits: keys hidden from the row; keys of another segment
  scores: u32,        // [B, H, rows, 2] f32: segment term of a key of the same, of another segment
  deltas: u32,        // [B, H, rows] f32: sum of dout * out
  row_sums: u32,      // [B, H, rows] f32: sum of ds over keys of another segment
  column_sums: u32,   // [B, H, N] f32: sum of ds over rows
  position_sums: u32, // [G, H, P] f32: sum of ds over the pairs of a row of r
}

const PADDED = 0xffffffffu;
// Score of a hidden key.
const HIDDEN = -1e30;
struct At { q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, work: u32, out: u32, lse: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> q: array<T>;      // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> k: array<T>;      // [B, N, H, D]
@group(0) @binding(2) var<storage, read_write> v: array<T>;      // [B, N, H, D]
@group(0) @binding(3) var<storage, read_write> r: array<T>;      // [G, P, H, D]
@group(0) @binding(4) var<storage, read_write> w_bias: array<T>; // [H, D]
@group(0) @binding(5) var<storage, read_write> r_bias: array<T>; // [H, D]
@group(0) @binding(6) var<storage, read_write> key: array<u32>;  // [2]
@group(0) @binding(7) var<storage, read_write> work: array<u32>;
@group(0) @binding(8) var<storage, read_write> out: array<T>;    // [B, rows, H, D]
@group(0) @binding(9) var<storage, read_write> lse: array<T>;    // [B, H, rows]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}
// exp, log, tanh and erf to a few units in the last place, on every driver: WGSL allows its own to be off by far more, its
// tanh overflows on some, erf does not exist. NaN stays NaN. The same approximations as src/backend/cpu/real.rs.

// 2^n for -126 <= n <= 127.
fn power_of_two(n: i32) -> f32 {
  return bitcast<f32>(u32(n + 127) << 23u);
}

fn exp_f32(x: f32) -> f32 {
  // Beyond these bounds the answer is 0 or infinity; comparisons let a NaN through.
  var y = select(x, -104.0, x < -104.0);
  y = select(y, 89.0, y > 89.0);
  let n = round(y * 1.44269504);
  // ln 2 in two parts; the product with the first, 355/512, is exact.
  let r = fma(n, 2.1219444e-4, fma(n, -0.6933594, y)); // |r| <= ln(2)/2
  let p = fma(fma(fma(fma(fma(1.9875691e-4, r, 1.3982e-3), r, 8.333452e-3), r, 4.1665796e-2), r, 0.16666666), r, 0.5);
  // 2^n as two factors, since n reaches from -150 to 128.
  let whole = i32(n);
  let half = whole >> 1u;
  return (fma(p, r * r, r) + 1.0) * power_of_two(half) * power_of_two(whole - half);
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
  return select(fma(f32(e), 0.6933594, m + y), x, x != x);
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

// Block of the plain elements 8 i to 8 i + 7 of a tensor.
fn element_block(i: u32, site: u32, key: vec2u) -> vec4u {
  return philox(vec4u(i, 0u, 0u, site), key);
}
// Scores of a tile of 8 rows and 64 keys, an invocation a key; needs q_content (and q_position) in work group memory.

// First word of the bits of row m.
fn bits_of(b: u32, m: u32) -> u32 {
  return at.work + p.hidden + (b * p.rows + m) * 2u * ((p.keys + 31u) / 32u);
}
fn is_hidden(bits: u32, j: u32) -> bool {
  return ((work[bits + j / 32u] >> (j % 32u)) & 1u) == 1u;
}
fn is_other(bits: u32, j: u32) -> bool {
  return ((work[bits + (p.keys + 31u) / 32u + j / 32u] >> (j % 32u)) & 1u) == 1u;
}
// Scaled score of row m and key j, the dot products given.
fn score(products: f32, b: u32, h: u32, m: u32, j: u32) -> f32 {
  let bits = bits_of(b, m);
  if is_hidden(bits, j) {
    return HIDDEN;
  }
  var s = products * p.scale;
  if p.segments == 1u {
    let term = at.work + p.scores + ((b * p.heads + h) * p.rows + m) * 2u;
    s += bitcast<f32>(work[term + select(0u, 1u, is_other(bits, j))]);
  }
  return s;
}
// Probability of a score, from the logarithm of the row's denominator. Where all keys are hidden that is the hidden
// score itself, in which the number of keys is lost.
fn probability(s: f32, lse: f32) -> f32 {
  return select(exp_f32(s - lse), 1.0 / f32(p.keys), lse < 0.5 * HIDDEN);
}
// The 8 decisions on keys 8 block to 8 block + 7 of row m.
fn decisions(block: u32, m: u32, b: u32, h: u32) -> vec4u {
  return philox(vec4u(block, m, b * p.heads + h, p.site), vec2u(key[at.key], key[at.key + 1u]));
}
// Factor of the probability of key j.
fn factor(words: vec4u, j: u32) -> f32 {
  return select(0.0, p.keep, keeps(words, j % 8u, p.threshold));
}

var<workgroup> q_content: array<f32, 2048>;  // [D, 8], with w_bias
var<workgroup> q_position: array<f32, 2048>; // [D, 8], with r_bias
var<workgroup> tile: array<f32, 512>;  // [8, 64]
var<workgroup> part: array<f32, 64>;   // [8 rows, 8 invocations]
var<workgroup> rescale: array<f32, 8>; // of what was summed before this tile

@compute @workgroup_size(64)
fn rel_attention(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.rows + 7u) / 8u;
  let item = flat_group(group, groups);
  if item >= p.batch * p.heads * tiles {
    return; // the whole work group
  }
  let m0 = item % tiles * 8u;
  let h = item / tiles % p.heads;
  let b = item / tiles / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d; // between the rows of every tensor
  for (var e = lane; e < 8u * p.d; e += 64u) {
    let m = e / p.d;
    let c = e % p.d;
    let row = min(m0 + m, p.rows - 1u);
    let x = f32(q[at.q + (b * p.rows + row) * stride + head + c]);
    q_content[c * 8u + m] = x + f32(w_bias[at.w_bias + head + c]);
    q_position[c * 8u + m] = x + f32(r_bias[at.r_bias + head + c]);
  }
  var start: array<u32, 8>;
  for (var m = 0u; m < 8u; m++) {
    let found = work[at.work + p.starts + b * p.rows + min(m0 + m, p.rows - 1u)];
    start[m] = select(found, 0u, found == PADDED);
  }
  workgroupBarrier();
  // Row of the statistics that this invocation keeps, with seven others.
  let own = lane / 8u;
  let sub = lane % 8u;
  var row_max = -3.4e38;
  var row_sum = 0.0;
  var o: array<f32, 32>;
  for (var j0 = 0u; j0 < p.keys; j0 += 64u) {
    let j = j0 + lane;
    if j < p.keys {
      let first_element = (b * p.keys + j) * stride + head;
      var s: array<f32, 8>;
      for (var c = 0u; c < p.d; c++) {
        let x = f32(k[at.k + first_element + c]);
        for (var m = 0u; m < 8u; m++) {
          s[m] = fma(q_content[c * 8u + m], x, s[m]);
        }
      }
      for (var m = 0u; m < 8u; m++) {
        let position = at.r + (start[m] + j) * stride + head;
        for (var c = 0u; c < p.d; c++) {
          s[m] = fma(q_position[c * 8u + m], f32(r[position + c]), s[m]);
        }
      }
      for (var m = 0u; m < 8u; m++) {
        tile[m * 64u + lane] = score(s[m], b, h, min(m0 + m, p.rows - 1u), j);
      }
    } else {
      for (var m = 0u; m < 8u; m++) {
        tile[m * 64u + lane] = -3.4e38;
      }
    }
    workgroupBarrier();
    var largest = row_max;
    for (var e = 0u; e < 8u; e++) {
      largest = max(largest, tile[own * 64u + sub * 8u + e]);
    }
    part[lane] = largest;
    workgroupBarrier();
    for (var e = 0u; e < 8u; e++) {
      largest = max(largest, part[own * 8u + e]);
    }
    let correction = exp_f32(row_max - largest);
    row_max = largest;
    var words = vec4u(0u);
    if p.threshold > 0u {
      words = decisions(j0 / 8u + sub, m0 + own, b, h);
    }
    var sum = 0.0;
    for (var e = 0u; e < 8u; e++) {
      let cell = own * 64u + sub * 8u + e;
      let x = exp_f32(tile[cell] - largest);
      sum += x;
      tile[cell] = select(x, x * factor(words, e), p.threshold > 0u);
    }
    row_sum = fma(row_sum, correction, sum);
    if sub == 0u {
      rescale[own] = correction;
    }
    workgroupBarrier();
    let end = min(64u, p.keys - j0);
    {
      let c = lane + 0u;
      if c < p.d {
        for (var m = 0u; m < 8u; m++) {
          o[0u + m] *= rescale[m];
        }
        for (var jj = 0u; jj < end; jj++) {
          let x = f32(v[at.v + (b * p.keys + j0 + jj) * stride + head + c]);
          for (var m = 0u; m < 8u; m++) {
            o[0u + m] = fma(tile[m * 64u + jj], x, o[0u + m]);
          }
        }
      }
    }
    {
      let c = lane + 64u;
      if c < p.d {
        for (var m = 0u; m < 8u; m++) {
          o[8u + m] *= rescale[m];
        }
        for (var jj = 0u; jj < end; jj++) {
          let x = f32(v[at.v + (b * p.keys + j0 + jj) * stride + head + c]);
          for (var m = 0u; m < 8u; m++) {
            o[8u + m] = fma(tile[m * 64u + jj], x, o[8u + m]);
          }
        }
      }
    }
    {
      let c = lane + 128u;
      if c < p.d {
        for (var m = 0u; m < 8u; m++) {
          o[16u + m] *= rescale[m];
        }
        for (var jj = 0u; jj < end; jj++) {
          let x = f32(v[at.v + (b * p.keys + j0 + jj) * stride + head + c]);
          for (var m = 0u; m < 8u; m++) {
            o[16u + m] = fma(tile[m * 64u + jj], x, o[16u + m]);
          }
        }
      }
    }
    {
      let c = lane + 192u;
      if c < p.d {
        for (var m = 0u; m < 8u; m++) {
          o[24u + m] *= rescale[m];
        }
        for (var jj = 0u; jj < end; jj++) {
          let x = f32(v[at.v + (b * p.keys + j0 + jj) * stride + head + c]);
          for (var m = 0u; m < 8u; m++) {
            o[24u + m] = fma(tile[m * 64u + jj], x, o[24u + m]);
          }
        }
      }
    }
    workgroupBarrier();
  }
  part[lane] = row_sum;
  workgroupBarrier();
  var total = 0.0;
  for (var e = 0u; e < 8u; e++) {
    total += part[own * 8u + e];
  }
  let row = m0 + own;
  if sub == 0u {
    rescale[own] = 1.0 / total;
    if row < p.rows {
      let padded = work[at.work + p.starts + b * p.rows + row] == PADDED;
      lse[at.lse + (b * p.heads + h) * p.rows + row] = T(select(row_max + log_f32(total), 0.0, padded));
    }
  }
  workgroupBarrier();
  {
    let c = lane + 0u;
    for (var m = 0u; m < 8u; m++) {
      if c < p.d && m0 + m < p.rows {
        let padded = work[at.work + p.starts + b * p.rows + m0 + m] == PADDED;
        out[at.out + (b * p.rows + m0 + m) * stride + head + c] =
          T(select(o[0u + m] * rescale[m], 0.0, padded));
      }
    }
  }
  {
    let c = lane + 64u;
    for (var m = 0u; m < 8u; m++) {
      if c < p.d && m0 + m < p.rows {
        let padded = work[at.work + p.starts + b * p.rows + m0 + m] == PADDED;
        out[at.out + (b * p.rows + m0 + m) * stride + head + c] =
          T(select(o[8u + m] * rescale[m], 0.0, padded));
      }
    }
  }
  {
    let c = lane + 128u;
    for (var m = 0u; m < 8u; m++) {
      if c < p.d && m0 + m < p.rows {
        let padded = work[at.work + p.starts + b * p.rows + m0 + m] == PADDED;
        out[at.out + (b * p.rows + m0 + m) * stride + head + c] =
          T(select(o[16u + m] * rescale[m], 0.0, padded));
      }
    }
  }
  {
    let c = lane + 192u;
    for (var m = 0u; m < 8u; m++) {
      if c < p.d && m0 + m < p.rows {
        let padded = work[at.work + p.starts + b * p.rows + m0 + m] == PADDED;
        out[at.out + (b * p.rows + m0 + m) * stride + head + c] =
          T(select(o[24u + m] * rescale[m], 0.0, padded));
      }
    }
  }
}

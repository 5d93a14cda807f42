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
  first_batch: u32,   // of the slab, the part of the batch and of its rows whose ds is in scratch
  batches: u32,
  first_row: u32,
  slab_rows: u32,     // a multiple of 32
  slab: u32,          // [batches, H, slab_rows, 32 ceil(N/32)] f32: ds
  others: u32,        // [batches, H, slab_rows, ceil(N/32)] f32: sum of p over 32 keys, those of another segment
  splits: u32,        // parts of the batch whose sums of dr are kept apart: one here
}

const PADDED = 0xffffffffu;
// Score of a hidden key.
const HIDDEN = -1e30;
struct At { q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, work: u32, out: u32, lse: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
alias Memory = vec4<T>;
@group(0) @binding(0) var<storage, read_write> q: array<Memory>;      // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> k: array<Memory>;      // [B, N, H, D]
@group(0) @binding(2) var<storage, read_write> v: array<Memory>;      // [B, N, H, D]
@group(0) @binding(3) var<storage, read_write> r: array<Memory>;      // [G, P, H, D]
@group(0) @binding(4) var<storage, read_write> w_bias: array<Memory>; // [H, D]
@group(0) @binding(5) var<storage, read_write> r_bias: array<Memory>; // [H, D]
@group(0) @binding(6) var<storage, read_write> key: array<u32>;       // [2 + B]
@group(0) @binding(7) var<storage, read_write> work: array<u32>;
@group(0) @binding(8) var<storage, read_write> out: array<Memory>;    // [B, rows, H, D]
@group(0) @binding(9) var<storage, read_write> lse: array<f32>;       // [B, H, rows]

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
// Numbers as memory of type T holds them.
fn stored(x: f32) -> T {
  return x;
}
fn stored_4(x: vec4f) -> vec4f {
  return x;
}
// Tiles of 32 rows and 32 keys in work groups of 64. Invocation (y, x) = (lane / 8, lane % 8) owns rows y + 8 a and keys
// x + 8 b, a and b from 0 to 3: neighbours touch neighbours in work group memory, and its 16 pairs need 7 rows of r, since
// row i and key j need row start(0) - i + j of a content stream. Heads go through work group memory 16 columns at a time.

// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn q_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(q[(at.q + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn k_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(k[(at.k + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn v_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(v[(at.v + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn r_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(r[(at.r + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn w_bias_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(w_bias[(at.w_bias + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn r_bias_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(r_bias[(at.r_bias + first + c) / 4u]);
  }
  return vec4f(0.0);
}

// What is kept in memory as it is used, and sums in f32.
fn store_out(first: u32, c: u32, value: vec4f) {
  if c < p.d {
    out[(at.out + first + c) / 4u] = stored_4(value);
  }
}

var<workgroup> row_start: array<u32, 32>; // row of r that belongs to key 0; PADDED: there is no such row

// Finds the rows m0 to m0 + 31; a barrier must follow.
fn find_rows(b: u32, m0: u32, lane: u32) {
  if lane < 32u {
    var start = PADDED;
    if m0 + lane < p.rows {
      start = work[at.work + p.starts + b * p.rows + m0 + lane];
    }
    row_start[lane] = start;
  }
}

// First word of the bits of row m.
fn bits_of(b: u32, m: u32) -> u32 {
  return at.work + p.hidden + (b * p.rows + min(m, p.rows - 1u)) * 2u * ((p.keys + 31u) / 32u);
}
// Bits of keys j0 to j0 + 31 of a row: of another segment.
fn others_of(b: u32, m: u32, j0: u32) -> u32 {
  return work[bits_of(b, m) + (p.keys + 31u) / 32u + j0 / 32u];
}
// Scores of a tile; see rel_attention_tile.wgsl.

const K = 320u;
const VALUES = 480u;
var<workgroup> stage: array<vec4f, 480>;
var<workgroup> kept: array<u32, 128>; // [32 rows, 4 blocks]: 8 decisions of dropout

// Dot products of queries and keys, vec4 b of row a; backward also of dout and values. Rows have been found.
fn products(b: u32, h: u32, m0: u32, j0: u32, lane: u32) -> array<vec4f, 4> {
  let y = lane / 8u;
  let x = lane % 8u;
  let head = h * p.d;
  let stride = p.heads * p.d; // between the rows of every tensor
  var sums: array<vec4f, 4>;
  for (var c0 = 0u; c0 < p.d; c0 += 16u) {
    workgroupBarrier(); // the stage has been read
    for (var e = lane; e < 128u; e += 64u) {
      let row = e / 4u;
      let c = c0 + e % 4u * 4u;
      let to = row * 5u + e % 4u;
      var content = vec4f(0.0);
      var position = vec4f(0.0);
      if row_start[row] != PADDED {
        let first = (b * p.rows + m0 + row) * stride + head;
        content = q_4(first, c);
        position = content + r_bias_4(head, c);
        content += w_bias_4(head, c);
      }
      stage[to] = content;
      stage[160u + to] = position;
      let first = (b * p.keys + min(j0 + row, p.keys - 1u)) * stride + head;
      stage[K + to] = k_4(first, c);
    }
    workgroupBarrier();
    var block: array<vec4f, 4>; // short sums round less
    for (var c = 0u; c < 4u; c++) {
      let k0 = stage[K + (x + 0u) * 5u + c];
      let k1 = stage[K + (x + 8u) * 5u + c];
      let k2 = stage[K + (x + 16u) * 5u + c];
      let k3 = stage[K + (x + 24u) * 5u + c];
      {
        let source = (y + 0u) * 5u + c;
        let content = stage[source];
        block[0] += vec4f(dot(content, k0), dot(content, k1), dot(content, k2), dot(content, k3));
        let position = stage[160u + source];
        let start = row_start[y + 0u];
        let row = select(start, 0u, start == PADDED) + j0 + x;
        let last = p.groups * p.positions - 1u;
        block[0] += vec4f(
          dot(position, r_4(min(row, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 8u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 16u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 24u, last) * stride + head, c0 + c * 4u)),
        );
      }
      {
        let source = (y + 8u) * 5u + c;
        let content = stage[source];
        block[1] += vec4f(dot(content, k0), dot(content, k1), dot(content, k2), dot(content, k3));
        let position = stage[160u + source];
        let start = row_start[y + 8u];
        let row = select(start, 0u, start == PADDED) + j0 + x;
        let last = p.groups * p.positions - 1u;
        block[1] += vec4f(
          dot(position, r_4(min(row, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 8u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 16u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 24u, last) * stride + head, c0 + c * 4u)),
        );
      }
      {
        let source = (y + 16u) * 5u + c;
        let content = stage[source];
        block[2] += vec4f(dot(content, k0), dot(content, k1), dot(content, k2), dot(content, k3));
        let position = stage[160u + source];
        let start = row_start[y + 16u];
        let row = select(start, 0u, start == PADDED) + j0 + x;
        let last = p.groups * p.positions - 1u;
        block[2] += vec4f(
          dot(position, r_4(min(row, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 8u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 16u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 24u, last) * stride + head, c0 + c * 4u)),
        );
      }
      {
        let source = (y + 24u) * 5u + c;
        let content = stage[source];
        block[3] += vec4f(dot(content, k0), dot(content, k1), dot(content, k2), dot(content, k3));
        let position = stage[160u + source];
        let start = row_start[y + 24u];
        let row = select(start, 0u, start == PADDED) + j0 + x;
        let last = p.groups * p.positions - 1u;
        block[3] += vec4f(
          dot(position, r_4(min(row, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 8u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 16u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 24u, last) * stride + head, c0 + c * 4u)),
        );
      }
    }
    sums[0] += block[0];
    sums[1] += block[1];
    sums[2] += block[2];
    sums[3] += block[3];
  }
  return sums;
}

// Scaled scores of row m and keys j0 + x + 8 b, the dot products given.
fn scores_of(products: vec4f, b: u32, h: u32, m: u32, j0: u32, x: u32) -> vec4f {
  let hidden = (vec4u(work[bits_of(b, m) + j0 / 32u] >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
  var s = products * p.scale;
  if p.segments == 1u {
    let term = at.work + p.scores + ((b * p.heads + h) * p.rows + min(m, p.rows - 1u)) * 2u;
    let other = (vec4u(others_of(b, m, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
    s += select(vec4f(bitcast<f32>(work[term])), vec4f(bitcast<f32>(work[term + 1u])), other == vec4u(1u));
  }
  return select(s, vec4f(HIDDEN), hidden == vec4u(1u));
}

// Which of the keys j0 + x + 8 b there are.
fn exist(j0: u32, x: u32) -> vec4<bool> {
  return vec4u(j0 + x) + vec4u(0u, 8u, 16u, 24u) < vec4u(p.keys);
}

// Draws the decisions of dropout of a tile; a barrier must follow.
fn draw(b: u32, h: u32, m0: u32, j0: u32, lane: u32) {
  for (var e = lane; e < 128u; e += 64u) {
    let block = vec4u(j0 / 8u + e % 4u, m0 + e / 4u, key[at.key + 2u + b] * p.heads + h, p.site);
    let words = philox(block, vec2u(key[at.key], key[at.key + 1u]));
    var bits = 0u;
    for (var i = 0u; i < 8u; i++) {
      bits |= select(0u, 1u << i, keeps(words, i, p.threshold));
    }
    kept[e] = bits;
  }
}
// Factors of the probabilities of a row of the tile and keys x + 8 b.
fn factors(row: u32, x: u32) -> vec4f {
  if p.threshold == 0u {
    return vec4f(1.0);
  }
  let bits = vec4u(kept[row * 4u], kept[row * 4u + 1u], kept[row * 4u + 2u], kept[row * 4u + 3u]);
  return select(vec4f(0.0), vec4f(p.keep), ((bits >> vec4u(x)) & vec4u(1u)) == vec4u(1u));
}
fn exp_4(x: vec4f) -> vec4f {
  return vec4f(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
}

var<workgroup> tile: array<vec4f, 288>; // [32 keys, 9]: probabilities of rows y + 8 a
var<workgroup> part: array<vec4f, 64>;  // of each invocation, for its four rows

@compute @workgroup_size(64)
fn rel_attention(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.rows + 31u) / 32u;
  let item = flat_group(group, groups);
  if item >= p.batch * p.heads * tiles {
    return; // the whole work group
  }
  let m0 = item % tiles * 32u;
  let h = item / tiles % p.heads;
  let b = item / tiles / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  find_rows(b, m0, lane);
  var most = vec4f(-3.4e38); // largest score so far of rows y + 8 a
  var total = vec4f(0.0);    // this invocation's share of the denominators
  var o: array<vec4f, 32>; // [columns, 4 rows]
  for (var j0 = 0u; j0 < p.keys; j0 += 32u) {
    workgroupBarrier();
    if p.threshold > 0u {
      draw(b, h, m0, j0, lane);
    }
    var s = products(b, h, m0, j0, lane);
    let inside = exist(j0, x);
    var largest: vec4f;
    s[0] = select(vec4f(-3.4e38), scores_of(s[0], b, h, m0 + y + 0u, j0, x), inside);
    largest[0] = max(max(s[0].x, s[0].y), max(s[0].z, s[0].w));
    s[1] = select(vec4f(-3.4e38), scores_of(s[1], b, h, m0 + y + 8u, j0, x), inside);
    largest[1] = max(max(s[1].x, s[1].y), max(s[1].z, s[1].w));
    s[2] = select(vec4f(-3.4e38), scores_of(s[2], b, h, m0 + y + 16u, j0, x), inside);
    largest[2] = max(max(s[2].x, s[2].y), max(s[2].z, s[2].w));
    s[3] = select(vec4f(-3.4e38), scores_of(s[3], b, h, m0 + y + 24u, j0, x), inside);
    largest[3] = max(max(s[3].x, s[3].y), max(s[3].z, s[3].w));
    part[lane] = largest;
    workgroupBarrier();
    largest = most;
    for (var e = 0u; e < 8u; e++) {
      largest = max(largest, part[y * 8u + e]);
    }
    let correction = exp_4(most - largest);
    most = largest;
    total *= correction;
    s[0] = exp_4(s[0] - vec4f(largest[0]));
    total[0] += (s[0].x + s[0].y) + (s[0].z + s[0].w);
    s[0] *= factors(y + 0u, x);
    s[1] = exp_4(s[1] - vec4f(largest[1]));
    total[1] += (s[1].x + s[1].y) + (s[1].z + s[1].w);
    s[1] *= factors(y + 8u, x);
    s[2] = exp_4(s[2] - vec4f(largest[2]));
    total[2] += (s[2].x + s[2].y) + (s[2].z + s[2].w);
    s[2] *= factors(y + 16u, x);
    s[3] = exp_4(s[3] - vec4f(largest[3]));
    total[3] += (s[3].x + s[3].y) + (s[3].z + s[3].w);
    s[3] *= factors(y + 24u, x);
    tile[(x + 0u) * 9u + y] = vec4f(s[0][0], s[1][0], s[2][0], s[3][0]);
    tile[(x + 8u) * 9u + y] = vec4f(s[0][1], s[1][1], s[2][1], s[3][1]);
    tile[(x + 16u) * 9u + y] = vec4f(s[0][2], s[1][2], s[2][2], s[3][2]);
    tile[(x + 24u) * 9u + y] = vec4f(s[0][3], s[1][3], s[2][3], s[3][3]);
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 0u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[0] = fma(o[0], vec4f(correction[0]), block[0]);
      o[1] = fma(o[1], vec4f(correction[1]), block[1]);
      o[2] = fma(o[2], vec4f(correction[2]), block[2]);
      o[3] = fma(o[3], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 32u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[4] = fma(o[4], vec4f(correction[0]), block[0]);
      o[5] = fma(o[5], vec4f(correction[1]), block[1]);
      o[6] = fma(o[6], vec4f(correction[2]), block[2]);
      o[7] = fma(o[7], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 64u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[8] = fma(o[8], vec4f(correction[0]), block[0]);
      o[9] = fma(o[9], vec4f(correction[1]), block[1]);
      o[10] = fma(o[10], vec4f(correction[2]), block[2]);
      o[11] = fma(o[11], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 96u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[12] = fma(o[12], vec4f(correction[0]), block[0]);
      o[13] = fma(o[13], vec4f(correction[1]), block[1]);
      o[14] = fma(o[14], vec4f(correction[2]), block[2]);
      o[15] = fma(o[15], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 128u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[16] = fma(o[16], vec4f(correction[0]), block[0]);
      o[17] = fma(o[17], vec4f(correction[1]), block[1]);
      o[18] = fma(o[18], vec4f(correction[2]), block[2]);
      o[19] = fma(o[19], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 160u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[20] = fma(o[20], vec4f(correction[0]), block[0]);
      o[21] = fma(o[21], vec4f(correction[1]), block[1]);
      o[22] = fma(o[22], vec4f(correction[2]), block[2]);
      o[23] = fma(o[23], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 192u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[24] = fma(o[24], vec4f(correction[0]), block[0]);
      o[25] = fma(o[25], vec4f(correction[1]), block[1]);
      o[26] = fma(o[26], vec4f(correction[2]), block[2]);
      o[27] = fma(o[27], vec4f(correction[3]), block[3]);
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, 224u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
        block[0] = fma(vec4f(weights[0]), value, block[0]);
        block[1] = fma(vec4f(weights[1]), value, block[1]);
        block[2] = fma(vec4f(weights[2]), value, block[2]);
        block[3] = fma(vec4f(weights[3]), value, block[3]);
      }
      o[28] = fma(o[28], vec4f(correction[0]), block[0]);
      o[29] = fma(o[29], vec4f(correction[1]), block[1]);
      o[30] = fma(o[30], vec4f(correction[2]), block[2]);
      o[31] = fma(o[31], vec4f(correction[3]), block[3]);
    }
  }
  workgroupBarrier();
  part[lane] = total;
  workgroupBarrier();
  total = vec4f(0.0);
  for (var e = 0u; e < 8u; e++) {
    total += part[y * 8u + e];
  }
  {
    let m = m0 + y + 0u;
    let padded = row_start[y + 0u] == PADDED;
    if m < p.rows {
      if x == 0u {
        lse[at.lse + (b * p.heads + h) * p.rows + m] = select(most[0] + log_f32(total[0]), 0.0, padded);
      }
      store_out(
        (b * p.rows + m) * stride + head,
        0u + x * 4u,
        select(o[0] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        32u + x * 4u,
        select(o[4] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        64u + x * 4u,
        select(o[8] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        96u + x * 4u,
        select(o[12] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        128u + x * 4u,
        select(o[16] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        160u + x * 4u,
        select(o[20] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        192u + x * 4u,
        select(o[24] / total[0], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        224u + x * 4u,
        select(o[28] / total[0], vec4f(0.0), padded),
      );
    }
  }
  {
    let m = m0 + y + 8u;
    let padded = row_start[y + 8u] == PADDED;
    if m < p.rows {
      if x == 0u {
        lse[at.lse + (b * p.heads + h) * p.rows + m] = select(most[1] + log_f32(total[1]), 0.0, padded);
      }
      store_out(
        (b * p.rows + m) * stride + head,
        0u + x * 4u,
        select(o[1] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        32u + x * 4u,
        select(o[5] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        64u + x * 4u,
        select(o[9] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        96u + x * 4u,
        select(o[13] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        128u + x * 4u,
        select(o[17] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        160u + x * 4u,
        select(o[21] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        192u + x * 4u,
        select(o[25] / total[1], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        224u + x * 4u,
        select(o[29] / total[1], vec4f(0.0), padded),
      );
    }
  }
  {
    let m = m0 + y + 16u;
    let padded = row_start[y + 16u] == PADDED;
    if m < p.rows {
      if x == 0u {
        lse[at.lse + (b * p.heads + h) * p.rows + m] = select(most[2] + log_f32(total[2]), 0.0, padded);
      }
      store_out(
        (b * p.rows + m) * stride + head,
        0u + x * 4u,
        select(o[2] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        32u + x * 4u,
        select(o[6] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        64u + x * 4u,
        select(o[10] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        96u + x * 4u,
        select(o[14] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        128u + x * 4u,
        select(o[18] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        160u + x * 4u,
        select(o[22] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        192u + x * 4u,
        select(o[26] / total[2], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        224u + x * 4u,
        select(o[30] / total[2], vec4f(0.0), padded),
      );
    }
  }
  {
    let m = m0 + y + 24u;
    let padded = row_start[y + 24u] == PADDED;
    if m < p.rows {
      if x == 0u {
        lse[at.lse + (b * p.heads + h) * p.rows + m] = select(most[3] + log_f32(total[3]), 0.0, padded);
      }
      store_out(
        (b * p.rows + m) * stride + head,
        0u + x * 4u,
        select(o[3] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        32u + x * 4u,
        select(o[7] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        64u + x * 4u,
        select(o[11] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        96u + x * 4u,
        select(o[15] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        128u + x * 4u,
        select(o[19] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        160u + x * 4u,
        select(o[23] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        192u + x * 4u,
        select(o[27] / total[3], vec4f(0.0), padded),
      );
      store_out(
        (b * p.rows + m) * stride + head,
        224u + x * 4u,
        select(o[31] / total[3], vec4f(0.0), padded),
      );
    }
  }
}

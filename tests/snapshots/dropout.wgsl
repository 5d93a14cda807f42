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
struct At { x: u32, key: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;     // [R, d]
@group(0) @binding(1) var<storage, read_write> key: array<u32>; // [2 + B]
@group(0) @binding(2) var<storage, read_write> out: array<T>;   // [R, d]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
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
fn dropout(
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
    out[at.out + i] = T(f32(x[at.x + i]) * select(0.0, p.scale, keeps(words, e, p.threshold)));
  }
}

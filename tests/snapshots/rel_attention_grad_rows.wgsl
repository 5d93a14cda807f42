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
struct At { k: u32, r: u32, seg_embed: u32, work: u32, dq: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
alias Memory = vec4<T>;
@group(0) @binding(0) var<storage, read_write> k: array<Memory>;         // [B, N, H, D]
@group(0) @binding(1) var<storage, read_write> r: array<Memory>;         // [G, P, H, D]
@group(0) @binding(2) var<storage, read_write> seg_embed: array<Memory>; // [2, H, D]
@group(0) @binding(3) var<storage, read_write> work: array<u32>;
@group(0) @binding(4) var<storage, read_write> dq: array<Memory>;        // [B, rows, H, D]

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
// Tiles of 32 rows and 32 keys in work groups of 64. Invocation (y, x) = (lane / 8, lane % 8) owns rows y + 8 a and keys
// x + 8 b, a and b from 0 to 3: neighbours touch neighbours in work group memory, and its 16 pairs need 7 rows of r, since
// row i and key j need row start(0) - i + j of a content stream. Heads go through work group memory 16 columns at a time.

// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn k_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(k[(at.k + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn seg_embed_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(seg_embed[(at.seg_embed + first + c) / 4u]);
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

// What is kept in memory as it is used, and sums in f32.
fn store_dq(first: u32, c: u32, value: vec4f) {
  if c < p.d {
    dq[(at.dq + first + c) / 4u] = stored_4(value);
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

var<workgroup> tile: array<vec4f, 288>;  // [32 keys, 9]: ds of rows y + 8 a
var<workgroup> stage: array<vec4f, 256>; // [32 keys, 8] k
var<workgroup> part: array<vec4f, 64>;   // of each invocation, for its four rows

// Sum over the invocations that share rows.
fn row_totals(value: vec4f, lane: u32) -> vec4f {
  workgroupBarrier();
  part[lane] = value;
  workgroupBarrier();
  var total = vec4f(0.0);
  for (var e = 0u; e < 8u; e++) {
    total += part[lane / 8u * 8u + e];
  }
  return total;
}

@compute @workgroup_size(64)
fn rel_attention_grad_rows(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = p.slab_rows / 32u;
  let key_tiles = (p.keys + 31u) / 32u;
  let item = flat_group(group, groups);
  let m0 = p.first_row + item % tiles * 32u;
  if item >= p.batches * p.heads * tiles || m0 >= p.rows {
    return; // the whole work group
  }
  let slab_head = item / tiles; // of [batches, H]
  let h = slab_head % p.heads;
  let b = p.first_batch + slab_head / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  let slab_row = slab_head * p.slab_rows + m0 - p.first_row + y;
  find_rows(b, m0, lane);
  // This invocation's share of each row's sums: of ds, of ds and of p over keys of another segment.
  var all = vec4f(0.0);
  var other = vec4f(0.0);
  var other_p = vec4f(0.0);
  var o: array<vec4f, 32>; // [columns, rows y + 8 a]
  for (var j0 = 0u; j0 < p.keys; j0 += 32u) {
    workgroupBarrier();
    var ds: array<vec4f, 4>;
    {
      let source = at.work + p.slab + (slab_row + 0u) * key_tiles * 32u + j0 + x;
      let pairs = vec4f(
        bitcast<f32>(work[source]), bitcast<f32>(work[source + 8u]), bitcast<f32>(work[source + 16u]),
        bitcast<f32>(work[source + 24u]),
      );
      ds[0] = pairs;
      if p.segments == 1u {
        all[0] += (pairs.x + pairs.y) + (pairs.z + pairs.w);
        let bits = (vec4u(others_of(b, m0 + y + 0u, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
        let share = select(vec4f(0.0), pairs, bits == vec4u(1u));
        other[0] += (share.x + share.y) + (share.z + share.w);
      }
    }
    {
      let source = at.work + p.slab + (slab_row + 8u) * key_tiles * 32u + j0 + x;
      let pairs = vec4f(
        bitcast<f32>(work[source]), bitcast<f32>(work[source + 8u]), bitcast<f32>(work[source + 16u]),
        bitcast<f32>(work[source + 24u]),
      );
      ds[1] = pairs;
      if p.segments == 1u {
        all[1] += (pairs.x + pairs.y) + (pairs.z + pairs.w);
        let bits = (vec4u(others_of(b, m0 + y + 8u, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
        let share = select(vec4f(0.0), pairs, bits == vec4u(1u));
        other[1] += (share.x + share.y) + (share.z + share.w);
      }
    }
    {
      let source = at.work + p.slab + (slab_row + 16u) * key_tiles * 32u + j0 + x;
      let pairs = vec4f(
        bitcast<f32>(work[source]), bitcast<f32>(work[source + 8u]), bitcast<f32>(work[source + 16u]),
        bitcast<f32>(work[source + 24u]),
      );
      ds[2] = pairs;
      if p.segments == 1u {
        all[2] += (pairs.x + pairs.y) + (pairs.z + pairs.w);
        let bits = (vec4u(others_of(b, m0 + y + 16u, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
        let share = select(vec4f(0.0), pairs, bits == vec4u(1u));
        other[2] += (share.x + share.y) + (share.z + share.w);
      }
    }
    {
      let source = at.work + p.slab + (slab_row + 24u) * key_tiles * 32u + j0 + x;
      let pairs = vec4f(
        bitcast<f32>(work[source]), bitcast<f32>(work[source + 8u]), bitcast<f32>(work[source + 16u]),
        bitcast<f32>(work[source + 24u]),
      );
      ds[3] = pairs;
      if p.segments == 1u {
        all[3] += (pairs.x + pairs.y) + (pairs.z + pairs.w);
        let bits = (vec4u(others_of(b, m0 + y + 24u, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
        let share = select(vec4f(0.0), pairs, bits == vec4u(1u));
        other[3] += (share.x + share.y) + (share.z + share.w);
      }
    }
    tile[(x + 0u) * 9u + y] = vec4f(ds[0][0], ds[1][0], ds[2][0], ds[3][0]);
    tile[(x + 8u) * 9u + y] = vec4f(ds[0][1], ds[1][1], ds[2][1], ds[3][1]);
    tile[(x + 16u) * 9u + y] = vec4f(ds[0][2], ds[1][2], ds[2][2], ds[3][2]);
    tile[(x + 24u) * 9u + y] = vec4f(ds[0][3], ds[1][3], ds[2][3], ds[3][3]);
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 0u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 0u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[0] += block[0];
      o[1] += block[1];
      o[2] += block[2];
      o[3] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 32u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 32u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[4] += block[0];
      o[5] += block[1];
      o[6] += block[2];
      o[7] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 64u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 64u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[8] += block[0];
      o[9] += block[1];
      o[10] += block[2];
      o[11] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 96u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 96u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[12] += block[0];
      o[13] += block[1];
      o[14] += block[2];
      o[15] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 128u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 128u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[16] += block[0];
      o[17] += block[1];
      o[18] += block[2];
      o[19] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 160u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 160u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[20] += block[0];
      o[21] += block[1];
      o[22] += block[2];
      o[23] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 192u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 192u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[24] += block[0];
      o[25] += block[1];
      o[26] += block[2];
      o[27] += block[3];
    }
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, 224u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      let last = p.groups * p.positions - 1u;
      for (var j = 0u; j < 8u; j++) {
        {
          let pairs = tile[(j + 0u) * 9u + y];
          let content = stage[(j + 0u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 0u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 8u) * 9u + y];
          let content = stage[(j + 8u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 8u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 16u) * 9u + y];
          let content = stage[(j + 16u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 16u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
        {
          let pairs = tile[(j + 24u) * 9u + y];
          let content = stage[(j + 24u) * 8u + x];
          {
            let start = row_start[y + 0u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[0] = fma(vec4f(pairs[0]), content + position, block[0]);
          }
          {
            let start = row_start[y + 8u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[1] = fma(vec4f(pairs[1]), content + position, block[1]);
          }
          {
            let start = row_start[y + 16u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[2] = fma(vec4f(pairs[2]), content + position, block[2]);
          }
          {
            let start = row_start[y + 24u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + 24u, last);
            let position = r_4(row * stride + head, 224u + x * 4u);
            block[3] = fma(vec4f(pairs[3]), content + position, block[3]);
          }
        }
      }
      o[28] += block[0];
      o[29] += block[1];
      o[30] += block[2];
      o[31] += block[3];
    }
  }
  var others = vec4f(0.0);
  if p.segments == 1u {
    for (var t = x; t < key_tiles; t += 8u) {
      other_p[0] += bitcast<f32>(work[at.work + p.others + (slab_row + 0u) * key_tiles + t]);
      other_p[1] += bitcast<f32>(work[at.work + p.others + (slab_row + 8u) * key_tiles + t]);
      other_p[2] += bitcast<f32>(work[at.work + p.others + (slab_row + 16u) * key_tiles + t]);
      other_p[3] += bitcast<f32>(work[at.work + p.others + (slab_row + 24u) * key_tiles + t]);
    }
    // An error of dout.out enters ds as p times that error; the sum over all keys, 0 but for it, tells how much.
    let excess = row_totals(all, lane);
    let weights = row_totals(other_p, lane);
    others = fma(-weights, excess, row_totals(other, lane));
  }
  {
    let m = m0 + y + 0u;
    if m < p.rows {
      let valid = row_start[y + 0u] != PADDED;
      if p.segments == 1u && x == 0u {
        work[at.work + p.row_sums + (b * p.heads + h) * p.rows + m] = bitcast<u32>(select(0.0, others[0], valid));
      }
      {
        let c = 0u + x * 4u;
        var sum = o[0];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 32u + x * 4u;
        var sum = o[4];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 64u + x * 4u;
        var sum = o[8];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 96u + x * 4u;
        var sum = o[12];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 128u + x * 4u;
        var sum = o[16];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 160u + x * 4u;
        var sum = o[20];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 192u + x * 4u;
        var sum = o[24];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 224u + x * 4u;
        var sum = o[28];
        if p.segments == 1u {
          sum = fma(vec4f(others[0]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
    }
  }
  {
    let m = m0 + y + 8u;
    if m < p.rows {
      let valid = row_start[y + 8u] != PADDED;
      if p.segments == 1u && x == 0u {
        work[at.work + p.row_sums + (b * p.heads + h) * p.rows + m] = bitcast<u32>(select(0.0, others[1], valid));
      }
      {
        let c = 0u + x * 4u;
        var sum = o[1];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 32u + x * 4u;
        var sum = o[5];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 64u + x * 4u;
        var sum = o[9];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 96u + x * 4u;
        var sum = o[13];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 128u + x * 4u;
        var sum = o[17];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 160u + x * 4u;
        var sum = o[21];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 192u + x * 4u;
        var sum = o[25];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 224u + x * 4u;
        var sum = o[29];
        if p.segments == 1u {
          sum = fma(vec4f(others[1]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
    }
  }
  {
    let m = m0 + y + 16u;
    if m < p.rows {
      let valid = row_start[y + 16u] != PADDED;
      if p.segments == 1u && x == 0u {
        work[at.work + p.row_sums + (b * p.heads + h) * p.rows + m] = bitcast<u32>(select(0.0, others[2], valid));
      }
      {
        let c = 0u + x * 4u;
        var sum = o[2];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 32u + x * 4u;
        var sum = o[6];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 64u + x * 4u;
        var sum = o[10];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 96u + x * 4u;
        var sum = o[14];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 128u + x * 4u;
        var sum = o[18];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 160u + x * 4u;
        var sum = o[22];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 192u + x * 4u;
        var sum = o[26];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 224u + x * 4u;
        var sum = o[30];
        if p.segments == 1u {
          sum = fma(vec4f(others[2]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
    }
  }
  {
    let m = m0 + y + 24u;
    if m < p.rows {
      let valid = row_start[y + 24u] != PADDED;
      if p.segments == 1u && x == 0u {
        work[at.work + p.row_sums + (b * p.heads + h) * p.rows + m] = bitcast<u32>(select(0.0, others[3], valid));
      }
      {
        let c = 0u + x * 4u;
        var sum = o[3];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 32u + x * 4u;
        var sum = o[7];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 64u + x * 4u;
        var sum = o[11];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 96u + x * 4u;
        var sum = o[15];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 128u + x * 4u;
        var sum = o[19];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 160u + x * 4u;
        var sum = o[23];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 192u + x * 4u;
        var sum = o[27];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
      {
        let c = 224u + x * 4u;
        var sum = o[31];
        if p.segments == 1u {
          sum = fma(vec4f(others[3]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
    }
  }
}

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
struct At { q: u32, r_bias: u32, work: u32, dr: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
alias Memory = vec4<T>;
alias Sums = vec4f;
@group(0) @binding(0) var<storage, read_write> q: array<Memory>;      // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> r_bias: array<Memory>; // [H, D]
@group(0) @binding(2) var<storage, read_write> work: array<u32>;
@group(0) @binding(3) var<storage, read_write> dr: array<Sums>;       // [G, P, H, D]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
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
fn r_bias_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(r_bias[(at.r_bias + first + c) / 4u]);
  }
  return vec4f(0.0);
}
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn dr_4(first: u32, c: u32) -> vec4f {
  if c < p.d {
    return vec4f(dr[(at.dr + first + c) / 4u]);
  }
  return vec4f(0.0);
}

// What is kept in memory as it is used, and sums in f32.
fn store_dr(first: u32, c: u32, value: vec4f) {
  if c < p.d {
    dr[(at.dr + first + c) / 4u] = (value);
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

var<workgroup> tile: array<vec4f, 288>;  // [32 query rows, 9]: ds of rows x + 8 b of r
var<workgroup> stage: array<vec4f, 256>; // [32 query rows, 8] q, with r_bias
var<workgroup> part: array<vec4f, 64>;

@compute @workgroup_size(64)
fn rel_attention_grad_positions(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.positions + 31u) / 32u;
  let key_tiles = (p.keys + 31u) / 32u;
  let item = flat_group(group, groups);
  if item >= p.groups * p.heads * tiles {
    return; // the whole work group
  }
  let t0 = item % tiles * 32u;
  let h = item / tiles % p.heads;
  let first = item / tiles / p.heads * p.positions; // of the group's rows
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  var position_sum = vec4f(0.0); // this invocation's share, rows x + 8 b of r
  var o: array<vec4f, 32>; // [columns, rows y + 8 b of r]
  for (var b = p.first_batch; b < p.first_batch + p.batches; b++) {
    for (var m0 = p.first_row; m0 < min(p.first_row + p.slab_rows, p.rows); m0 += 32u) {
      workgroupBarrier();
      find_rows(b, m0, lane);
      // Key of row i and row t of r: j = t - start(i). Rows of the content stream lie in order: skip where no j is a key,
      // as in all batch rows of another group.
      let least = i32(first + t0) - i32(workgroupUniformLoad(&row_start[0]));
      if p.query == 0u && (least >= i32(p.keys) || least + 62 < 0) {
        continue;
      }
      let slab_row = ((b - p.first_batch) * p.heads + h) * p.slab_rows + m0 - p.first_row;
      {
        let row = y + 0u;
        let start = row_start[row];
        let source = at.work + p.slab + (slab_row + row) * key_tiles * 32u;
        var pairs = vec4f(0.0);
        if start != PADDED {
          let at_0 = t0 + x + 0u;
          let j0 = i32(first + at_0) - i32(start);
          if at_0 < p.positions && j0 >= 0 && j0 < i32(p.keys) {
            pairs[0] = bitcast<f32>(work[source + u32(j0)]);
          }
          let at_1 = t0 + x + 8u;
          let j1 = i32(first + at_1) - i32(start);
          if at_1 < p.positions && j1 >= 0 && j1 < i32(p.keys) {
            pairs[1] = bitcast<f32>(work[source + u32(j1)]);
          }
          let at_2 = t0 + x + 16u;
          let j2 = i32(first + at_2) - i32(start);
          if at_2 < p.positions && j2 >= 0 && j2 < i32(p.keys) {
            pairs[2] = bitcast<f32>(work[source + u32(j2)]);
          }
          let at_3 = t0 + x + 24u;
          let j3 = i32(first + at_3) - i32(start);
          if at_3 < p.positions && j3 >= 0 && j3 < i32(p.keys) {
            pairs[3] = bitcast<f32>(work[source + u32(j3)]);
          }
        }
        tile[row * 9u + x] = pairs;
        position_sum += pairs;
      }
      {
        let row = y + 8u;
        let start = row_start[row];
        let source = at.work + p.slab + (slab_row + row) * key_tiles * 32u;
        var pairs = vec4f(0.0);
        if start != PADDED {
          let at_0 = t0 + x + 0u;
          let j0 = i32(first + at_0) - i32(start);
          if at_0 < p.positions && j0 >= 0 && j0 < i32(p.keys) {
            pairs[0] = bitcast<f32>(work[source + u32(j0)]);
          }
          let at_1 = t0 + x + 8u;
          let j1 = i32(first + at_1) - i32(start);
          if at_1 < p.positions && j1 >= 0 && j1 < i32(p.keys) {
            pairs[1] = bitcast<f32>(work[source + u32(j1)]);
          }
          let at_2 = t0 + x + 16u;
          let j2 = i32(first + at_2) - i32(start);
          if at_2 < p.positions && j2 >= 0 && j2 < i32(p.keys) {
            pairs[2] = bitcast<f32>(work[source + u32(j2)]);
          }
          let at_3 = t0 + x + 24u;
          let j3 = i32(first + at_3) - i32(start);
          if at_3 < p.positions && j3 >= 0 && j3 < i32(p.keys) {
            pairs[3] = bitcast<f32>(work[source + u32(j3)]);
          }
        }
        tile[row * 9u + x] = pairs;
        position_sum += pairs;
      }
      {
        let row = y + 16u;
        let start = row_start[row];
        let source = at.work + p.slab + (slab_row + row) * key_tiles * 32u;
        var pairs = vec4f(0.0);
        if start != PADDED {
          let at_0 = t0 + x + 0u;
          let j0 = i32(first + at_0) - i32(start);
          if at_0 < p.positions && j0 >= 0 && j0 < i32(p.keys) {
            pairs[0] = bitcast<f32>(work[source + u32(j0)]);
          }
          let at_1 = t0 + x + 8u;
          let j1 = i32(first + at_1) - i32(start);
          if at_1 < p.positions && j1 >= 0 && j1 < i32(p.keys) {
            pairs[1] = bitcast<f32>(work[source + u32(j1)]);
          }
          let at_2 = t0 + x + 16u;
          let j2 = i32(first + at_2) - i32(start);
          if at_2 < p.positions && j2 >= 0 && j2 < i32(p.keys) {
            pairs[2] = bitcast<f32>(work[source + u32(j2)]);
          }
          let at_3 = t0 + x + 24u;
          let j3 = i32(first + at_3) - i32(start);
          if at_3 < p.positions && j3 >= 0 && j3 < i32(p.keys) {
            pairs[3] = bitcast<f32>(work[source + u32(j3)]);
          }
        }
        tile[row * 9u + x] = pairs;
        position_sum += pairs;
      }
      {
        let row = y + 24u;
        let start = row_start[row];
        let source = at.work + p.slab + (slab_row + row) * key_tiles * 32u;
        var pairs = vec4f(0.0);
        if start != PADDED {
          let at_0 = t0 + x + 0u;
          let j0 = i32(first + at_0) - i32(start);
          if at_0 < p.positions && j0 >= 0 && j0 < i32(p.keys) {
            pairs[0] = bitcast<f32>(work[source + u32(j0)]);
          }
          let at_1 = t0 + x + 8u;
          let j1 = i32(first + at_1) - i32(start);
          if at_1 < p.positions && j1 >= 0 && j1 < i32(p.keys) {
            pairs[1] = bitcast<f32>(work[source + u32(j1)]);
          }
          let at_2 = t0 + x + 16u;
          let j2 = i32(first + at_2) - i32(start);
          if at_2 < p.positions && j2 >= 0 && j2 < i32(p.keys) {
            pairs[2] = bitcast<f32>(work[source + u32(j2)]);
          }
          let at_3 = t0 + x + 24u;
          let j3 = i32(first + at_3) - i32(start);
          if at_3 < p.positions && j3 >= 0 && j3 < i32(p.keys) {
            pairs[3] = bitcast<f32>(work[source + u32(j3)]);
          }
        }
        tile[row * 9u + x] = pairs;
        position_sum += pairs;
      }
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 0u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[0] += block[0];
        o[1] += block[1];
        o[2] += block[2];
        o[3] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 32u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[4] += block[0];
        o[5] += block[1];
        o[6] += block[2];
        o[7] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 64u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[8] += block[0];
        o[9] += block[1];
        o[10] += block[2];
        o[11] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 96u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[12] += block[0];
        o[13] += block[1];
        o[14] += block[2];
        o[15] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 128u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[16] += block[0];
        o[17] += block[1];
        o[18] += block[2];
        o[19] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 160u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[20] += block[0];
        o[21] += block[1];
        o[22] += block[2];
        o[23] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 192u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[24] += block[0];
        o[25] += block[1];
        o[26] += block[2];
        o[27] += block[3];
      }
      workgroupBarrier();
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = 224u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
          block[0] = fma(vec4f(pairs[0]), query, block[0]);
          block[1] = fma(vec4f(pairs[1]), query, block[1]);
          block[2] = fma(vec4f(pairs[2]), query, block[2]);
          block[3] = fma(vec4f(pairs[3]), query, block[3]);
        }
        o[28] += block[0];
        o[29] += block[1];
        o[30] += block[2];
        o[31] += block[3];
      }
    }
  }
  workgroupBarrier();
  part[lane] = position_sum;
  workgroupBarrier();
  if lane < 32u && t0 + lane < p.positions {
    let to = at.work + p.position_sums + first * p.heads + h * p.positions + t0 + lane;
    var total = 0.0;
    if p.accumulate == 1u {
      total = bitcast<f32>(work[to]);
    }
    for (var e = 0u; e < 8u; e++) {
      total += part[e * 8u + lane % 8u][lane / 8u];
    }
    work[to] = bitcast<u32>(total);
  }
  if t0 + y + 0u < p.positions {
    let to = (first + t0 + y + 0u) * stride + head;
    {
      let c = 0u + x * 4u;
      var sum = o[0];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 32u + x * 4u;
      var sum = o[4];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 64u + x * 4u;
      var sum = o[8];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 96u + x * 4u;
      var sum = o[12];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 128u + x * 4u;
      var sum = o[16];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 160u + x * 4u;
      var sum = o[20];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 192u + x * 4u;
      var sum = o[24];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 224u + x * 4u;
      var sum = o[28];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
  }
  if t0 + y + 8u < p.positions {
    let to = (first + t0 + y + 8u) * stride + head;
    {
      let c = 0u + x * 4u;
      var sum = o[1];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 32u + x * 4u;
      var sum = o[5];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 64u + x * 4u;
      var sum = o[9];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 96u + x * 4u;
      var sum = o[13];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 128u + x * 4u;
      var sum = o[17];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 160u + x * 4u;
      var sum = o[21];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 192u + x * 4u;
      var sum = o[25];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 224u + x * 4u;
      var sum = o[29];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
  }
  if t0 + y + 16u < p.positions {
    let to = (first + t0 + y + 16u) * stride + head;
    {
      let c = 0u + x * 4u;
      var sum = o[2];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 32u + x * 4u;
      var sum = o[6];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 64u + x * 4u;
      var sum = o[10];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 96u + x * 4u;
      var sum = o[14];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 128u + x * 4u;
      var sum = o[18];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 160u + x * 4u;
      var sum = o[22];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 192u + x * 4u;
      var sum = o[26];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 224u + x * 4u;
      var sum = o[30];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
  }
  if t0 + y + 24u < p.positions {
    let to = (first + t0 + y + 24u) * stride + head;
    {
      let c = 0u + x * 4u;
      var sum = o[3];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 32u + x * 4u;
      var sum = o[7];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 64u + x * 4u;
      var sum = o[11];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 96u + x * 4u;
      var sum = o[15];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 128u + x * 4u;
      var sum = o[19];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 160u + x * 4u;
      var sum = o[23];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 192u + x * 4u;
      var sum = o[27];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
    {
      let c = 224u + x * 4u;
      var sum = o[31];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
  }
}

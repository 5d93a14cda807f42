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
struct At { q: u32, s_bias: u32, seg_embed: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> q: array<T>;         // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> s_bias: array<T>;    // [H, D]
@group(0) @binding(2) var<storage, read_write> seg_embed: array<T>; // [2, H, D]
@group(0) @binding(3) var<storage, read_write> work: array<u32>;

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}

@compute @workgroup_size(64)
fn rel_attention_segments(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let item = flat_group(group, groups) * 64u + lane; // of [B, H, rows]
  if item >= p.batch * p.heads * p.rows {
    return;
  }
  let m = item % p.rows;
  let h = item / p.rows % p.heads;
  let b = item / p.rows / p.heads;
  let row = at.q + ((b * p.rows + m) * p.heads + h) * p.d;
  var same = 0.0;
  var other = 0.0;
  for (var c0 = 0u; c0 < p.d; c0 += 16u) {
    var block = vec2f(0.0);
    for (var c = c0; c < min(c0 + 16u, p.d); c++) {
      let x = f32(q[row + c]) + f32(s_bias[at.s_bias + h * p.d + c]);
      block.x = fma(x, f32(seg_embed[at.seg_embed + h * p.d + c]), block.x);
      block.y = fma(x, f32(seg_embed[at.seg_embed + (p.heads + h) * p.d + c]), block.y);
    }
    same += block.x;
    other += block.y;
  }
  let to = at.work + p.scores + item * 2u;
  work[to] = bitcast<u32>(same * p.scale);
  work[to + 1u] = bitcast<u32>(other * p.scale);
}

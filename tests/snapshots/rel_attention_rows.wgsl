
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
struct At { positions: u32, group: u32, query_rank: u32, key_rank: u32, ids: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> positions: array<i32>;  // [B, T]
@group(0) @binding(1) var<storage, read_write> group: array<i32>;      // [B]
@group(0) @binding(3) var<storage, read_write> key_rank: array<u32>;   // [B, L, ceil(L/32)]
@group(0) @binding(4) var<storage, read_write> ids: array<i32>;        // [B, L]
@group(0) @binding(5) var<storage, read_write> work: array<u32>;

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}

@compute @workgroup_size(64)
fn rel_attention_rows(
  @builtin(workgroup_id) group_id: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let words = (p.keys + 31u) / 32u;
  let item = flat_group(group_id, groups) * 64u + lane;
  if item >= p.batch * p.rows * words {
    return;
  }
  let word = item % words;
  let row = item / words; // of [B, rows]
  let b = row / p.rows;
  let position = positions[at.positions + row];
  if word == 0u {
    let first = u32(group[at.group + b]) * p.positions;
    work[at.work + p.starts + row] = select(first + p.length - u32(position), PADDED, position < 0);
  }
  let i = u32(max(position, 0)); // position in the segment
  let segment = ids[at.ids + b * p.length + i];
  var hidden = 0u;
  var other = 0u;
  for (var bit = 0u; bit < 32u; bit++) {
    let j = word * 32u + bit;
    if j >= p.keys {
      break;
    }
    let inside = j >= p.memory; // memory columns are visible and of segment 0
    let key = select(0u, j - p.memory, inside);
    var hide = false;
    let mask_word = key_rank[at.key_rank + (b * p.length + i) * ((p.length + 31u) / 32u) + key / 32u];
    hide = ((mask_word >> (key % 32u)) & 1u) == 1u;
    hide = hide && inside;
    if p.causal == 1u {
      hide = hide || j > p.memory + i || (p.same_length == 1u && j < i);
    }
    if p.query == 0u && j == p.memory + i {
      hide = false;
    }
    hidden |= select(0u, 1u << bit, hide);
    let key_segment = select(0, ids[at.ids + b * p.length + key], inside);
    other |= select(0u, 1u << bit, key_segment != segment);
  }
  let to = at.work + p.hidden + row * 2u * words + word;
  work[to] = hidden;
  work[to + words] = other;
}

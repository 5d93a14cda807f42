//# computes   for each row of a stream: where its keys find their row of r, which keys it may not see, which are of another segment
//# parallel   an invocation owns 32 keys of a row
//# keys       mask = none|padding|ranks|bits, positioned = flag, grouped = flag, segments = flag, wg = 64
//# buffers    positions, group, query_rank, key_rank, ids, work
//# launch     flat, ceil(B rows ceil(N/32) / wg) work groups
//# numerics   integers
//# history    1: first version

//% include "lib/rel_attention.wgsl"
struct At { positions: u32, group: u32, query_rank: u32, key_rank: u32, ids: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if positioned
@group(0) @binding(0) var<storage, read_write> positions: array<i32>;  // [B, T]
//% endif
//% if grouped
@group(0) @binding(1) var<storage, read_write> group: array<i32>;      // [B]
//% endif
//% if mask == "ranks"
@group(0) @binding(2) var<storage, read_write> query_rank: array<i32>; // [B, L]
@group(0) @binding(3) var<storage, read_write> key_rank: array<i32>;   // [B, L]
//% elif mask == "padding"
@group(0) @binding(3) var<storage, read_write> key_rank: array<i32>;   // [B, L], 1 = padding
//% elif mask == "bits"
@group(0) @binding(3) var<storage, read_write> key_rank: array<u32>;   // [B, L, ceil(L/32)]
//% endif
//% if segments
@group(0) @binding(4) var<storage, read_write> ids: array<i32>;        // [B, L]
//% endif
@group(0) @binding(5) var<storage, read_write> work: array<u32>;

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn rel_attention_rows(
  @builtin(workgroup_id) group_id: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let words = (p.keys + 31u) / 32u;
  let item = flat_group(group_id, groups) * ${wg}u + lane;
  if item >= p.batch * p.rows * words {
    return;
  }
  let word = item % words;
  let row = item / words; // of [B, rows]
  let b = row / p.rows;
//% if positioned
  let position = positions[at.positions + row];
//% else
  let position = i32(row % p.rows);
//% endif
  if word == 0u {
//% if grouped
    let first = u32(group[at.group + b]) * p.positions;
//% else
    let first = 0u;
//% endif
    work[at.work + p.starts + row] = select(first + p.length - u32(position), PADDED, position < 0);
  }
  let i = u32(max(position, 0)); // position in the segment
//% if mask == "ranks"
  let rank = query_rank[at.query_rank + b * p.length + i];
//% endif
//% if segments
  let segment = ids[at.ids + b * p.length + i];
//% endif
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
//% if mask == "ranks"
    hide = rank <= key_rank[at.key_rank + b * p.length + key];
//% elif mask == "padding"
    hide = key_rank[at.key_rank + b * p.length + key] != 0;
//% elif mask == "bits"
    let mask_word = key_rank[at.key_rank + (b * p.length + i) * ((p.length + 31u) / 32u) + key / 32u];
    hide = ((mask_word >> (key % 32u)) & 1u) == 1u;
//% endif
    hide = hide && inside;
    if p.causal == 1u {
      hide = hide || j > p.memory + i || (p.same_length == 1u && j < i);
    }
    if p.query == 0u && j == p.memory + i {
      hide = false;
    }
    hidden |= select(0u, 1u << bit, hide);
//% if segments
    let key_segment = select(0, ids[at.ids + b * p.length + key], inside);
    other |= select(0u, 1u << bit, key_segment != segment);
//% endif
  }
  let to = at.work + p.hidden + row * 2u * words + word;
  work[to] = hidden;
  work[to + words] = other;
}

//# computes   links[r] = 2 next + again: the next row with the id of r (R: none), and whether an earlier one has it
//# parallel   an invocation owns one row and looks through all ids
//# keys       wg = 64
//# buffers    ids, links
//# launch     ceil(R / wg) work groups
//# numerics   integers
//# history    1: first version
struct Params {
  ids: u32, // R
}
struct At { ids: u32, links: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> ids: array<i32>;   // [R]
@group(0) @binding(1) var<storage, read_write> links: array<u32>; // [R]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn gather_rows_grad_links(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let r = flat_group(group, groups) * ${wg}u + lane;
  if r >= p.ids {
    return;
  }
  let id = ids[at.ids + r];
  var again = 0u;
  for (var s = 0u; s < r && again == 0u; s++) {
    again = select(0u, 1u, ids[at.ids + s] == id);
  }
  var next = r + 1u;
  while next < p.ids && ids[at.ids + next] != id {
    next++;
  }
  links[at.links + r] = 2u * next + again;
}

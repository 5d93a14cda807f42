enable f16;
alias T = f32; // element type of floating-point tensors in memory
alias S = f16; // element type of x

struct Params {
  rows: u32,  // R
  n: u32,     // columns
  block: u32, // rows of a block
}
struct At { x: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<S>;      // [R, n]
@group(0) @binding(1) var<storage, read_write> weight: array<S>; // [R]
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [blocks, n]

@compute @workgroup_size(64)
fn column_sum(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let c = group.x * 64u + lane;
  if c >= p.n {
    return;
  }
  let end = min((group.y + 1u) * p.block, p.rows);
  var sum = 0.0;
  for (var r = group.y * p.block; r < end; r++) {
    let value = f32(x[at.x + r * p.n + c]);
    sum = fma(f32(weight[at.weight + r]), value, sum);
  }
  let to = at.out + group.y * p.n + c;
  out[to] = T(f32(out[to]) + sum);
}

alias T = f32; // element type of floating-point tensors in memory

struct Params {
  rows: u32,    // A R
  length: u32,  // R, rows that share a weight vector of one head
  heads: u32,   // H
  d: u32,       // D
  block: u32,   // rows of a block
  weights: u32, // [A, H, R] f32, first word in work
  sums: u32,    // [blocks, H, D] f32, first word in work
}
struct At { x: u32, bias: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;    // [A, R, H, D], or seg_embed [2, H, D]
@group(0) @binding(2) var<storage, read_write> work: array<u32>;

@compute @workgroup_size(64)
fn rel_attention_grad_bias(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  let n = p.heads * p.d;
  if column >= n {
    return;
  }
  let h = column / p.d;
  let difference = f32(x[at.x + n + column]) - f32(x[at.x + column]);
  var sum = 0.0;
  let end = min((group.y + 1u) * p.block, p.rows);
  for (var row = group.y * p.block; row < end; row++) {
    let weight = bitcast<f32>(work[at.work + p.weights + (row / p.length * p.heads + h) * p.length + row % p.length]);
    // Padded targets have weight 0, whatever their row holds.
    if weight != 0.0 {
      sum = fma(weight, difference, sum);
    }
  }
  work[at.work + p.sums + group.y * n + column] = bitcast<u32>(sum);
}

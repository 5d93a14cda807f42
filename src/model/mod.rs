//! XLNet as programs: forward and hand-written backward side by side.
//!
//! Hidden states of both streams are rows of one tensor, `B*L` content rows first and `B*T` query rows after them, so
//! every dense layer, norm and dropout is one op for both; only attention tells them apart. All tensors are
//! batch-major.

mod attention;
mod embedding;
mod feed_forward;
pub mod heads;
pub mod hugging_face;
mod hugging_face_config;
mod linear;
mod memory;
mod norm;
pub mod original;
pub mod params;
pub mod tensor_file;
pub mod tensor_source;
pub mod tf_bundle;
pub mod torch_file;
mod transformer;
pub mod weights;

pub use linear::{Layout, Linear};
pub use transformer::{
    AttentionType, Inputs, MaskKind, OutputGradient, PositionDropout, QueryKind, Recompute, Transformer,
    TransformerOptions, commit_memory,
};

//! Encoding to ids alone.

use std::ffi::{c_char, c_int};
use std::fmt;

use sentencepiece_sys::{SentencePieceProcessor, spp_free, spp_from_serialized_proto, spp_new};

unsafe extern "C" {
    fn spt_encode_ids(
        processor: *const SentencePieceProcessor,
        input: *const c_char,
        length: usize,
        ids: *mut *const u32,
        count: *mut usize,
    ) -> c_int;
}

/// A model that encodes text to ids, three times as fast as with pieces and places; shared freely between threads.
pub struct IdEncoder {
    processor: *mut SentencePieceProcessor,
}

// SAFETY: nothing but this value has the pointer, and C++ lets any number of threads encode at once.
unsafe impl Send for IdEncoder {}
// SAFETY: as above.
unsafe impl Sync for IdEncoder {}

impl fmt::Debug for IdEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdEncoder").finish_non_exhaustive()
    }
}

impl IdEncoder {
    /// The model of a `.model` file; `None` when SentencePiece refuses it. The bytes must be those of a sound model:
    /// the library trusts them.
    pub fn new(model: &[u8]) -> Option<Self> {
        // SAFETY: no arguments; the pointer is ours until `spp_free`.
        let encoder = IdEncoder { processor: unsafe { spp_new() } };
        if encoder.processor.is_null() {
            return None;
        }
        // SAFETY: the processor is ours, and `model` holds for the call, which copies what it needs.
        let status = unsafe { spp_from_serialized_proto(encoder.processor, model.as_ptr().cast(), model.len()) };
        (status == 0).then_some(encoder)
    }

    /// Appends the ids of `text` to `into`; false when the library cannot encode it, which needs 2 GiB of text.
    pub fn encode(&self, text: &str, into: &mut Vec<u32>) -> bool {
        let (mut ids, mut count) = (std::ptr::null(), 0);
        // SAFETY: the processor lives as long as `self`, is not changed after `new`, and `text` holds for the call.
        let done = unsafe { spt_encode_ids(self.processor, text.as_ptr().cast(), text.len(), &mut ids, &mut count) };
        if done == 1 && count > 0 {
            // SAFETY: C++ points at `count` ids that stay until this thread encodes again.
            into.extend_from_slice(unsafe { std::slice::from_raw_parts(ids, count) });
        }
        done == 1
    }
}

impl Drop for IdEncoder {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody uses it any more.
        unsafe { spp_free(self.processor) };
    }
}

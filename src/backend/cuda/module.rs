//! From variant to the text of one module with one kernel.

use crate::kernel::{Language, Rendered, Variant, render};
use crate::{Error, Result};

/// A kernel as it is given to a driver.
#[derive(Clone, Debug)]
pub struct KernelText {
    /// Text, label and hash.
    pub rendered: Rendered,
    /// Name of the entry: that of the template.
    pub entry: &'static str,
    /// Threads of a block, from `.reqntid`.
    pub block: [u32; 3],
    /// Bytes of shared memory that a launch gives a block, from `.extern .shared ... // N bytes`; 0 without such a line.
    pub shared: u32,
}

impl KernelText {
    /// Renders `variant` and reads the size of its blocks.
    ///
    /// # Errors
    /// When the template is wrong; names it.
    pub fn new(variant: &Variant) -> Result<Self> {
        let rendered = render(Language::Ptx, variant)?;
        let block = block(&rendered.text).ok_or_else(|| {
            Error::kernel(format!("kernel {variant}: its text has no line .reqntid with one to three sizes"))
        })?;
        let shared = shared(&rendered.text).ok_or_else(|| {
            Error::kernel(format!("kernel {variant}: its line .extern .shared does not say // how many bytes"))
        })?;
        Ok(KernelText { rendered, entry: variant.template, block, shared })
    }
    /// Whether a card of a compute capability runs it, by `.target`: that or newer, and that alone where it ends with `a`.
    pub fn runs_on(&self, capability: (u32, u32)) -> bool {
        runs_on(&self.rendered.text, capability)
    }
}

fn runs_on(text: &str, capability: (u32, u32)) -> bool {
    let target = text.lines().find_map(|line| line.trim().strip_prefix(".target sm_")).unwrap_or_default();
    let digits = target.find(|c: char| !c.is_ascii_digit()).unwrap_or(target.len());
    let number: u32 = target[..digits].parse().unwrap_or(0);
    let oldest = (number / 10, number % 10);
    if target[digits..].starts_with('a') { capability == oldest } else { capability >= oldest }
}

fn block(text: &str) -> Option<[u32; 3]> {
    let sizes = text.lines().find_map(|line| line.trim().strip_prefix(".reqntid"))?;
    let mut block = [1; 3];
    for (i, size) in sizes.split(',').enumerate() {
        *block.get_mut(i)? = size.trim().parse().ok()?;
    }
    Some(block)
}

fn shared(text: &str) -> Option<u32> {
    let Some(line) = text.lines().find(|line| line.trim().starts_with(".extern .shared")) else { return Some(0) };
    let mut words = line.split("//").nth(1)?.split_whitespace();
    let bytes = words.next()?.parse().ok()?;
    words.next()?.starts_with("bytes").then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let cards = |text: &str| [(7, 5), (8, 0), (9, 0), (12, 0)].map(|card| runs_on(text, card));
        assert_eq!(cards(".version 7.0\n.target sm_80\n"), [false, true, true, true]);
        assert_eq!(cards(".target sm_90a"), [false, false, true, false]);
        assert_eq!(cards(".target sm_120, texmode_independent"), [false, false, false, true]);
    }
    #[test]
    fn shared_memory_of_a_launch_is_read() {
        assert_eq!(shared(".shared .b8 tile[16];"), Some(0));
        assert_eq!(shared("\n.extern .shared .align 128 .b8 tiles[];  // 65536 bytes: k, v"), Some(65536));
        assert_eq!(shared(".extern .shared .b8 tiles[];"), None);
        assert_eq!(shared(".extern .shared .b8 tiles[]; // k, v"), None);
    }
    #[test]
    fn block_sizes_are_read() {
        assert_eq!(block(".visible .entry x(\n.reqntid 64\n{"), Some([64, 1, 1]));
        assert_eq!(block("    .reqntid 8, 4, 2"), Some([8, 4, 2]));
        assert_eq!(block(".maxntid 64"), None);
        assert_eq!(block(".reqntid many"), None);
    }
}

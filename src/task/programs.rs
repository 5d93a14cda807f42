//! Programs of one model for batches of several sizes, which share its weights.

use crate::Result;
use crate::train::session::Session;

/// Size of the batches of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Examples.
    pub batch: usize,
    /// Tokens of each sequence.
    pub length: usize,
}

/// The program for the largest batches, which has the weights, and a few for smaller ones, those that were used last.
pub struct Programs {
    largest: (Size, Session),
    smaller: Vec<(Size, Session)>, // the last used at the end
    most: usize,
}

impl Programs {
    /// Programs beside `largest`, which holds the weights; at most `most` in all.
    pub fn new(size: Size, largest: Session, most: usize) -> Self {
        Programs { largest: (size, largest), smaller: vec![], most: most.max(1) }
    }

    /// The program for `examples` of at most `length` tokens, and how many examples it takes at a time: no more than twice
    /// as many. One that is not there is opened by `open` beside the largest; where only one may be there, it does all.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn of(
        &mut self,
        examples: usize,
        length: usize,
        open: impl FnOnce(&mut Session, Size) -> Result<Session>,
    ) -> Result<(usize, &mut Session)> {
        let Programs { largest, smaller, most } = self;
        let size = Size { batch: examples.next_power_of_two().min(largest.0.batch), length };
        if size == largest.0 || *most == 1 {
            return Ok((largest.0.batch, &mut largest.1));
        }
        let program = match smaller.iter().position(|(known, _)| *known == size) {
            Some(at) => smaller.remove(at),
            None => {
                if smaller.len() + 1 >= *most {
                    smaller.remove(0);
                }
                (size, open(&mut largest.1, size)?)
            }
        };
        smaller.push(program);
        let last = smaller.len() - 1;
        Ok((size.batch, &mut smaller[last].1))
    }

    /// Bytes of device memory that all of them hold.
    pub fn held_bytes(&mut self) -> usize {
        let all = std::iter::once(&mut self.largest).chain(&mut self.smaller);
        all.map(|(_, session)| session.exec().held_bytes()).sum()
    }
}

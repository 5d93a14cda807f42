//! What is wrong with a kernel, and where.

use std::fmt;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a kernel was refused or stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(Box<ErrorKind>);

/// The kinds of [`Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is no PTX that this interpreter knows.
    #[error("line {line}: {message}")]
    Parse {
        /// Line of the text, from 1.
        line: u32,
        /// One sentence.
        message: String,
    },
    /// The host called with wrong sizes, names or arguments.
    #[error("{0}")]
    Host(String),
    /// The checker or the machine stopped a kernel.
    #[error("{0}")]
    Finding(Finding),
}

/// One finding of the checker: kernel, line, thread and a sentence.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which rule was broken.
    pub rule: Rule,
    /// Name of the entry.
    pub kernel: String,
    /// Line of the module's text, from 1.
    pub line: u32,
    /// That line.
    pub source: String,
    /// Block in the grid.
    pub block: [u32; 3],
    /// Thread in the block, linear.
    pub thread: u32,
    /// What happened.
    pub message: String,
}

/// The rules that a running kernel can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A register or predicate was read before it was written.
    UnwrittenRegister,
    /// Bytes were read that nobody wrote, or that an asynchronous copy has not delivered.
    UnwrittenMemory,
    /// An access outside of every allocation.
    OutOfBounds,
    /// An address that is no multiple of the access width.
    Misaligned,
    /// Two threads touch the same bytes, one of them writes, and nothing orders them.
    Race,
    /// A warp instruction was reached by other lanes than it needs.
    WrongMask,
    /// A barrier that not all threads of a warp reach, with two counts, or that never completes.
    Barrier,
    /// A register was touched that an uncompleted `wgmma.mma_async` still reads or writes.
    AsyncRegister,
    /// `wgmma.fence` is missing between a register's use elsewhere and `wgmma.mma_async`.
    RegisterFence,
    /// `fence.proxy.async` is missing between a write to shared memory and `wgmma.mma_async`.
    ProxyFence,
    /// The descriptor of a matrix in shared memory is not aligned as its swizzle wants it, or has other impossible fields.
    Descriptor,
    /// A warpgroup is not four whole warps that execute the same `wgmma` instructions.
    Warpgroup,
    /// Too many instructions: most likely a loop without an end.
    Endless,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { kernel, line, source, block: [x, y, z], thread, message, .. } = self;
        write!(f, "kernel {kernel}, line {line} `{source}`, block ({x}, {y}, {z}), thread {thread}: {message}")
    }
}

impl Error {
    pub(crate) fn parse(line: u32, message: impl Into<String>) -> Self {
        Error(Box::new(ErrorKind::Parse { line, message: message.into() }))
    }
    pub(crate) fn host(message: impl Into<String>) -> Self {
        Error(Box::new(ErrorKind::Host(message.into())))
    }
    pub(crate) fn finding(finding: Finding) -> Self {
        Error(Box::new(ErrorKind::Finding(finding)))
    }
    /// What kind it is.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }
    /// The broken rule, when a running kernel broke one.
    pub fn rule(&self) -> Option<Rule> {
        match &*self.0 {
            ErrorKind::Finding(finding) => Some(finding.rule),
            _ => None,
        }
    }
}

/// A finding before kernel, line and block are known.
#[derive(Debug)]
pub(crate) struct Fault {
    pub rule: Rule,
    pub lane: usize,
    pub message: String,
}

impl Fault {
    pub fn new(rule: Rule, lane: usize, message: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { rule, lane, message: message.into() })
    }
}

/// Result inside the machine; boxed, so that the good path stays small.
pub(crate) type Checked<T = ()> = std::result::Result<T, Box<Fault>>;

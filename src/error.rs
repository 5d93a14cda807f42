//! One error type for the library: what, where, expected, got, what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this library; one sentence a person can act on.
///
/// The source (an I/O error, a parser's message) is kept and reachable through
/// [`std::error::Error::source`].
pub struct Error(Box<ErrorKind>);

/// What went wrong. Match on this when a program must react to one kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Tensors whose shapes do not fit an operation.
    #[error("{op}: {what}: expected {expected}, got {got}")]
    Shape {
        /// Operation or function, with its layer scope.
        op: String,
        /// Which tensor or dimension.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A tensor whose element type does not fit.
    #[error("{op}: {tensor} must be {expected}, but is {got}")]
    DType {
        /// Operation or function.
        op: String,
        /// Which tensor.
        tensor: String,
        /// The element type that would have been right.
        expected: String,
        /// The element type given.
        got: String,
    },
    /// A program that cannot be planned or compiled.
    #[error("{0}")]
    Plan(String),
    /// A kernel's text that is wrong: a defect of this library.
    #[error("{0}")]
    Kernel(String),
    /// A device that does not exist, or cannot do what is asked.
    #[error("{0}")]
    Device(String),
    /// A file or record whose content is wrong.
    #[error("{}: {what}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong in it and what to do.
        what: String,
    },
    /// A configuration that does not hold together.
    #[error("{0}")]
    Config(String),
    /// Ranks that cannot start, or one that has ended.
    #[error("{0}")]
    Ranks(String),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", "create", ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Shapes that do not fit: operation, tensor, expected, got.
    pub fn shape(
        op: impl Into<String>,
        what: impl Into<String>,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        ErrorKind::Shape { op: op.into(), what: what.into(), expected: expected.to_string(), got: got.to_string() }
            .into()
    }
    /// An element type that does not fit.
    pub fn dtype(
        op: impl Into<String>,
        tensor: impl Into<String>,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        ErrorKind::DType { op: op.into(), tensor: tensor.into(), expected: expected.to_string(), got: got.to_string() }
            .into()
    }
    /// A program that cannot be planned.
    pub fn plan(what: impl Into<String>) -> Self {
        ErrorKind::Plan(what.into()).into()
    }
    /// A kernel whose text is wrong.
    pub fn kernel(what: impl Into<String>) -> Self {
        ErrorKind::Kernel(what.into()).into()
    }
    /// A device that is missing or cannot do it.
    pub fn device(what: impl Into<String>) -> Self {
        ErrorKind::Device(what.into()).into()
    }
    /// A file with wrong content.
    pub fn data(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        ErrorKind::Data { path: path.as_ref().to_owned(), what: what.into() }.into()
    }
    /// Settings that contradict each other or are out of range.
    pub fn config(what: impl Into<String>) -> Self {
        ErrorKind::Config(what.into()).into()
    }
    /// Ranks that do not start or do not go on.
    pub fn ranks(what: impl Into<String>) -> Self {
        ErrorKind::Ranks(what.into()).into()
    }
    /// The operating system refused `action` ("read", "write", ...) on `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        ErrorKind::Io { action, path: path.as_ref().to_owned(), source }.into()
    }
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Box::new(kind))
    }
}
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

//! The program `xlnet`: arguments, checked before work begins, and one module for each command.

mod args;
mod checkpoint_args;
mod commands;
mod flags;
mod output;
mod run;
mod shape;
mod size;

pub use run::main;

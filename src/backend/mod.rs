//! Executors: one per kind of device.
pub mod cpu;

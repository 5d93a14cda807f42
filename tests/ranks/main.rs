//! Several processes that train one model: by TCP, and with the feature `mpi` under `mpirun`.
#![cfg(unix)]

#[cfg(not(feature = "mpi"))]
mod nccl;
#[path = "../common/program.rs"]
mod program;
mod runs;
mod sessions;
mod whole_runs;

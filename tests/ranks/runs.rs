//! Starting runs of several processes, and watching them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::program::{succeeds, text, write_ids};

/// How ranks are started: with the feature `mpi` by `mpirun`, else by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
pub const MPI: bool = cfg!(feature = "mpi");

/// Longest time that anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A corpus of eight rows a step; returns its directory of records.
pub fn build(dir: &Path, bi_data: bool, num_core: usize) -> PathBuf {
    write_ids(dir);
    let direction = if bi_data { "--bi_data" } else { "--nobi_data" };
    let line = format!(
        "corpus build --input ids.txt --nofrom_raw_text --vocab_size 64 --save_dir corpus --bsz_per_host 8 --seq_len 32 \
         --nouncased {direction} --num_core_per_host {num_core}"
    );
    succeeds(dir, &line);
    dir.join("corpus/tfrecords")
}

/// A run of several processes.
pub struct Run {
    children: Vec<Child>,
    ranks: usize,
}

/// How it ended.
pub struct End {
    /// Exit codes; `mpirun`'s alone under MPI.
    pub codes: Vec<Option<i32>>,
    pub stdout: String,
    pub stderr: String,
}

/// Starts `xlnet` with the words of `line` in `dir`, `ranks` times.
pub fn start(dir: &Path, ranks: usize, line: &str) -> Run {
    start_each(dir, ranks, |_| line.to_owned())
}

/// Starts rank `r` with the words of `line(r)`; under MPI all get those of rank 0.
pub fn start_each(dir: &Path, ranks: usize, line: impl Fn(usize) -> String) -> Run {
    start_as(dir, ranks, line, |_| Command::new(env!("CARGO_BIN_EXE_xlnet")))
}

/// Starts ranks of which the first can write no file longer than `bytes`. The system's limit stands in for a full disk;
/// without its signal, which would end the program, it is an error of `write` as that is.
#[cfg(not(feature = "mpi"))]
pub fn start_on_full_disk(dir: &Path, ranks: usize, bytes: u64, line: &str) -> Run {
    let limited = |rank| {
        let limit = if rank == 0 { format!("prlimit --fsize={bytes}") } else { String::new() };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("trap '' XFSZ; exec {limit} \"$0\" \"$@\""), env!("CARGO_BIN_EXE_xlnet")]);
        shell
    };
    start_as(dir, ranks, |_| line.to_owned(), limited)
}

/// Starts rank `r` as `program(r)` with the words of `line(r)`.
pub fn start_as(dir: &Path, ranks: usize, line: impl Fn(usize) -> String, program: impl Fn(usize) -> Command) -> Run {
    let spawn = |command: &mut Command, line: &str| {
        command.current_dir(dir).env_remove("XLNET_LOG").env("RAYON_NUM_THREADS", "1");
        command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"))
    };
    let port = free_port().to_string();
    let children = if MPI {
        let (mut command, program) = (Command::new("mpirun"), program(0));
        command.args(["--oversubscribe", "--allow-run-as-root", "-n", &ranks.to_string()]);
        command.arg(program.get_program()).args(program.get_args());
        vec![spawn(&mut command, &line(0))]
    } else {
        let each = |rank: usize| {
            let mut command = program(rank);
            command.envs([("RANK", &*rank.to_string()), ("WORLD_SIZE", &ranks.to_string())]);
            command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)]);
            spawn(&mut command, &line(rank))
        };
        (0..ranks).map(each).collect()
    };
    Run { children, ranks }
}

impl Run {
    /// Waits for all processes.
    pub fn end(self) -> End {
        let deadline = Instant::now() + PATIENCE;
        let threads: Vec<_> =
            self.children.into_iter().map(|child| std::thread::spawn(move || output(child, deadline))).collect();
        let mut end = End { codes: vec![], stdout: String::new(), stderr: String::new() };
        for thread in threads {
            let (code, stdout, stderr) = thread.join().unwrap();
            end.codes.push(code);
            end.stdout += &stdout;
            end.stderr += &stderr;
        }
        end
    }

    /// Waits until `path` is there.
    pub fn wait_for(&mut self, path: &Path) {
        let deadline = Instant::now() + PATIENCE;
        while !path.exists() {
            let ended = self.children.iter_mut().any(|child| child.try_wait().unwrap().is_some());
            if ended || Instant::now() > deadline {
                let all = std::mem::take(&mut self.children);
                all.into_iter().for_each(|mut child| {
                    let _ = child.kill();
                    let out = child.wait_with_output().unwrap();
                    eprintln!("{}\n{}", text(&out.stdout), text(&out.stderr));
                });
                panic!("{} never came", path.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends `signal` to one rank.
    pub fn signal(&self, rank: usize, signal: &str) {
        let id = if MPI { self.process_under_mpirun(rank) } else { self.children[rank].id() };
        let sent = Command::new("kill").args([signal, &id.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn process_under_mpirun(&self, rank: usize) -> u32 {
        let (launcher, wanted) = (self.children[0].id().to_string(), format!("OMPI_COMM_WORLD_RANK={rank}"));
        let is_it = |id: u32| -> Option<bool> {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.to_owned();
            let environ = std::fs::read(format!("/proc/{id}/environ")).ok()?;
            Some(parent == launcher && environ.split(|&b| b == 0).any(|entry| entry == wanted.as_bytes()))
        };
        let ids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        let found: Vec<u32> = ids.filter(|&id| is_it(id) == Some(true)).collect();
        assert_eq!(found.len(), 1, "rank {rank} of {} under mpirun", self.ranks);
        found[0]
    }
}

/// The end of one process; it is killed at the deadline.
fn output(mut child: Child, deadline: Instant) -> (Option<i32>, String, String) {
    use std::io::Read;
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut all = vec![];
            stream.unwrap().read_to_end(&mut all).unwrap();
            text(&all)
        })
    };
    let stdout = read(child.stdout.take().map(|s| Box::new(s) as _));
    let stderr = read(child.stderr.take().map(|s| Box::new(s) as _));
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let late = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    let code = child.wait().unwrap().code();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    assert!(!late, "a rank did not end\n{stdout}\n{stderr}");
    (code, stdout, stderr)
}

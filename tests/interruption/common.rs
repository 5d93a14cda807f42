//! Runs in the background, and what a run leaves behind.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use crate::program::*;
use xlnet::train::tensorboard::{event_files, read_scalars};

/// `xlnet`, run by the words of `prefix`, whose standard output is read line by line.
pub struct Run {
    pub child: Child,
    pub lines: Lines<BufReader<ChildStdout>>,
}

impl Run {
    pub fn start(dir: &Path, line: &str) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_xlnet"));
        Self::spawn(program, dir, line)
    }
    pub fn spawn(mut program: Command, dir: &Path, line: &str) -> Self {
        program.current_dir(dir).env_remove("XLNET_LOG").args(line.split_whitespace());
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Run { child, lines }
    }
    /// Reads lines up to the first that contains `part`; false at the end of the program.
    pub fn wait_for(&mut self, part: &str) -> bool {
        self.lines.any(|line| line.is_ok_and(|line| line.contains(part)))
    }
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }
    /// The rest of standard output, standard error, and how it ended.
    pub fn finish(mut self) -> (Vec<String>, String, ExitStatus) {
        let out = self.lines.by_ref().map_while(Result::ok).collect();
        let mut err = String::new();
        let pipe = self.child.stderr.as_mut().expect("a pipe");
        std::io::Read::read_to_string(pipe, &mut err).expect("text");
        (out, err, self.child.wait().expect("it ends"))
    }
}

/// `TRAIN` with some of its settings replaced.
pub fn train(model_dir: &str, settings: &[(&str, &str)]) -> String {
    let mut line = format!("{TRAIN} --model_dir {model_dir}");
    for (key, value) in settings {
        line += &format!(" --{key} {value}"); // the last of several wins
    }
    line
}

/// Every scalar of all event files once, in order of steps; without speeds.
pub fn scalars(dir: &Path) -> Vec<(u64, String, u32)> {
    let mut all = vec![];
    for path in event_files(dir).expect("a directory") {
        let scalars = read_scalars(&path).expect("whole events");
        all.extend(scalars.into_iter().map(|s| (s.step, s.tag, s.value.to_bits())));
    }
    all.retain(|(_, tag, _)| tag != "train/tokens_per_s");
    all.sort();
    all
}

/// Both directories hold the same metrics and events, and in `step-<step>` the same tensors, bit for bit.
#[track_caller]
pub fn assert_same_run(a: &Path, b: &Path, step: u64) {
    assert_eq!(losses(a), losses(b));
    assert_eq!(scalars(a), scalars(b));
    for file in ["config.json", "model.safetensors", "optimizer.safetensors", "memory.safetensors"] {
        let [a, b] =
            [a, b].map(|run| std::fs::read(run.join(format!("step-{step}")).join(file)).expect("a checkpoint"));
        assert!(a == b, "{file} differs");
    }
}

/// Entries of a directory that only a run in progress has.
pub fn leftovers(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".tmp-")).count()
}

/// Names of the checkpoints in a directory.
pub fn checkpoints(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("step-"))
        .collect();
    names.sort();
    names
}

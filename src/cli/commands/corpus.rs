//! `xlnet corpus`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{HumanDuration, ProgressBar};

use crate::cli::args::{CorpusBuildArgs, CorpusInspectArgs};
use crate::cli::output::{bar, print};
use crate::cli::size::{bytes, grouped};
use crate::data::corpus::{CorpusOptions, CorpusProgress, CorpusReport, build_corpus};
use crate::data::encode::{Encode, IdVocabulary};
use crate::data::inspect::{InspectOptions, View};
use crate::data::ngram_mask::NgramUnit;
use crate::data::tokenizer::Tokenizer;

/// Builds a corpus.
pub fn build(args: &CorpusBuildArgs) -> anyhow::Result<()> {
    let options = options(args)?;
    options.validate()?;
    let report = match &args.sp_path {
        Some(path) => {
            let tokenizer = Tokenizer::open(path)?;
            tokenizer.check_special_symbols()?;
            build_with_bar(&options, &tokenizer)?
        }
        None if args.from_raw_text => bail!("text needs a vocabulary: give --sp_path, or --nofrom_raw_text for ids"),
        None => build_with_bar(&options, &IdVocabulary { vocab_size: args.vocab_size.unwrap_or(0) })?,
    };
    print_report(&report);
    Ok(())
}

fn options(args: &CorpusBuildArgs) -> anyhow::Result<CorpusOptions> {
    let inputs = match &args.input_glob {
        Some(pattern) => matching(pattern)?,
        None => args.input.clone(),
    };
    let reuse_len = args.reuse_len.unwrap_or(args.seq_len / 2);
    // 85 of 512 is a sixth, as mask_alpha has it.
    let predictions = args.num_predict.map_or(Some((args.seq_len / 6).max(1)), |given| given.0);
    Ok(CorpusOptions {
        inputs,
        input_glob: args.input_glob.clone().unwrap_or_default(),
        sp_path: args.sp_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        save_dir: args.save_dir.clone(),
        split: args.split,
        bsz_per_host: args.bsz_per_host,
        num_core_per_host: args.num_core_per_host,
        seq_len: args.seq_len,
        reuse_len,
        uncased: args.uncased,
        keep_accents: args.keep_accents,
        bi_data: args.bi_data,
        mask_alpha: args.mask_alpha,
        mask_beta: args.mask_beta,
        num_predict: predictions,
        ngram_unit: if args.whole_words { NgramUnit::Words } else { NgramUnit::Pieces },
        use_eod: args.use_eod,
        from_raw_text: args.from_raw_text,
        lossy: args.lossy,
        pass_id: args.pass_id,
        num_task: args.num_task,
        task: args.task,
        seed: args.seed,
    })
}

/// Files that `pattern` matches.
pub fn matching(pattern: &str) -> anyhow::Result<Vec<PathBuf>> {
    let paths = glob::glob(pattern).with_context(|| format!("{pattern:?} is no pattern of files"))?;
    let mut files = vec![];
    for path in paths {
        let path = path.map_err(|e| anyhow::anyhow!("cannot read {}: {}", e.path().display(), e.error()))?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// [`build_corpus`] with a bar.
pub fn build_with_bar(options: &CorpusOptions, encode: &dyn Encode) -> anyhow::Result<CorpusReport> {
    let mut meter = Meter::new((options.bsz_per_host * options.seq_len) as u64);
    let report = build_corpus(options, encode, &mut |progress| meter.show(progress));
    meter.bar.finish_and_clear();
    Ok(report?)
}

/// How far a build is, how fast it goes, and what time is left; now and then a plain line where there is no terminal.
struct Meter {
    bar: ProgressBar,
    step_tokens: u64,
    phase: &'static str,
    /// When the phase began, and what was done and how many tokens that were, by an earlier build.
    begun: Instant,
    from: (u64, u64),
    told: Instant,
}

impl Meter {
    const SILENCE: Duration = Duration::from_secs(30);

    fn new(step_tokens: u64) -> Self {
        let bar = bar(0, "{prefix:<8} {wide_bar} {percent:>3} %  {msg}");
        Self { bar, step_tokens, phase: "", begun: Instant::now(), from: (0, 0), told: Instant::now() }
    }

    fn show(&mut self, progress: CorpusProgress) {
        let (phase, done, total, tokens) = match progress {
            CorpusProgress::Reading { bytes, total, tokens } => ("reading", bytes, total, tokens),
            CorpusProgress::Writing { steps, total } => ("writing", steps, total, steps * self.step_tokens),
        };
        if phase != self.phase {
            (self.phase, self.begun, self.from) = (phase, Instant::now(), (done, tokens));
            self.bar.set_prefix(phase);
            self.bar.set_length(total);
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = (tokens - self.from.1) as f64 / seconds.max(1e-3);
        let left = seconds * (total - done) as f64 / (done - self.from.0).max(1) as f64;
        let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
        let told = format!("{} tokens/s, {left} left", grouped(rate as u64));
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.elapsed() >= Self::SILENCE {
            self.told = Instant::now();
            eprintln!("{phase} {} %, {told}", 100 * done / total.max(1));
        }
        self.bar.set_message(told);
    }
}

/// What was made, for a person.
pub fn print_report(report: &CorpusReport) {
    let CorpusReport { lines, tokens, unknown_tokens, steps, .. } = *report;
    if report.resumed != (0, 0) {
        let (text, steps) = report.resumed;
        print(&format!(
            "went on     after {} of text and {} steps of an earlier build",
            bytes(text as usize),
            grouped(steps)
        ));
    }
    print(&format!("records     {}", report.records.display()));
    print(&format!("index       {}", report.record_info.display()));
    print(&format!("files       {}, {} without text", report.files.len(), report.empty_files.len()));
    print(&format!("lines       {}", grouped(lines)));
    let share = 100.0 * unknown_tokens as f64 / tokens.max(1) as f64;
    print(&format!("tokens      {}, {share:.2} % unknown", grouped(tokens)));
    print(&format!("steps       {}", grouped(steps)));
    if share > 2.0 {
        tracing::warn!("{share:.1} % of all tokens are unknown: is this the vocabulary of this language?");
    }
}

/// Shows one record.
pub fn inspect(args: &CorpusInspectArgs) -> anyhow::Result<()> {
    let tokenizer = args.sp_path.as_ref().map(Tokenizer::open).transpose()?;
    let CorpusInspectArgs { seed, epoch, perm_size, .. } = *args;
    let options = InspectOptions { tokenizer: tokenizer.as_ref(), seed, epoch, perm_size };
    let view = View::open(&args.file, args.index, &options)?;
    print(view.to_text().trim_end());
    if let Some(path) = &args.svg {
        std::fs::write(path, view.to_svg()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

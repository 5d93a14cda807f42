//! Progress bars, and plain lines where there is no terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error; draws nothing when that is no terminal.
pub fn bar(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸ "));
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(500));
    }
    bar
}

/// Prints a line to standard output, above the bar.
pub fn line(bar: &ProgressBar, text: &str) {
    bar.suspend(|| print(text));
}

/// Prints a line; nobody reading any more is no error worth reporting.
pub fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

//! How far it is: a bar on a terminal, a line a second elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(1);

/// The display, on standard output.
#[derive(Debug)]
pub struct Progress(Kind);

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines { begun: Instant, next: Instant },
}

impl Progress {
    /// Begins with nothing done.
    pub fn begin(total: Duration) -> Self {
        if !io::stdout().is_terminal() {
            let begun = Instant::now();
            return Self(Kind::Lines {
                begun,
                next: begun + LINE_EVERY,
            });
        }
        let bar = ProgressBar::with_draw_target(Some(millis(total)), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("  {wide_bar} {msg}");
        // The template is a constant; the default style is a bar as well.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(Kind::Bar(bar))
    }

    /// Shows what has been done by now.
    pub fn show(&mut self, elapsed: Duration, writes: usize, reads: u64) {
        match &mut self.0 {
            Kind::Bar(bar) => {
                bar.set_position(millis(elapsed));
                bar.set_message(format!("{writes} writes, {reads} reads"));
            }
            Kind::Lines { begun, next } => {
                let now = Instant::now();
                if now >= *next {
                    let seconds = now.duration_since(*begun).as_secs();
                    println!("  {seconds:>3} s  {writes:>8} writes  {reads:>8} reads");
                    *next += LINE_EVERY;
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn end(self) {
        if let Kind::Bar(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

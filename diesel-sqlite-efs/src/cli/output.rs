//! What people and scripts read: one place that writes it. Colours only on a terminal, and not
//! with `NO_COLOR`.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::failure::Failure;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    Warning,
    Failure,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    fn style(self) -> Style {
        let color = match self {
            Self::Ok => AnsiColor::Green,
            Self::Warning => AnsiColor::Yellow,
            Self::Failure => AnsiColor::Red,
        };
        color.on_default().bold()
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at; stable, for scripts.
    pub(super) name: &'static str,
    pub(super) level: Level,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    pub(super) fn warning(
        name: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            level: Level::Warning,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub(super) fn failure(
        name: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Failure,
            ..Self::warning(name, text, remedy)
        }
    }

    /// Of an error of this crate, whose text ends with the remedy, after a semicolon.
    pub(super) fn of_error(name: &'static str, error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        match text.rsplit_once("; ") {
            Some((problem, remedy)) => Self::failure(name, problem, remedy),
            None => Self {
                level: Level::Failure,
                ..Self::ok(name, text)
            },
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "level": self.level.word(),
            "text": self.text,
            "remedy": self.remedy,
        })
    }
}

/// Standard output and standard error.
#[derive(Debug)]
pub(super) struct Output;

impl Output {
    pub(super) fn line(&self, text: &str) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{}", Printable(text))
    }

    /// A name and what there is to say of it.
    pub(super) fn field(&self, name: &str, text: &str) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{name:<9}{}", Printable(text))
    }

    pub(super) fn finding(&self, finding: &Finding) -> io::Result<()> {
        let (style, word) = (finding.level.style(), finding.level.word());
        let mut stdout = anstream::stdout().lock();
        let text = Printable(&finding.text);
        writeln!(
            stdout,
            "{style}{word:<8}{style:#} {:<12} {text}",
            finding.name
        )?;
        match &finding.remedy {
            Some(remedy) => writeln!(stdout, "{:<21} -> {}", "", Printable(remedy)),
            None => Ok(()),
        }
    }

    pub(super) fn json(&self, value: &Value) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{value:#}")
    }

    /// Asks on the terminal.
    pub(super) fn question(&self, text: &str) -> io::Result<()> {
        let mut stderr = anstream::stderr().lock();
        write!(stderr, "{} ", Printable(text))?;
        stderr.flush()
    }

    pub(super) fn failure(&self, failure: &Failure) {
        let style = Level::Failure.style();
        let text = match failure {
            Failure::Broken(text)
            | Failure::Usage(text)
            | Failure::Busy(text)
            | Failure::Unknown(text) => text.clone(),
            // Whoever has closed the pipe has read enough.
            Failure::Output(error) if error.kind() == ErrorKind::BrokenPipe => return,
            Failure::Output(error) => format!("cannot write: {error}"),
        };
        let mut stderr = anstream::stderr().lock();
        let _ = writeln!(stderr, "{style}error:{style:#} {}", Printable(&text));
    }
}

/// So many of something.
pub(super) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Text that may come from an item or a file name: without what would steer a terminal.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_has_written_cannot_steer_the_terminal() {
        let text = Printable("a\u{1b}[2Jb\nc").to_string();
        assert_eq!(text, "a\\u{1b}[2Jb\\nc");
    }

    #[test]
    fn the_remedy_is_what_follows_the_last_semicolon() {
        let finding = Finding::of_error("endpoint", &"no region; it is needed; set AWS_REGION");
        assert_eq!(finding.text, "no region; it is needed");
        assert_eq!(finding.remedy.as_deref(), Some("set AWS_REGION"));
    }
}

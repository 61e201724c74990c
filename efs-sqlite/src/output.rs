//! All output of the program. Colours only on a terminal, and not with `NO_COLOR`.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use diesel_sqlite_efs::Problem;
use serde_json::{Value, json};

use crate::failure::Failure;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
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
pub(crate) struct Finding {
    /// What was examined; a stable name, for scripts.
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) text: String,
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    pub(crate) fn warning(
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

    pub(crate) fn failure(
        name: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Failure,
            ..Self::warning(name, text, remedy)
        }
    }

    /// A failure, with the remedy if there is one.
    pub(crate) fn problem(name: &'static str, problem: &Problem) -> Self {
        Self {
            level: Level::Failure,
            remedy: problem.remedy().map(str::to_owned),
            ..Self::ok(name, problem.cause())
        }
    }

    pub(crate) fn json(&self) -> Value {
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
pub(crate) struct Output;

impl Output {
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{}", Printable(text))
    }

    /// A name and its value.
    pub(crate) fn field(&self, name: &str, text: &str) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{name:<9}{}", Printable(text))
    }

    pub(crate) fn finding(&self, finding: &Finding) -> io::Result<()> {
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

    pub(crate) fn json(&self, value: &Value) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{value:#}")
    }

    /// Asks for confirmation on the terminal.
    pub(crate) fn question(&self, text: &str) -> io::Result<()> {
        let mut stderr = anstream::stderr().lock();
        write!(stderr, "{} ", Printable(text))?;
        stderr.flush()
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        let style = Level::Failure.style();
        let text = match failure {
            Failure::Broken(text)
            | Failure::Usage(text)
            | Failure::Busy(text)
            | Failure::Unknown(text) => text.clone(),
            // The reader has closed the pipe: it has read enough.
            Failure::Output(error) if error.kind() == ErrorKind::BrokenPipe => return,
            Failure::Output(error) => format!("cannot write: {error}"),
        };
        let mut stderr = anstream::stderr().lock();
        let _ = writeln!(stderr, "{style}error:{style:#} {}", Printable(&text));
    }
}

/// A number of things.
pub(crate) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Text that may come from an item or a file name, with control characters escaped, because a
/// terminal would act on them.
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
    fn text_of_others_cannot_control_the_terminal() {
        let text = Printable("a\u{1b}[2Jb\nc").to_string();
        assert_eq!(text, "a\\u{1b}[2Jb\\nc");
    }
}

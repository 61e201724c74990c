//! A cause and its remedy, separately.

use std::fmt;

/// What is wrong and, where there is a remedy, what to do. Displayed as `cause; remedy`.
///
/// For programs that lay out the two themselves, as `efs-sqlite doctor` does.
///
/// ```
/// use diesel_sqlite_efs::Problem;
///
/// let problem = Problem::new("no AWS region is configured").with_remedy("set AWS_REGION");
/// assert_eq!(problem.to_string(), "no AWS region is configured; set AWS_REGION");
/// assert_eq!(problem.remedy(), Some("set AWS_REGION"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    cause: String,
    remedy: Option<String>,
}

impl Problem {
    /// A problem without a remedy.
    pub fn new(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            remedy: None,
        }
    }

    /// The same problem with this remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What is wrong.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The same remedy, for a cause that names where the problem is.
    pub(super) fn within(&self, name: fmt::Arguments<'_>) -> Self {
        Self {
            cause: format!("{name}{}", self.cause),
            remedy: self.remedy.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl From<String> for Problem {
    fn from(cause: String) -> Self {
        Self::new(cause)
    }
}

impl From<&str> for Problem {
    fn from(cause: &str) -> Self {
        Self::new(cause)
    }
}

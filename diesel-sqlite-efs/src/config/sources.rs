//! One setting at a time: its possible sources, in order of precedence, and its check.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use super::url::parameter_in_url;
use crate::error::ConfigError;

/// The prefix of all variables of this crate; unknown variables with it are taken for misspelt
/// ones.
const VARIABLE_PREFIX: &str = "SQLITE_LOCK_";

/// A setting: its names, and which values it takes.
pub(super) struct Setting<T> {
    /// The URL parameter, and the method of `EfsConfig`.
    pub(super) name: &'static str,
    /// The environment variable, if it has one.
    pub(super) variable: Option<&'static str>,
    /// Whether a well-formed value is one that makes sense.
    pub(super) accepts: fn(&T) -> bool,
    /// For the error: what to give instead.
    pub(super) valid: &'static str,
}

impl<T: Value> Setting<T> {
    /// A method's value, if the setting accepts it.
    pub(super) fn check(&self, value: T) -> Result<T, ConfigError> {
        self.check_from(Place::Method, value)
    }

    pub(super) fn check_from(&self, place: Place, value: T) -> Result<T, ConfigError> {
        if (self.accepts)(&value) {
            Ok(value)
        } else {
            Err(self.invalid(place, value.text(), self.valid))
        }
    }

    pub(super) fn invalid(
        &self,
        place: Place,
        value: String,
        problem: impl Into<String>,
    ) -> ConfigError {
        ConfigError::InvalidValue {
            setting: match (place, self.variable) {
                (Place::Url, _) => parameter_in_url(self.name),
                (Place::Environment, Some(name)) => format!("environment variable {name}"),
                (Place::Client, _) => format!("LockClientBuilder::{}", self.name),
                (Place::Method | Place::Environment, _) => format!("EfsConfig::{}", self.name),
            },
            value,
            problem: problem.into(),
        }
    }
}

impl<T> Setting<T> {
    pub(super) const fn names(&self) -> Names {
        Names {
            parameter: self.name,
            variable: self.variable,
        }
    }
}

/// The names of a setting, whatever its type.
pub(super) struct Names {
    pub(super) parameter: &'static str,
    pub(super) variable: Option<&'static str>,
}

/// A setting that was removed.
pub(super) struct Removed {
    pub(super) parameter: Option<&'static str>,
    pub(super) variable: &'static str,
    /// For the error: what replaced it.
    pub(super) became: &'static str,
    /// For the error: what to do.
    pub(super) remedy: &'static str,
}

/// Where a value was given; the earlier one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Of `EfsConfig`.
    Method,
    /// A method of `LockClientBuilder`.
    Client,
    Url,
    Environment,
}

/// The URL's parameters and the environment.
pub(super) struct Sources<'a> {
    /// The source of values set by methods.
    methods: Place,
    parameters: &'a [(String, String)],
    environment: BTreeMap<OsString, OsString>,
}

impl<'a> Sources<'a> {
    /// # Errors
    /// `UnknownVariable` for a variable that begins with `SQLITE_LOCK_` and is not in `known`,
    /// `RemovedSetting` for one in `removed`.
    pub(super) fn new(
        parameters: &'a [(String, String)],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        known: &[Names],
        removed: &[Removed],
    ) -> Result<Self, ConfigError> {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        let known: Vec<_> = known.iter().filter_map(|names| names.variable).collect();
        for name in environment.keys() {
            let name = name.to_string_lossy();
            let is_removed = |setting: &&Removed| *setting.variable == *name;
            if let Some(removed) = removed.iter().find(is_removed) {
                return Err(ConfigError::RemovedSetting {
                    setting: format!("environment variable {name}"),
                    became: removed.became,
                    remedy: removed.remedy,
                });
            }
            if name.starts_with(VARIABLE_PREFIX) && !known.contains(&&*name) {
                return Err(ConfigError::UnknownVariable {
                    suggestion: nearest(&name, known),
                    name: name.into_owned(),
                });
            }
        }
        Ok(Self {
            methods: Place::Method,
            parameters,
            environment,
        })
    }

    /// The sources of a lock client: only its methods give settings; other variables come from the
    /// environment.
    pub(super) fn of_a_client(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Sources<'static> {
        let is_setting = |name: &OsStr| name.to_string_lossy().starts_with(VARIABLE_PREFIX);
        Sources {
            methods: Place::Client,
            parameters: &[],
            environment: (environment.into_iter())
                .filter(|(name, _)| !is_setting(name))
                .collect(),
        }
    }

    /// The value in effect: the method's, else the URL's, else the environment's. Values that are
    /// overridden are not checked.
    pub(super) fn first<T: Value>(
        &self,
        setting: &Setting<T>,
        method: Option<&T>,
    ) -> Result<Option<T>, ConfigError> {
        let placed = self.first_placed(setting, method)?;
        Ok(placed.map(|(value, _)| value))
    }

    /// Like [`first`](Self::first), with the place, for checks against other settings.
    pub(super) fn first_placed<T: Value>(
        &self,
        setting: &Setting<T>,
        method: Option<&T>,
    ) -> Result<Option<(T, Place)>, ConfigError> {
        if let Some(value) = method {
            let value = setting.check_from(self.methods, value.clone())?;
            return Ok(Some((value, self.methods)));
        }
        for place in [Place::Url, Place::Environment] {
            if let Some(value) = self.at(place, setting)? {
                return Ok(Some((value, place)));
            }
        }
        Ok(None)
    }

    /// The value given in one place other than a method.
    pub(super) fn at<T: Value>(
        &self,
        place: Place,
        setting: &Setting<T>,
    ) -> Result<Option<T>, ConfigError> {
        let text = match place {
            Place::Method | Place::Client => None,
            Place::Url => (self.parameters.iter())
                .find(|(name, _)| name == setting.name)
                .map(|(_, value)| OsStr::new(value)),
            Place::Environment => setting.variable.and_then(|name| self.variable(name)),
        };
        let Some(text) = text else { return Ok(None) };
        let value = text.to_str().and_then(T::parse).filter(setting.accepts);
        let invalid = || setting.invalid(place, text.to_string_lossy().into_owned(), setting.valid);
        value.map(Some).ok_or_else(invalid)
    }

    /// Any environment variable, of this crate or not.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        (self.environment.get(OsStr::new(name))).map(OsString::as_os_str)
    }
}

/// The type of a setting's value.
pub(super) trait Value: Clone {
    fn parse(text: &str) -> Option<Self>;
    fn text(&self) -> String;
}

impl Value for String {
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

/// Whole numbers, digits only: no sign, no unit.
macro_rules! whole_number {
    ($number:ty) => {
        impl Value for $number {
            fn parse(text: &str) -> Option<Self> {
                let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|_| is_plain)
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    };
}
whole_number!(u32);
whole_number!(u64);

/// Seconds, whole or with a decimal point; no sign, no exponent, no unit.
impl Value for Duration {
    fn parse(text: &str) -> Option<Self> {
        let is_plain = (text.bytes()).all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds: f64 = text.parse().ok().filter(|_| is_plain)?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn text(&self) -> String {
        self.as_secs_f64().to_string()
    }
}

/// A setting with a few keywords as values.
pub(super) trait Keyword: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        let entry = Self::WORDS.iter().find(|(_, value)| *value == self);
        entry.map_or("", |(word, _)| word)
    }
}

impl<K: Keyword> Value for K {
    fn parse(text: &str) -> Option<Self> {
        let mut words = Self::WORDS.iter();
        let entry = words.find(|(word, _)| word.eq_ignore_ascii_case(text));
        entry.map(|(_, value)| *value)
    }

    fn text(&self) -> String {
        self.word().to_owned()
    }
}

/// The name that was probably meant, if one is similar.
pub(super) fn nearest(name: &str, known: impl IntoIterator<Item = &'static str>) -> Option<String> {
    /// Below this, two words share little more than a few letters.
    const SIMILAR: f64 = 0.45;
    /// Without case and the prefixes that all names share, which would make any two similar.
    fn essence(name: &str) -> String {
        let name = name.to_lowercase().replace('-', "_");
        let name = name.strip_prefix("sqlite_").unwrap_or(&name);
        name.strip_prefix("lock_").unwrap_or(name).to_owned()
    }
    let name = essence(name);
    // Shared pairs of letters find parts of a longer name, the edit distance finds typing errors.
    let similarity = |candidate: &str| {
        let candidate = essence(candidate);
        strsim::sorensen_dice(&name, &candidate)
            .max(strsim::normalized_damerau_levenshtein(&name, &candidate))
    };
    (known.into_iter())
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.to_owned())
}

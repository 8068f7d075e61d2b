//! Values of one setting: of the type of their option, and within bounds.

use zql_spec::protocol::connect::number;

use super::ConfigError;
use crate::options::{Kind, OPTIONS, Settings};

/// A century in seconds.
pub(super) const CENTURY: f64 = 100.0 * 365.0 * 24.0 * 3600.0;

pub(super) fn error(text: impl Into<String>) -> ConfigError {
    ConfigError(text.into())
}

/// Checks every value that is set against the type of its option, served or not.
pub(super) fn check_types(settings: &Settings) -> Result<(), ConfigError> {
    for option in OPTIONS {
        let env = option.env();
        let Some(value) = settings.text(&env) else { continue };
        let invalid = || error(format!("TypeError: Invalid input for {env}: {value:?}"));
        match option.kind {
            Kind::Text | Kind::List => {}
            Kind::Number => drop(number(value).ok_or_else(invalid)?),
            Kind::Bool => drop(boolean(settings, &env).ok_or_else(invalid)?),
            Kind::OneOf(path, names) => {
                if !names.contains(&value) {
                    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
                    return Err(error(format!(
                        "TypeError: Expected literal value {} at {path} Got {value:?}",
                        names.join(" or ")
                    )));
                }
            }
        }
    }
    Ok(())
}

pub(super) fn boolean(settings: &Settings, env: &str) -> Option<bool> {
    match settings.text(env)?.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number within bounds.
pub(super) fn whole<T: TryFrom<i64>>(
    settings: &Settings,
    env: &str,
    default: T,
    allowed: std::ops::RangeInclusive<i64>,
) -> Result<T, ConfigError> {
    let Some(text) = settings.text(env) else { return Ok(default) };
    number(text)
        .filter(|value| value.fract() == 0.0 && value.abs() < 1e15)
        .map(|value| value as i64)
        .filter(|value| allowed.contains(value))
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| error(format!("TypeError: Invalid input for {env}: {text:?}")))
}

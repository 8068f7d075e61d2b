//! Values of CRUD mutations on their way to Postgres: JSON as the client writes it, but for dates and times, which it
//! writes as milliseconds.
//!
//! Postgres itself reads all other JSON (`json_populate_record`): numbers with all their digits, arrays, documents.

use std::fmt::Write;

use serde_json::value::RawValue;

const MICROS_PER_DAY: i128 = 86_400_000_000;

/// Which form of date or time a Postgres type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temporal {
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
}

/// The form of a type, by its name without dimensions.
pub(super) fn temporal(pg_type: &str) -> Option<Temporal> {
    Some(match pg_type.split('(').next().unwrap_or_default().trim() {
        "date" => Temporal::Date,
        "time" | "time without time zone" => Temporal::Time,
        "timetz" | "time with time zone" => Temporal::TimeTz,
        "timestamp" | "timestamp without time zone" => Temporal::Timestamp,
        "timestamptz" | "timestamp with time zone" => Temporal::TimestampTz,
        _ => return None,
    })
}

/// Appends a member's value in the form that Postgres reads into a column of this type.
pub(super) fn write_value(value: &RawValue, pg_type: &str, out: &mut String) {
    match temporal(pg_type) {
        Some(form) => write_temporal(value.get(), form, out),
        None => out.push_str(value.get()),
    }
}

/// Numbers become dates, in arrays as well; everything else is left to Postgres to judge.
fn write_temporal(json: &str, form: Temporal, out: &mut String) {
    let json = json.trim();
    if let Ok(millis) = json.parse::<f64>()
        && json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
    {
        let _ = write!(out, "\"{}\"", text(millis, form));
    } else if json.starts_with('[')
        && let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(json)
    {
        out.push('[');
        for (index, element) in elements.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_temporal(element.get(), form, out);
        }
        out.push(']');
    } else {
        out.push_str(json);
    }
}

/// Milliseconds as ISO text, to the microsecond.
pub(super) fn text(millis: f64, form: Temporal) -> String {
    // Out of any calendar's range, and Postgres says so.
    let micros = (millis * 1000.0).round().clamp(-1e21, 1e21) as i128;
    let (days, in_day) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
    let (seconds, fraction) = (in_day / 1_000_000, in_day % 1_000_000);
    let time = format!("{:02}:{:02}:{:02}.{fraction:06}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let date = format!("{year:04}-{month:02}-{day:02}");
    match form {
        Temporal::Date => format!("{date}{era}"),
        // The end of a day is a time of its own.
        Temporal::Time if micros == MICROS_PER_DAY => "24:00:00".to_owned(),
        Temporal::Time => time,
        Temporal::TimeTz => format!("{time}+00"),
        Temporal::Timestamp => format!("{date} {time}{era}"),
        Temporal::TimestampTz => format!("{date} {time}+00{era}"),
    }
}

/// Year, month and day of the proleptic Gregorian calendar from days since 1970; year 0 is 1 BC.
fn civil(days: i128) -> (i128, i128, i128) {
    // Count years from March, so that the leap day is a year's last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i128::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::{Temporal, text, write_value};

    #[test]
    fn milliseconds_as_text() {
        for (millis, form, expected) in [
            (0.0, Temporal::TimestampTz, "1970-01-01 00:00:00.000000+00"),
            (1_704_164_645_123.456, Temporal::Timestamp, "2024-01-02 03:04:05.123456"),
            (951_782_400_000.0, Temporal::Date, "2000-02-29"),
            (-1.0, Temporal::Timestamp, "1969-12-31 23:59:59.999000"),
            (-62_135_596_800_001.0, Temporal::Timestamp, "0001-12-31 23:59:59.999000 BC"),
            (253_402_300_800_000.0, Temporal::Date, "10000-01-01"),
            (3_723_000.0, Temporal::Time, "01:02:03.000000"),
            (86_400_000.0, Temporal::Time, "24:00:00"),
            (3_723_000.5, Temporal::TimeTz, "01:02:03.000500+00"),
        ] {
            assert_eq!(text(millis, form), expected);
        }
        assert!(text(f64::MAX, Temporal::Date).len() < 40);
    }

    #[test]
    fn only_numbers_of_dates_are_rewritten() {
        for (json, pg_type, expected) in [
            ("5", "int4", "5"),
            ("12345678901234567890.5", "numeric", "12345678901234567890.5"),
            ("0", "timestamptz", r#""1970-01-01 00:00:00.000000+00""#),
            ("null", "timestamptz", "null"),
            (r#""2024-01-01""#, "date", r#""2024-01-01""#),
            ("[0,null, 86400000]", "date", r#"["1970-01-01",null,"1970-01-02"]"#),
            ("0", "timestamp(3)", r#""1970-01-01 00:00:00.000000""#),
            ("[1]", "jsonb", "[1]"),
        ] {
            let mut out = String::new();
            write_value(&RawValue::from_string(json.to_owned()).expect("JSON"), pg_type, &mut out);
            assert_eq!(out, expected);
        }
    }
}

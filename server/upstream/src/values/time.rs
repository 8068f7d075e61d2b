//! Dates and times: from Postgres's integers and from its ISO text to milliseconds.
//!
//! Everything goes through whole microseconds, so that both forms round alike.

use engine::replica::SqliteValue;

/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
pub(super) const EPOCH_DAYS: i64 = 10_957;

const MICROS_PER_DAY: i64 = 86_400_000_000;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// A point in time from microseconds since 1970. The end of Postgres's range does not fit 64 bits when it is
/// counted from there; its milliseconds do.
fn timestamp(micros: i128) -> Option<SqliteValue> {
    if micros % 1000 == 0 {
        return i64::try_from(micros / 1000).ok().map(SqliteValue::Integer);
    }
    Some(SqliteValue::Real(micros as f64 / 1000.0))
}

/// Microseconds since 1970 from Postgres's since 2000; the extreme values stand for the infinities.
pub(super) fn timestamp_binary(micros: i64) -> Option<SqliteValue> {
    match micros {
        i64::MAX => Some(SqliteValue::Real(f64::INFINITY)),
        i64::MIN => Some(SqliteValue::Real(f64::NEG_INFINITY)),
        _ => timestamp(i128::from(micros) + i128::from(EPOCH_DAYS * MICROS_PER_DAY)),
    }
}

/// A date from days since 2000.
pub(super) fn date_binary(days: i32) -> SqliteValue {
    match days {
        i32::MAX => SqliteValue::Real(f64::INFINITY),
        i32::MIN => SqliteValue::Real(f64::NEG_INFINITY),
        _ => SqliteValue::Integer((i64::from(days) + EPOCH_DAYS) * MILLIS_PER_DAY),
    }
}

/// A time of day from microseconds.
pub(super) fn time(micros: i64) -> SqliteValue {
    SqliteValue::Integer(micros / 1000)
}

/// A time of day with a zone, from microseconds and seconds west of UTC.
pub(super) fn time_tz(micros: i64, seconds_west: i64) -> SqliteValue {
    let millis = micros / 1000 + seconds_west * 1000;
    let in_day = if (0..=MILLIS_PER_DAY).contains(&millis) { millis } else { millis.rem_euclid(MILLIS_PER_DAY) };
    SqliteValue::Integer(in_day)
}

/// Days since 1970 of a date of the proleptic Gregorian calendar; year 0 is 1 BC.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Count years from March, so that the leap day is a year's last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Most digits of a number in a date: no year of Postgres has more, and nothing overflows below.
const DIGITS_MAX: usize = 7;

/// Reads from the front of an ISO date or time.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    fn number(&mut self) -> Option<i64> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || digits > DIGITS_MAX {
            return None;
        }
        let value = self.rest[..digits].iter().fold(0, |value, byte| value * 10 + i64::from(byte - b'0'));
        self.rest = &self.rest[digits..];
        Some(value)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn date(&mut self) -> Option<(i64, i64, i64)> {
        let year = self.number()?;
        let month = self.eat(b'-').then(|| self.number()).flatten()?;
        let day = self.eat(b'-').then(|| self.number()).flatten()?;
        ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some((year, month, day))
    }

    /// `hh:mm:ss[.ffffff]` in microseconds.
    fn time(&mut self) -> Option<i64> {
        let hours = self.number()?;
        let minutes = self.eat(b':').then(|| self.number()).flatten()?;
        let seconds = self.eat(b':').then(|| self.number()).flatten()?;
        let mut micros = 0;
        if self.eat(b'.') {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 || digits > 6 {
                return None;
            }
            micros = self.number()? * 10_i64.pow(6 - digits as u32);
        }
        Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
    }

    /// `+hh[:mm[:ss]]` in seconds east of UTC.
    fn zone(&mut self) -> Option<i64> {
        let sign = if self.eat(b'+') {
            1
        } else if self.eat(b'-') {
            -1
        } else {
            return None;
        };
        let mut seconds = self.number()? * 3600;
        if self.eat(b':') {
            seconds += self.number()? * 60;
        }
        if self.eat(b':') {
            seconds += self.number()?;
        }
        Some(sign * seconds)
    }

    /// The end of a date: nothing, or that the year is before Christ.
    fn end_of_date(&mut self, year: i64) -> Option<i64> {
        match self.rest {
            b"" => Some(year),
            b" BC" => Some(1 - year),
            _ => None,
        }
    }
}

fn infinity(text: &[u8]) -> Option<SqliteValue> {
    match text {
        b"infinity" => Some(SqliteValue::Real(f64::INFINITY)),
        b"-infinity" => Some(SqliteValue::Real(f64::NEG_INFINITY)),
        _ => None,
    }
}

/// A `date` in ISO text.
pub(super) fn date_text(text: &[u8]) -> Option<SqliteValue> {
    if let Some(value) = infinity(text) {
        return Some(value);
    }
    let mut scanner = Scanner { rest: text };
    let (year, month, day) = scanner.date()?;
    let year = scanner.end_of_date(year)?;
    Some(SqliteValue::Integer(days_from_civil(year, month, day) * MILLIS_PER_DAY))
}

/// A `timestamp` (or with `zoned` a `timestamptz`) in ISO text.
pub(super) fn timestamp_text(text: &[u8], zoned: bool) -> Option<SqliteValue> {
    if let Some(value) = infinity(text) {
        return Some(value);
    }
    let mut scanner = Scanner { rest: text };
    let (year, month, day) = scanner.date()?;
    let time = scanner.eat(b' ').then(|| scanner.time()).flatten()?;
    let east = if zoned { scanner.zone()? } else { 0 };
    let year = scanner.end_of_date(year)?;
    let days = i128::from(days_from_civil(year, month, day));
    timestamp(days * i128::from(MICROS_PER_DAY) + i128::from(time - east * 1_000_000))
}

/// A `time` in ISO text.
pub(super) fn time_text(text: &[u8]) -> Option<SqliteValue> {
    let mut scanner = Scanner { rest: text };
    let micros = scanner.time()?;
    scanner.rest.is_empty().then(|| time(micros))
}

/// A `timetz` in ISO text.
pub(super) fn time_tz_text(text: &[u8]) -> Option<SqliteValue> {
    let mut scanner = Scanner { rest: text };
    let micros = scanner.time()?;
    let east = scanner.zone()?;
    scanner.rest.is_empty().then(|| time_tz(micros, -east))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        use SqliteValue::{Integer, Real};
        let timestamps: [(&[u8], Option<SqliteValue>); 9] = [
            (b"1970-01-01 00:00:00", Some(Integer(0))),
            (b"2024-01-02 03:04:05.123456", Some(Real(1_704_164_645_123.456))),
            (b"2024-01-02 03:04:05.12", Some(Integer(1_704_164_645_120))),
            (b"0001-01-01 00:00:00 BC", Some(Integer(-62_167_219_200_000))),
            (b"infinity", Some(Real(f64::INFINITY))),
            (b"294276-12-31 23:59:59", Some(Integer(9_224_318_015_999_000))),
            (b"2024-01-02", None),
            (b"2024-01-02 03:04:05x", None),
            (b"99999999999-01-01 00:00:00", None),
        ];
        for (text, value) in timestamps {
            assert_eq!(timestamp_text(text, false), value, "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(timestamp_text(b"1970-01-01 05:30:00+05:30", true), Some(Integer(0)));
        assert_eq!(timestamp_text(b"1970-01-01 00:00:00-00:00:01", true), Some(Integer(1000)));
        assert_eq!(date_text(b"2000-02-29"), Some(Integer(951_782_400_000)));
        assert_eq!(time_text(b"24:00:00"), Some(Integer(86_400_000)));
        assert_eq!(time_text(b"00:00:00.001999"), Some(Integer(1)));
        assert_eq!(time_tz_text(b"01:00:00+02"), Some(Integer(23 * 3_600_000)));
        assert_eq!(time_tz_text(b"24:00:00+00"), Some(Integer(86_400_000)));
        assert_eq!(time_tz_text(b"23:00:00-02"), Some(Integer(3_600_000)));
    }

    #[test]
    fn integers() {
        assert_eq!(timestamp_binary(0), Some(SqliteValue::Integer(946_684_800_000)));
        assert_eq!(timestamp_binary(i64::MIN), Some(SqliteValue::Real(f64::NEG_INFINITY)));
        assert_eq!(date_binary(0), SqliteValue::Integer(946_684_800_000));
        assert_eq!(date_binary(-EPOCH_DAYS as i32 - 1), SqliteValue::Integer(-86_400_000));
    }
}

//! Versions: how far a replica, a client view record and a client have come, and the cookie that says so.
//!
//! A number is written as a [lexi version](encode): its base-36 digits after one base-36 digit that counts
//! them, so that text order is number order. A [`StateVersion`] is a replica's watermark (a WAL position,
//! and a minor number for what was added without one). A [`CvrVersion`] adds how often the record changed
//! for reasons of its own (clients, queries) since that state; its text is the client's cookie.
//!
//! The order of versions is never that of their text: `X.01` (a later state) sorts before `X:05` (a
//! configuration of state `X`) as text. Compare [`CvrVersion`]s, not strings.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Most digits a lexi version can have: their count less one is itself one base-36 digit.
const MAX_DIGITS: usize = 36;

/// Greatest configuration version, JavaScript's greatest safe integer: the reference refuses more.
pub const MAX_CONFIG_VERSION: u64 = (1 << 53) - 1;

/// The state of a record that has seen nothing.
pub const EMPTY_STATE: &str = "00";

/// Why a text is not a version. The texts are those that clients see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not a lexi version: shorter than two characters, a wrong digit, or a wrong count of digits.
    #[error("Invalid LexiVersion: {0}")]
    Lexi(String),
    /// Lexi versions where the text may not have them: more than one `.` or `:`.
    #[error("Invalid version string {0}")]
    Form(String),
    /// Not a WAL position of the form `16/B374D848`.
    #[error("Invalid LSN: {0}")]
    Lsn(String),
}

/// Writes a number as a lexi version: 0 is `00`, 35 is `0z`, 36 is `110`.
pub fn encode(number: u128) -> String {
    let mut digits = [0u8; 26];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = digit((rest % 36) as u8);
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    let digits = &digits[start..];
    let mut text = String::with_capacity(digits.len() + 1);
    text.push(char::from(digit((digits.len() - 1) as u8)));
    text.extend(digits.iter().map(|&digit| char::from(digit)));
    text
}

/// Reads a lexi version. Numbers above 128 bits, which nothing here writes, are refused as well.
pub fn decode(text: &str) -> Result<u128, VersionError> {
    check(text)?;
    let mut number = 0u128;
    for &byte in &text.as_bytes()[1..] {
        let value = u128::from(digit_value(byte).ok_or_else(|| invalid(text))?);
        number = number.checked_mul(36).and_then(|number| number.checked_add(value)).ok_or_else(|| invalid(text))?;
    }
    Ok(number)
}

fn invalid(text: &str) -> VersionError {
    VersionError::Lexi(text.to_owned())
}

/// Whether a text has the form of a lexi version, whatever its size.
fn check(text: &str) -> Result<(), VersionError> {
    let (first, digits) = text.as_bytes().split_first().ok_or_else(|| invalid(text))?;
    let count = digit_value(*first).ok_or_else(|| invalid(text))?;
    let proper = digits.len() <= MAX_DIGITS && digits.iter().all(|&byte| digit_value(byte).is_some());
    if proper && digits.len() == usize::from(count) + 1 { Ok(()) } else { Err(invalid(text)) }
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

fn digit_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'z' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// The state of a replica: `major` or `major.minor`, both lexi versions.
///
/// The text is shared: rows, commits and records hold the same allocation. Its byte order is the order
/// of states.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateVersion(Arc<str>);

impl StateVersion {
    /// The state of a record that has seen nothing.
    pub fn empty() -> Self {
        StateVersion(EMPTY_STATE.into())
    }

    /// The state after the transaction whose commit record starts at this WAL position.
    pub fn from_lsn(lsn: u64) -> Self {
        StateVersion(encode(lsn.into()).into())
    }

    /// Takes a text that is already shared, if it is a state version.
    pub fn from_shared(text: Arc<str>) -> Result<Self, VersionError> {
        let (major, minor) = match text.split_once('.') {
            Some((major, minor)) => (major, Some(minor)),
            None => (&*text, None),
        };
        check(major)?;
        if let Some(minor) = minor {
            if minor.contains('.') {
                return Err(VersionError::Form(text.to_string()));
            }
            check(minor)?;
        }
        Ok(StateVersion(text))
    }

    /// The same WAL position with another minor number; 0 is written as none.
    pub fn with_minor(&self, minor: u64) -> Self {
        if minor == 0 {
            StateVersion(self.major_text().into())
        } else {
            StateVersion(format!("{}.{}", self.major_text(), encode(minor.into())).into())
        }
    }

    /// The WAL position; `None` where the major number is not one (more than 64 bits).
    pub fn lsn(&self) -> Option<u64> {
        decode(self.major_text()).ok().and_then(|number| u64::try_from(number).ok())
    }

    /// The minor number, 0 if there is none.
    pub fn minor(&self) -> u128 {
        self.0.split_once('.').and_then(|(_, minor)| decode(minor).ok()).unwrap_or(0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }

    fn major_text(&self) -> &str {
        self.0.split_once('.').map_or(&*self.0, |(major, _)| major)
    }
}

impl FromStr for StateVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        StateVersion::from_shared(text.into())
    }
}

impl fmt::Display for StateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a client view record, and so of what a client holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CvrVersion {
    /// The replica state that the record reflects.
    pub state: StateVersion,
    /// How often clients and queries changed the record at this state. At most [`MAX_CONFIG_VERSION`].
    pub config: u64,
}

impl CvrVersion {
    /// The version of a record that does not exist yet: `00`.
    pub fn empty() -> Self {
        CvrVersion::at(StateVersion::empty())
    }

    /// The first version at a state.
    pub fn at(state: StateVersion) -> Self {
        CvrVersion { state, config: 0 }
    }

    /// Whether this is the version of a record that does not exist yet.
    pub fn is_empty(&self) -> bool {
        self.config == 0 && self.state.as_str() == EMPTY_STATE
    }

    /// The next version at the same state.
    pub fn next_config(&self) -> Self {
        CvrVersion { state: self.state.clone(), config: self.config + 1 }
    }

    /// Reads a cookie as a client sends it: the empty text is no cookie.
    pub fn from_cookie(text: &str) -> Result<Option<Self>, VersionError> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
    }
}

impl Ord for CvrVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.state.cmp(&other.state).then(self.config.cmp(&other.config))
    }
}

impl PartialOrd for CvrVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for CvrVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let Some((state, config)) = text.split_once(':') else {
            return text.parse().map(CvrVersion::at);
        };
        if config.contains(':') {
            return Err(VersionError::Form(text.to_owned()));
        }
        let state = state.parse()?;
        let config = decode(config)?;
        match u64::try_from(config) {
            Ok(config) if config <= MAX_CONFIG_VERSION => Ok(CvrVersion { state, config }),
            _ => Err(VersionError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for CvrVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state.as_str())?;
        if self.config > 0 {
            write!(f, ":{}", encode(self.config.into()))?;
        }
        Ok(())
    }
}

impl fmt::Debug for CvrVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a WAL position: `16/B374D848`, with or without leading zeros.
pub fn parse_lsn(text: &str) -> Result<u64, VersionError> {
    let half = |half: &str| {
        // from_str_radix accepts a sign, which a position never has.
        let hex = (1..=8).contains(&half.len()) && half.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex { u32::from_str_radix(half, 16).ok() } else { None }
    };
    text.split_once('/')
        .and_then(|(high, low)| Some(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
        .ok_or_else(|| VersionError::Lsn(text.to_owned()))
}

/// Writes a WAL position as Postgres does: `16/B374D848`.
pub fn format_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_positions() {
        let numbers: &[(u128, &str)] = &[
            (0, "00"),
            (1, "01"),
            (10, "0a"),
            (35, "0z"),
            (36, "110"),
            (1295, "1zz"),
            (1296, "2100"),
            (46655, "2zzz"),
            (46656, "31000"),
            (1 << 31, "5zik0zk"),
            ((1 << 32) - 1, "61z141z3"),
            (1 << 32, "61z141z4"),
            ((1 << 53) - 1, "a2gosa7pa2gv"),
            ((1 << 63) - 1, "c1y2p0ij32e8e7"),
            ((1 << 64) - 1, "c3w5e11264sgsf"),
            (1 << 64, "c3w5e11264sgsg"),
        ];
        for &(number, text) in numbers {
            assert_eq!(encode(number), text);
            assert_eq!(decode(text), Ok(number));
        }
        assert!(numbers.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert_eq!(decode(&encode(u128::MAX)), Ok(u128::MAX));

        for (lsn, text) in [
            ("0/0", "00"),
            ("0/1", "01"),
            ("0/A", "0a"),
            ("0/1529D68", "4d7n1k"),
            ("0/1A34938", "4gcyew"),
            ("1/0", "61z141z4"),
            ("16/B374D848", "718sh0nk8"),
            ("FF/FFFFFFFF", "7e13wu1of"),
            ("100/0", "7e13wu1og"),
            ("FFFFFFFF/FFFFFFFF", "c3w5e11264sgsf"),
        ] {
            let position = parse_lsn(lsn).unwrap();
            assert_eq!(format_lsn(position), lsn);
            let state = StateVersion::from_lsn(position);
            assert_eq!(state.as_str(), text);
            assert_eq!(state.lsn(), Some(position));
        }
        assert_eq!(parse_lsn("00000000/01A34938"), parse_lsn("0/1A34938"));
        for bad in ["", "/", "1", "1/", "/1", "+1/1", "1/123456789", "g/1", "1/2/3"] {
            assert_eq!(parse_lsn(bad), Err(VersionError::Lsn(bad.to_owned())));
        }
    }

    #[test]
    fn bad_numbers() {
        for bad in ["", "0", "z", "zz", "zzz", "000", "10", "0A", "-1", "0é", "a0", &"z".repeat(38)] {
            assert_eq!(decode(bad), Err(VersionError::Lexi(bad.to_owned())), "{bad}");
            assert!(bad.parse::<CvrVersion>().is_err(), "{bad}");
        }
        assert_eq!("zz".parse::<CvrVersion>().unwrap_err().to_string(), "Invalid LexiVersion: zz");
        // Well-formed but beyond 128 bits: a legal state, never a number.
        let huge = "z".repeat(37);
        assert!(huge.parse::<StateVersion>().is_ok());
        assert!(decode(&huge).is_err());
    }

    #[test]
    fn states_with_minors() {
        let state: StateVersion = "718sh0nk8".parse().unwrap();
        assert_eq!(state.minor(), 0);
        for (minor, text) in [(1, "718sh0nk8.01"), (35, "718sh0nk8.0z"), (36, "718sh0nk8.110")] {
            let with_minor = state.with_minor(minor);
            assert_eq!(with_minor.as_str(), text);
            assert_eq!(with_minor.minor(), u128::from(minor));
            assert_eq!(with_minor.lsn(), state.lsn());
            assert_eq!(with_minor.with_minor(0), state);
            assert!(state < with_minor && with_minor < StateVersion::from_lsn(state.lsn().unwrap() + 1));
        }
        assert_eq!("00.01.02".parse::<StateVersion>(), Err(VersionError::Form("00.01.02".into())));
        assert!("00.".parse::<StateVersion>().is_err());
    }

    #[test]
    fn cookies() {
        for text in ["00", "00:01", "571ttq0", "585cf4w:0a", "585cf4w:0z", "585cf4w:110", "585cf4w.01", "01.02:03"] {
            assert_eq!(text.parse::<CvrVersion>().unwrap().to_string(), text);
        }
        assert_eq!("01:00".parse::<CvrVersion>().unwrap().to_string(), "01");
        assert_eq!(CvrVersion::from_cookie(""), Ok(None));
        assert_eq!(CvrVersion::from_cookie("00"), Ok(Some(CvrVersion::empty())));
        assert!(CvrVersion::empty().is_empty() && !CvrVersion::empty().next_config().is_empty());
        for bad in ["00:", ":01", "00:01:02", "00:a2gosa7pa2gw", "00:zz", "00:01.01"] {
            assert!(bad.parse::<CvrVersion>().is_err(), "{bad}");
        }
        assert!("00:a2gosa7pa2gv".parse::<CvrVersion>().is_ok());
    }

    #[test]
    fn order_is_by_meaning() {
        let ascending = ["00", "00:01", "01", "01:01", "01:0z", "01:110", "01.01", "01.01:01", "01.02", "02", "110"];
        let versions: Vec<CvrVersion> = ascending.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
        assert!(None < Some(&versions[0]));
    }
}

//! Numbers for people.

/// A count with separators.
pub(crate) fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something.
pub(crate) fn counted(number: f64, thing: &str) -> String {
    let plural = if number.round() == 1.0 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// A time, from microseconds.
pub(crate) fn time(micros: f64) -> String {
    match micros {
        micros if micros < 0.05 => "0 µs".to_owned(),
        micros if micros < 10.0 => format!("{micros:.1} µs"),
        micros if micros < 1e3 => format!("{micros:.0} µs"),
        micros if micros < 1e4 => format!("{:.2} ms", micros / 1e3),
        micros if micros < 1e5 => format!("{:.1} ms", micros / 1e3),
        micros if micros < 1e6 => format!("{:.0} ms", micros / 1e3),
        micros if micros < 6e7 => format!("{:.1} s", micros / 1e6),
        micros => format!("{} min", count(micros / 6e7)),
    }
}

/// A size.
pub(crate) fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e3 => format!("{bytes:.0} B"),
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}

/// How many times.
pub(crate) fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.1}×") } else { format!("{}×", count(ratio)) }
}

/// A share.
pub(crate) fn share(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.01 => "< 0.01 %".to_owned(),
        percent if percent < 1.0 => format!("{percent:.2} %"),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0.0, 999.4, 1000.0, 1234567.0].map(count), ["0", "999", "1,000", "1,234,567"]);
        let times = [0.0, 1.25, 12.6, 1250.0, 12_500.0, 125_000.0, 1_250_000.0, 7_200_000_000.0].map(time);
        assert_eq!(times, ["0 µs", "1.2 µs", "13 µs", "1.25 ms", "12.5 ms", "125 ms", "1.2 s", "120 min"]);
        assert_eq!([counted(1.0, "row"), counted(0.0, "row")], ["1 row", "0 rows"]);
        assert_eq!([12.0, 1234.0, 5.6e6].map(size), ["12 B", "1.2 kB", "5.6 MB"]);
        assert_eq!([0.0, 0.00001, 0.005, 0.5].map(share), ["0 %", "< 0.01 %", "0.50 %", "50 %"]);
    }
}

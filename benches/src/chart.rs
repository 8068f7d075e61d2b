//! A section as horizontal bars on a logarithmic scale, as SVG by itself: no font, script or style from elsewhere.

use std::fmt::Write;

use crate::report::{Section, micros_text};

const LABELS: f64 = 300.0;
const BARS: f64 = 460.0;
const BAR: f64 = 11.0;
const HEAD: f64 = 64.0;
const COLOURS: [&str; 4] = ["#9aa5b1", "#2563eb", "#d97706", "#059669"];

/// The chart of a section's charted columns, which are times.
pub(crate) fn bars(section: &Section) -> String {
    let numbers: Vec<Vec<f64>> = (0..section.rows.len())
        .map(|row| section.charted.iter().map(|column| section.number(row, column).unwrap_or(f64::NAN)).collect())
        .collect();
    let finite = || numbers.iter().flatten().copied().filter(|number| *number > 0.0);
    let least = finite().fold(f64::INFINITY, f64::min).log10().floor();
    let most = finite().fold(1.0, f64::max).log10().ceil().max(least + 1.0);
    let width = |number: f64| ((number.max(1e-9).log10() - least) / (most - least) * BARS).max(1.0);
    let group = BAR * section.charted.len() as f64 + 8.0;
    let height = HEAD + group * numbers.len() as f64 + 12.0;
    let total = LABELS + BARS + 80.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        escaped(&section.title)
    );
    for (position, column) in section.charted.iter().enumerate() {
        let x = LABELS + position as f64 * 120.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{:.0}\" y=\"39\">{}</text>",
            COLOURS[position % COLOURS.len()],
            x + 14.0,
            escaped(column)
        );
    }
    let mut decade = least;
    while decade <= most {
        let x = LABELS + (decade - least) / (most - least) * BARS;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"#e5e7eb\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#6b7280\">{}</text>",
            HEAD - 6.0,
            height - 8.0,
            HEAD - 10.0,
            micros_text(10_f64.powf(decade))
        );
        decade += 1.0;
    }
    for (row, values) in numbers.iter().enumerate() {
        let top = HEAD + row as f64 * group;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LABELS - 8.0,
            top + group / 2.0,
            escaped(&section.label(row))
        );
        for (position, &value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let y = top + position as f64 * BAR;
            let _ = writeln!(
                svg,
                "<rect x=\"{LABELS:.0}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.0}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                width(value),
                BAR - 1.0,
                COLOURS[position % COLOURS.len()],
                LABELS + width(value) + 4.0,
                y + BAR - 2.0,
                micros_text(value)
            );
        }
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

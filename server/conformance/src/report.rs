//! Results for people, as JSON and as JUnit's XML.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use zql_spec::conformance::Outcome;

use crate::lanes::CaseResult;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table and the failures.
    Text,
    /// One object: `passed`, `failed`, `skipped`, `cases`.
    Json,
    /// XML for continuous integration.
    Junit,
}

/// The number of failures.
pub(crate) fn failures(results: &[CaseResult]) -> usize {
    results.iter().filter(|result| matches!(result.outcome, Outcome::Failed(_))).count()
}

/// The results in a format.
pub(crate) fn print(results: &[CaseResult], format: Format) -> String {
    match format {
        Format::Text => text(results),
        Format::Json => json(results).to_string(),
        Format::Junit => junit(results),
    }
}

/// Passed, failed, skipped.
fn counts<'r>(results: impl Iterator<Item = &'r CaseResult>) -> [usize; 3] {
    let mut counts = [0; 3];
    for result in results {
        counts[match result.outcome {
            Outcome::Passed => 0,
            Outcome::Failed(_) => 1,
            Outcome::Skipped(_) => 2,
        }] += 1;
    }
    counts
}

fn text(results: &[CaseResult]) -> String {
    let mut out = String::new();
    let mut by_backend: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
    for result in results {
        by_backend.entry(&result.backend).or_default().push(result);
        if let Outcome::Failed(what) = &result.outcome {
            let _ = writeln!(
                out,
                "FAILED on {}: {}.case, line {}: {}\n  {what}\n",
                result.backend, result.file, result.line, result.case
            );
        }
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "passed", "failed", "skipped", "seconds"]);
    for (backend, results) in &by_backend {
        let [passed, failed, skipped] = counts(results.iter().copied());
        let seconds: f64 = results.iter().map(|result| result.seconds).sum();
        table.add_row([
            (*backend).to_owned(),
            passed.to_string(),
            failed.to_string(),
            skipped.to_string(),
            format!("{seconds:.1}"),
        ]);
    }
    let _ = writeln!(out, "{table}");
    let mut skipped: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for result in results {
        if let Outcome::Skipped(why) = &result.outcome {
            *skipped.entry((&result.backend, why)).or_default() += 1;
        }
    }
    for ((backend, why), count) in skipped {
        let _ = writeln!(out, "{count} skipped on {backend}: {why}");
    }
    out
}

fn json(results: &[CaseResult]) -> Value {
    let [passed, failed, skipped] = counts(results.iter());
    let case = |result: &CaseResult| {
        let (outcome, message) = match &result.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(what) => ("failed", Some(what)),
            Outcome::Skipped(why) => ("skipped", Some(why)),
        };
        json!({
            "backend": result.backend,
            "file": result.file,
            "line": result.line,
            "case": result.case,
            "outcome": outcome,
            "message": message,
            "seconds": result.seconds,
        })
    };
    let cases: Vec<Value> = results.iter().map(case).collect();
    json!({"passed": passed, "failed": failed, "skipped": skipped, "cases": cases})
}

fn junit(results: &[CaseResult]) -> String {
    let [_, failed, skipped] = counts(results.iter());
    let seconds: f64 = results.iter().map(|result| result.seconds).sum();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"zql conformance\" tests=\"{}\" \
         failures=\"{failed}\" skipped=\"{skipped}\" time=\"{seconds:.3}\">\n",
        results.len()
    );
    let mut suites: BTreeMap<(&str, &str), Vec<&CaseResult>> = BTreeMap::new();
    for result in results {
        suites.entry((&result.backend, &result.file)).or_default().push(result);
    }
    for ((backend, file), results) in suites {
        let [_, failed, skipped] = counts(results.iter().copied());
        let name = escaped(&format!("{backend}.{file}"));
        let _ = writeln!(
            out,
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\">",
            results.len()
        );
        for result in results {
            let case = escaped(&result.case);
            let _ = write!(out, "    <testcase classname=\"{name}\" name=\"{case}\" time=\"{:.3}\"", result.seconds);
            let _ = match &result.outcome {
                Outcome::Passed => writeln!(out, "/>"),
                Outcome::Failed(what) => {
                    let what = escaped(what);
                    writeln!(
                        out,
                        ">\n      <failure message=\"line {}\">{what}</failure>\n    </testcase>",
                        result.line
                    )
                }
                Outcome::Skipped(why) => {
                    writeln!(out, ">\n      <skipped message=\"{}\"/>\n    </testcase>", escaped(why))
                }
            };
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// Text inside XML. Control characters, which XML cannot hold at all, become spaces.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn results() -> Vec<CaseResult> {
        let outcomes = [
            Outcome::Passed,
            Outcome::Failed("rows:\n  <\"a\">\u{0} & so on".into()),
            Outcome::Skipped("no SQL".into()),
            Outcome::Passed,
        ];
        let result = |(line, outcome)| CaseResult {
            backend: "naive".into(),
            file: "limit".into(),
            case: format!("case {line}"),
            line,
            outcome,
            seconds: 0.5,
        };
        outcomes.into_iter().enumerate().map(result).collect()
    }

    #[test]
    fn json_counts_and_lists() {
        let value: Value = serde_json::from_str(&print(&results(), Format::Json)).unwrap();
        let keys = |value: &Value| {
            let keys: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
            keys.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(keys(&value), ["cases", "failed", "passed", "skipped"]);
        assert_eq!(keys(&value["cases"][0]), ["backend", "case", "file", "line", "message", "outcome", "seconds"]);
        assert_eq!((&value["passed"], &value["failed"], &value["skipped"]), (&json!(2), &json!(1), &json!(1)));
        assert_eq!(value["cases"][1]["outcome"], "failed");
        assert_eq!(value["cases"].as_array().unwrap().len(), 4);
        assert_eq!(failures(&results()), 1);
    }

    #[test]
    fn junit_escapes() {
        let xml = print(&results(), Format::Junit);
        assert!(xml.contains("tests=\"4\" failures=\"1\" skipped=\"1\" time=\"2.000\""), "{xml}");
        assert!(xml.contains("rows:\n  &lt;&quot;a&quot;&gt;  &amp; so on</failure>"), "{xml}");
    }

    #[test]
    fn people_see_a_table_and_what_failed() {
        let text = print(&results(), Format::Text);
        assert!(text.contains("FAILED on naive: limit.case, line 1: case 1"), "{text}");
        assert!(text.contains("1 skipped on naive: no SQL"), "{text}");
    }
}

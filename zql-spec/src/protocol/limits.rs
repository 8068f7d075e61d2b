//! Checks of raw JSON text that is passed on without being looked at.
//!
//! Query arguments go to the application's API server and to Postgres as they came. Postgres refuses
//! documents that nest too deeply and cannot store U+0000; both are refused at the door instead, so that
//! one client's message cannot fail a write that is shared with other clients.

/// Deepest nesting of a passed-on document: what the parser of ASTs takes. Real arguments nest a few levels;
/// Postgres's own limit (its stack) is in the thousands.
pub(super) const MAX_RAW_DEPTH: usize = crate::json::MAX_DEPTH;

/// How deeply arrays and objects nest in valid JSON text.
pub(super) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether valid JSON text holds an escaped U+0000 or an escaped surrogate without its other half:
/// text that Postgres cannot hold.
pub(super) fn unstorable(json: &str) -> bool {
    let bytes = json.as_bytes();
    let code = |at: usize| -> Option<u16> {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match code(at) {
            Some(0) => return true,
            Some(0xD800..=0xDBFF) => match code(at + 6) {
                Some(0xDC00..=0xDFFF) => at += 12,
                _ => return true,
            },
            Some(0xDC00..=0xDFFF) => return true,
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{depth, unstorable};

    #[test]
    fn depth_ignores_brackets_in_strings() {
        for (json, expected) in [("1", 0), ("[]", 1), (r#"["[[\"[{",{"a":[1]}]"#, 3), ("[[],[]]", 2)] {
            assert_eq!(depth(json), expected, "{json}");
        }
    }

    #[test]
    fn text_that_postgres_cannot_hold() {
        for (json, expected) in [
            (r#""a\u0000""#, true),
            (r#""a\\u0000""#, false),
            (r#""\ud83d\ude00""#, false),
            (r#""\ud83d""#, true),
            (r#""\ude00""#, true),
            (r#""\u12"#, false),
        ] {
            assert_eq!(unstorable(json), expected, "{json}");
        }
    }
}

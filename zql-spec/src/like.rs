//! LIKE and ILIKE.
//!
//! `%` matches any sequence, `_` exactly one code point, `\` makes the next character literal; newlines are
//! ordinary characters and the whole text must match. ILIKE compares lower-cased text with the lower-cased
//! pattern, full Unicode, as JavaScript's `toLowerCase` does. Matching is iterative and backtracks only to
//! the last `%`, so its cost is at most text × pattern.

/// Whether the pattern ends in a lone escape character, which makes a query invalid.
pub fn ends_with_escape(pattern: &str) -> bool {
    pattern.chars().rev().take_while(|&c| c == '\\').count() % 2 == 1
}

/// Case-sensitive match.
pub fn like(text: &str, pattern: &str) -> bool {
    let pattern = parse(pattern);
    let text: Vec<char> = text.chars().collect();
    matches(&text, &pattern)
}

/// Case-insensitive match.
pub fn ilike(text: &str, pattern: &str) -> bool {
    like(&text.to_lowercase(), &pattern.to_lowercase())
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Char(char),
    One,
    Any,
}

fn parse(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '%' => Token::Any,
            '_' => Token::One,
            '\\' => Token::Char(chars.next().unwrap_or('\\')),
            c => Token::Char(c),
        });
    }
    tokens
}

fn matches(text: &[char], pattern: &[Token]) -> bool {
    let (mut t, mut p) = (0, 0);
    // Where to resume when a match fails: after the last `%`, one text character further on.
    let mut resume: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                resume = Some((t, p));
                p += 1;
            }
            Some(Token::One) => (t, p) = (t + 1, p + 1),
            Some(Token::Char(c)) if *c == text[t] => (t, p) = (t + 1, p + 1),
            _ => match resume {
                Some((at, any)) => {
                    resume = Some((at + 1, any));
                    (t, p) = (at + 1, any + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|token| *token == Token::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("foo_", "foob", true),
            ("foo_", "fooa\nbar", false),
            ("a%b", "a\nb", true),
            ("a%b", "ab", true),
            ("a%b", "z\nab", false),
            ("foo\\%", "foo%", true),
            ("foo\\%", "foobar", false),
            ("%foo\nbar%", "monkey\nfoo\nbar", true),
            ("", "", true),
            ("", "a", false),
            ("_", "😀", true),
            ("%%a", "ba", true),
            ("%a%a", "aba", true),
            ("%ab%c", "aababc", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(like(text, pattern), expected, "{text:?} LIKE {pattern:?}");
        }
        assert!(ilike("ΑΣ", "ας") && !ilike("ß", "SS") && ilike("ÉÀ%", "é%"));
        assert!(ends_with_escape("a\\") && !ends_with_escape("a\\\\") && !ends_with_escape("a"));
    }
}

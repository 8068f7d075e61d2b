//! LIKE and ILIKE.
//!
//! `%` matches any sequence, `_` exactly one code point, `\` makes the next character literal; newlines are
//! ordinary characters and the whole text must match. ILIKE compares lower-cased text with the lower-cased
//! pattern, full Unicode, as JavaScript's `toLowerCase` does. Matching is iterative and backtracks only to
//! the last `%`, so its cost is at most text × pattern. It works on the bytes of the text, and copies it only where letters
//! beyond ASCII have to be lowered.

/// Whether the pattern ends in a lone escape character, which makes a query invalid.
pub fn ends_with_escape(pattern: &str) -> bool {
    pattern.chars().rev().take_while(|&c| c == '\\').count() % 2 == 1
}

/// Case-sensitive match.
pub fn like(text: &str, pattern: &str) -> bool {
    Pattern::like(pattern).matches(text)
}

/// Case-insensitive match.
pub fn ilike(text: &str, pattern: &str) -> bool {
    Pattern::ilike(pattern).matches(text)
}

/// A pattern that many texts are matched with.
#[derive(Clone, Debug)]
pub struct Pattern {
    tokens: Vec<Token>,
    folds: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// These bytes: characters that follow each other.
    Text(Vec<u8>),
    One,
    Any,
}

impl Pattern {
    /// A pattern that tells upper from lower case.
    pub fn like(pattern: &str) -> Pattern {
        Pattern { tokens: parse(pattern), folds: false }
    }

    /// A pattern that does not.
    pub fn ilike(pattern: &str) -> Pattern {
        Pattern { tokens: parse(&pattern.to_lowercase()), folds: true }
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.matches_bytes(text.as_bytes())
    }

    /// The same of the bytes of a text.
    pub fn matches_bytes(&self, text: &[u8]) -> bool {
        match self.folds {
            false => matches::<false>(text, &self.tokens),
            true if text.is_ascii() => matches::<true>(text, &self.tokens),
            true => matches::<false>(String::from_utf8_lossy(text).to_lowercase().as_bytes(), &self.tokens),
        }
    }
}

fn parse(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '%' => {
                tokens.push(Token::Any);
                continue;
            }
            '_' => {
                tokens.push(Token::One);
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            c => c,
        };
        let bytes = c.encode_utf8(&mut [0; 4]).as_bytes().to_vec();
        match tokens.last_mut() {
            Some(Token::Text(run)) => run.extend(bytes),
            _ => tokens.push(Token::Text(bytes)),
        }
    }
    tokens
}

fn is<const FOLD: bool>(byte: u8, wanted: u8) -> bool {
    (if FOLD { byte.to_ascii_lowercase() } else { byte }) == wanted
}

fn starts<const FOLD: bool>(text: &[u8], run: &[u8]) -> bool {
    text.len() >= run.len() && text.iter().zip(run).all(|(&byte, &wanted)| is::<FOLD>(byte, wanted))
}

/// Where the run begins first. It begins with the first byte of a character, so where it is found one does too.
fn find<const FOLD: bool>(text: &[u8], run: &[u8]) -> Option<usize> {
    let last = text.len().checked_sub(run.len())?;
    (0..=last).find(|&at| is::<FOLD>(text[at], run[0]) && starts::<FOLD>(&text[at..], run))
}

/// How many bytes the character takes that begins with this one.
fn width(first: u8) -> usize {
    match first {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    }
}

fn matches<const FOLD: bool>(text: &[u8], pattern: &[Token]) -> bool {
    let (mut t, mut p) = (0, 0);
    // Where to resume when a match fails: after the last `%`, one character further on.
    let mut resume: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                p += 1;
                match pattern.get(p) {
                    None => return true,
                    Some(Token::Text(run)) => match find::<FOLD>(&text[t..], run) {
                        Some(skipped) => t += skipped,
                        None => return false,
                    },
                    Some(_) => {}
                }
                resume = Some((t, p));
            }
            Some(Token::One) => (t, p) = (t + width(text[t]), p + 1),
            Some(Token::Text(run)) if starts::<FOLD>(&text[t..], run) => (t, p) = (t + run.len(), p + 1),
            _ => {
                let Some((at, after)) = resume else { return false };
                t = at + width(text[at]);
                if let Some(Token::Text(run)) = pattern.get(after) {
                    match find::<FOLD>(&text[t..], run) {
                        Some(skipped) => t += skipped,
                        None => return false,
                    }
                }
                (resume, p) = (Some((t, after)), after);
            }
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
            ("%_é", "éé", true),
            ("%_", "é", true),
            ("%__", "é", false),
            ("%_%_%", "é😀", true),
            ("a%_b_", "aé😀b☃", true),
            ("%é_b%", "ééxb", true),
            ("%%", "", true),
            ("_%", "", false),
            ("%a\\%b%", "xa%a%bx", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(like(text, pattern), expected, "{text:?} LIKE {pattern:?}");
        }
        assert!(ilike("ΑΣ", "ας") && !ilike("ß", "SS") && ilike("ÉÀ%", "é%"));
        assert!(ends_with_escape("a\\") && !ends_with_escape("a\\\\") && !ends_with_escape("a"));
    }

    /// The meaning, character by character.
    fn plainly(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skipped| plainly(&text[skipped..], rest)),
            ['_', rest @ ..] => !text.is_empty() && plainly(&text[1..], rest),
            ['\\', c, rest @ ..] | [c, rest @ ..] => text.first() == Some(c) && plainly(&text[1..], rest),
        }
    }

    #[test]
    fn random_patterns_mean_what_they_say() {
        let mut random: u64 = 11;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % bound
        };
        let mut matched = 0;
        for _ in 0..200_000 {
            let text: String = (0..below(7)).map(|_| ['a', 'B', 'é', 'É', '😀', 'K'][below(6)]).collect();
            let pattern: String =
                (0..below(6)).map(|_| ["a", "B", "é", "😀", "%", "%", "_", "k", "\\_"][below(9)]).collect();
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            let expected = plainly(&chars(&text), &chars(&pattern));
            assert_eq!(like(&text, &pattern), expected, "{text:?} LIKE {pattern:?}");
            let lowered = plainly(&chars(&text.to_lowercase()), &chars(&pattern.to_lowercase()));
            assert_eq!(ilike(&text, &pattern), lowered, "{text:?} ILIKE {pattern:?}");
            matched += usize::from(lowered);
        }
        assert!(matched > 10_000, "{matched} matched");
    }
}

//! The allow-list of API URLs: the common part of WHATWG URL patterns.
//!
//! A pattern is a whole URL in which `*` stands for anything and `:name` for one part of a path or host
//! name. Query string and hash are not compared. Regular expressions and optional groups of the standard
//! are not understood; such a pattern matches only itself, which is to say nothing.

use reqwest::Url;

/// One entry of the allow-list.
#[derive(Debug)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Debug, PartialEq)]
enum Token {
    Literal(char),
    /// Anything.
    Any,
    /// One or more characters up to a separator.
    Part,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        // A default port or a missing path is written in full, as in the URLs that are compared.
        let normal = if text.contains(['*', '{', '('])
            || text.splitn(2, "://").any(|rest| rest.contains(':') && rest.contains("/:"))
        {
            text.to_owned()
        } else {
            Url::parse(text).map_or_else(|_| text.to_owned(), String::from)
        };
        let bare = normal.split(['?', '#']).next().unwrap_or_default();
        let mut tokens = Vec::new();
        let mut chars = bare.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' => tokens.push(Token::Any),
                '\\' => tokens.extend(chars.next().map(Token::Literal)),
                ':' if chars.peek().is_some_and(|next| next.is_alphabetic() || *next == '_') => {
                    while chars.next_if(|next| next.is_alphanumeric() || *next == '_').is_some() {}
                    tokens.push(Token::Part);
                }
                c => tokens.push(Token::Literal(c)),
            }
        }
        Pattern { tokens }
    }

    pub(super) fn matches(&self, url: &Url) -> bool {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let text: Vec<char> = url.as_str().chars().collect();
        // Which positions of the text can be reached with the tokens so far.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; text.len() + 1];
            for at in (0..=text.len()).filter(|&at| reached[at]) {
                match token {
                    Token::Literal(c) => {
                        if text.get(at) == Some(c) {
                            next[at + 1] = true;
                        }
                    }
                    Token::Any => next[at..].fill(true),
                    Token::Part => {
                        for (end, c) in text.iter().enumerate().skip(at) {
                            if matches!(c, '/' | '.' | ':') {
                                break;
                            }
                            next[end + 1] = true;
                        }
                    }
                }
            }
            reached = next;
        }
        reached[text.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns() {
        for (pattern, url, expected) in [
            ("http://a.com/q", "http://a.com/q", true),
            ("http://a.com/q", "http://a.com/q?x=1#y", true),
            ("http://a.com/q", "http://a.com/q/", false),
            ("http://a.com/q", "http://b.com/q", false),
            ("http://a.com:80", "http://a.com/", true),
            ("http://localhost:3000/q", "http://localhost:3000/q", true),
            ("http://localhost:3000/q", "http://localhost:3001/q", false),
            ("https://*.a.com/q", "https://x.a.com/q", true),
            ("https://*.a.com/q", "https://xa.com/q", false),
            ("https://a.com/*", "https://a.com/x/y", true),
            ("https://a.com/:tenant/q", "https://a.com/t1/q", true),
            ("https://a.com/:tenant/q", "https://a.com/t1/x/q", false),
            ("https://:sub.a.com/q", "https://x.a.com/q", true),
        ] {
            let url = reqwest::Url::parse(url).expect(url);
            assert_eq!(Pattern::new(pattern).matches(&url), expected, "{pattern} {url}");
        }
    }
}

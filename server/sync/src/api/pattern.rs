//! The allow-list of API URLs: WHATWG URL patterns, as the reference reads them.
//!
//! A pattern is a whole URL in which `*` stands for anything, `:name` for one part of a path or host name, `(regex)` for
//! what the expression matches and `{…}` for a group; `?`, `*` and `+` after a group make it optional or repeated. Each
//! component of a URL is matched by itself, so that a wildcard of a host name never reaches into a path. A port that is
//! not named is the default one; a path, query or hash that is not named may be any.
//!
//! A pattern is compiled once, when the server starts.

use regex::Regex;
use reqwest::Url;

/// One entry of the allow-list.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    scheme: Regex,
    host: Regex,
    port: Regex,
    path: Option<Regex>,
    query: Option<Regex>,
    hash: Option<Regex>,
}

/// A component of a URL, by what its patterns may be made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Component {
    Host,
    Path,
    /// One without parts.
    Plain,
}

impl Component {
    /// What `:name` matches.
    fn part(self) -> &'static str {
        match self {
            Component::Host => "[^.]+",
            Component::Path => "[^/]+",
            Component::Plain => ".+",
        }
    }
}

impl Pattern {
    /// Compiles a pattern; the error says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Pattern, String> {
        let (scheme, rest) = split(text, |_, rest| rest.starts_with("://")).ok_or("it is not a whole URL")?;
        let rest = &rest[3..];
        let (authority, rest) = split(rest, |before, rest| rest.starts_with(['/', '#']) || begins_query(before, rest))
            .unwrap_or((rest, ""));
        let (before_hash, hash) = split(rest, |_, rest| rest.starts_with('#')).unwrap_or((rest, ""));
        let (path, query) = match split(before_hash, begins_query) {
            Some((path, query)) => (path, Some(&query[1..])),
            None => (before_hash, None),
        };
        let scheme_text = scheme.to_ascii_lowercase();
        let (host, port) = split_port(authority);
        let default_port = matches!((&*scheme_text, port), ("http" | "ws", "80") | ("https" | "wss", "443"));
        let path = match (path, query, hash) {
            ("", None, "") => None,
            ("", ..) => Some("/"),
            (path, ..) => Some(path),
        };
        let optional = |text: Option<&str>, component| text.map(|text| compile(text, component)).transpose();
        Ok(Pattern {
            scheme: compile(&scheme_text, Component::Plain)?,
            host: compile(host, Component::Host)?,
            port: compile(if default_port { "" } else { port }, Component::Plain)?,
            path: optional(path, Component::Path)?,
            query: optional(query, Component::Plain)?,
            hash: optional(hash.strip_prefix('#'), Component::Plain)?,
        })
    }

    pub(super) fn matches(&self, url: &Url) -> bool {
        let any = |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(text));
        let port = url.port().map(|port| port.to_string()).unwrap_or_default();
        self.scheme.is_match(url.scheme())
            && self.host.is_match(url.host_str().unwrap_or_default())
            && self.port.is_match(&port)
            && any(&self.path, url.path())
            && any(&self.query, url.query().unwrap_or_default())
            && any(&self.hash, url.fragment().unwrap_or_default())
    }
}

/// Splits where `is`, told what comes before and after, holds first outside of groups and escapes.
fn split(text: &str, is: impl Fn(&str, &str) -> bool) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        if depth == 0 && is(&text[..at], &text[at..]) {
            return Some((&text[..at], &text[at..]));
        }
        match c {
            '\\' => escaped = true,
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// A question mark begins a query unless it makes the group before it optional.
fn begins_query(before: &str, rest: &str) -> bool {
    rest.starts_with('?') && !ends_with_group(before)
}

fn ends_with_group(text: &str) -> bool {
    if text.ends_with(['}', ')', '*']) && !text.ends_with("\\*") {
        return true;
    }
    let name = text.rsplit(|c: char| !is_name(c)).next().unwrap_or_default();
    !name.is_empty() && text[..text.len() - name.len()].ends_with(':') && name.starts_with(begins_name)
}

fn begins_name(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Host and port. A colon before a name begins a part of the host.
fn split_port(authority: &str) -> (&str, &str) {
    let begins_port = |_: &str, rest: &str| rest.strip_prefix(':').is_some_and(|port| !port.starts_with(begins_name));
    if let Some(end) = authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        let (host, rest) = authority.split_at(end + 2);
        return (host, rest.strip_prefix(':').unwrap_or_default());
    }
    split(authority, begins_port).map_or((authority, ""), |(host, port)| (host, &port[1..]))
}

/// A part of a component's pattern.
enum Piece {
    Literal(String),
    /// A group by its expression, with what belongs to each of its repetitions before and after it.
    Group {
        before: String,
        expression: String,
        after: String,
    },
}

fn compile(text: &str, component: Component) -> Result<Regex, String> {
    let mut expression = String::from("^");
    let mut chars = text.chars().peekable();
    // An address of version 6 is not a pattern.
    if component == Component::Host && text.starts_with('[') {
        return Regex::new(&format!("^{}$", regex::escape(text))).map_err(|error| error.to_string());
    }
    let mut literal = String::new();
    while let Some(&c) = chars.peek() {
        let piece = if c == '{' {
            chars.next();
            braces(&mut chars, component)?
        } else if let Some(expression) = group(&mut chars, component)? {
            // In a path, the slash before a group is repeated with it, or as optional as it.
            let before = match component == Component::Path && literal.ends_with('/') {
                true => literal.pop().map(String::from).unwrap_or_default(),
                false => String::new(),
            };
            Piece::Group { before, expression, after: String::new() }
        } else {
            push_literal(&mut chars, component, &mut literal)?;
            continue;
        };
        expression.push_str(&regex::escape(&std::mem::take(&mut literal)));
        let modifier = chars.next_if(|c| matches!(c, '?' | '*' | '+'));
        write(&piece, modifier, &mut expression);
    }
    expression.push_str(&regex::escape(&literal));
    expression.push('$');
    Regex::new(&expression).map_err(|error| error.to_string())
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// The inside of `{…}`: literals around one group at most.
fn braces(chars: &mut Chars<'_>, component: Component) -> Result<Piece, String> {
    let (mut before, mut expression, mut after) = (String::new(), None, String::new());
    loop {
        match chars.peek() {
            None => return Err("a { is not closed".to_owned()),
            Some('}') => break,
            Some('{') => return Err("a { stands inside another".to_owned()),
            Some(_) => {}
        }
        if expression.is_none() {
            expression = group(chars, component)?;
            if expression.is_some() {
                continue;
            }
        }
        push_literal(chars, component, if expression.is_some() { &mut after } else { &mut before })?;
    }
    chars.next();
    Ok(match expression {
        Some(expression) => Piece::Group { before, expression, after },
        None => Piece::Literal(before),
    })
}

/// A name, an expression or a wildcard, if one comes.
fn group(chars: &mut Chars<'_>, component: Component) -> Result<Option<String>, String> {
    let mut ahead = chars.clone();
    match ahead.next() {
        Some('*') => {
            chars.next();
            Ok(Some(".*".to_owned()))
        }
        Some('(') => {
            chars.next();
            parentheses(chars).map(Some)
        }
        Some(':') if ahead.next().is_some_and(begins_name) => {
            chars.next();
            while chars.next_if(|&c| is_name(c)).is_some() {}
            match chars.next_if_eq(&'(') {
                Some(_) => parentheses(chars).map(Some),
                None => Ok(Some(component.part().to_owned())),
            }
        }
        _ => Ok(None),
    }
}

/// The expression up to the parenthesis that closes it.
fn parentheses(chars: &mut Chars<'_>) -> Result<String, String> {
    let mut expression = String::new();
    let mut depth = 1;
    while let Some(c) = chars.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return match expression.is_empty() {
                true => Err("an expression is empty".to_owned()),
                false => Ok(expression),
            };
        }
        expression.push(c);
        if c == '\\' {
            expression.extend(chars.next());
        }
    }
    Err("a ( is not closed".to_owned())
}

/// The next character as one that stands for itself, as it looks in a URL.
fn push_literal(chars: &mut Chars<'_>, component: Component, literal: &mut String) -> Result<(), String> {
    let c = match chars.next() {
        Some('\\') => chars.next().ok_or("it ends with a \\")?,
        Some(c @ ('}' | ')')) => return Err(format!("a {c} closes nothing")),
        Some(c) => c,
        None => return Ok(()),
    };
    match component {
        Component::Host => literal.extend(c.to_lowercase()),
        _ if c.is_ascii() => literal.push(c),
        _ => {
            let mut bytes = [0; 4];
            let encoded = c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}"));
            literal.extend(encoded);
        }
    }
    Ok(())
}

fn write(piece: &Piece, modifier: Option<char>, out: &mut String) {
    let once = match piece {
        Piece::Literal(text) => format!("(?:{})", regex::escape(text)),
        Piece::Group { before, expression, after } => {
            let (before, after) = (regex::escape(before), regex::escape(after));
            format!("(?:{before}(?:{expression}){after})")
        }
    };
    out.push_str(&once);
    out.extend(modifier);
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    /// Seen of the library that the reference uses, but for addresses of version 6, which that refuses.
    #[test]
    fn patterns() {
        for (pattern, url, expected) in [
            ("http://a.com/q", "http://a.com/q", true),
            ("http://a.com/q", "http://a.com/q?x=1#y", true),
            ("http://a.com/q", "http://a.com/q/", false),
            ("http://a.com/q", "http://b.com/q", false),
            ("http://a.com", "http://a.com/", true),
            ("http://a.com", "http://a.com/x", true),
            ("http://a.com:80", "http://a.com/", true),
            ("http://a.com/", "http://a.com/x", false),
            ("http://a.com/q?x=1", "http://a.com/q?x=1", true),
            ("http://a.com/q?x=1", "http://a.com/q?x=2", false),
            ("http://a.com/q?x=1", "http://a.com/q", false),
            ("http://localhost:3000/q", "http://localhost:3000/q", true),
            ("http://localhost:3000/q", "http://localhost:3001/q", false),
            ("http://localhost:*/q", "http://localhost:3001/q", true),
            ("http://localhost:*/q", "http://localhost/q", true),
            ("http://localhost/q", "http://localhost:3001/q", false),
            ("https://*.a.com/q", "https://x.a.com/q", true),
            ("https://*.a.com/q", "https://xa.com/q", false),
            ("https://*.a.com/q", "https://x.y.a.com/q", true),
            ("https://*.a.com/q", "https://evil.com/.a.com/q", false),
            ("https://a.com/*", "https://a.com/x/y", true),
            ("https://a.com/*", "https://a.com/", true),
            ("https://a.com/q*", "https://a.com/qx/y", true),
            ("https://a.com/:tenant/q", "https://a.com/t1/q", true),
            ("https://a.com/:tenant/q", "https://a.com/t1/x/q", false),
            ("https://:sub.a.com/q", "https://x.a.com/q", true),
            ("https://:sub.a.com/q", "https://x.y.a.com/q", false),
            ("https://a.com/:tenant?/q", "https://a.com/q", true),
            ("https://a.com/:tenant?/q", "https://a.com/t/q", true),
            ("https://a.com/x/:id?", "https://a.com/x", true),
            ("https://a.com/x/:id?", "https://a.com/x/", false),
            ("https://a.com/x/:id?", "https://a.com/x/5", true),
            ("https://a.com/x/:id+", "https://a.com/x/5/6", true),
            ("https://a.com/x/:id+", "https://a.com/x", false),
            ("https://a.com/x/:id*", "https://a.com/x", true),
            ("https://a.com/x/:id*", "https://a.com/x/5/6", true),
            ("https://a.com/x{/y}?", "https://a.com/x", true),
            ("https://a.com/x{/y}?", "https://a.com/x/y", true),
            ("https://a.com/x{/y}?", "https://a.com/x/z", false),
            ("https://a.com/x{/:n}+/q", "https://a.com/x/1/2/q", true),
            ("https://{:sub.}?a.com/q", "https://a.com/q", true),
            ("https://{:sub.}?a.com/q", "https://s.a.com/q", true),
            (r"https://a.com/v(\d+)/q", "https://a.com/v12/q", true),
            (r"https://a.com/v(\d+)/q", "https://a.com/vx/q", false),
            (r"https://a.com/:id(\d+)", "https://a.com/12", true),
            (r"https://a.com/:id(\d+)", "https://a.com/x", false),
            ("https://a.com/(foo|bar)", "https://a.com/bar", true),
            ("https://a.com/(foo|bar)", "https://a.com/baz", false),
            ("https://(preview|main).a.com/q", "https://main.a.com/q", true),
            ("https://(preview|main).a.com/q", "https://x.a.com/q", false),
            ("http{s}?://a.com/q", "http://a.com/q", true),
            ("http{s}?://a.com/q", "https://a.com/q", true),
            ("http{s}?://a.com/q", "ftp://a.com/q", false),
            (r"https://a.com/q\?x", "https://a.com/q", false),
            ("https://A.com/q", "https://a.com/q", true),
            ("https://a.com/Q", "https://a.com/q", false),
            ("https://a.com/a%20b", "https://a.com/a%20b", true),
            ("https://a.com/é", "https://a.com/%C3%A9", true),
            ("https://a.com/x.y", "https://a.com/xzy", false),
            ("https://*/q", "https://a.com/q", true),
            ("https://*/q", "http://a.com/q", false),
            ("*://a.com/q", "http://a.com/q", true),
            ("https://a.com:443/q", "https://a.com/q", true),
            ("https://a.com:8443/:x", "https://a.com:8443/1", true),
            ("http://127.0.0.1:3000/*", "http://127.0.0.1:3000/x", true),
            ("http://[::1]:3000/q", "http://[::1]:3000/q", true),
            ("https://u:p@a.com/q", "https://u:p@a.com/q", false),
            ("https://a.com/q", "https://u:p@a.com/q", true),
            ("https://a.com/q#h", "https://a.com/q#h", true),
            ("https://a.com/q#h", "https://a.com/q#i", false),
            ("https://a.com/x-:v/q", "https://a.com/x-1/q", true),
            ("https://a.com/:a-:b", "https://a.com/1-2", true),
            ("https://a.com/*/q", "https://a.com/x/y/q", true),
        ] {
            let parsed = reqwest::Url::parse(url).expect(url);
            assert_eq!(Pattern::new(pattern).expect(pattern).matches(&parsed), expected, "{pattern} {url}");
        }
    }

    #[test]
    fn nonsense() {
        for pattern in
            ["nope", "https://a.com/(", "https://a.com/{", "https://a.com/()", "https://a.com/}", "http://a/(?<=x)"]
        {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}

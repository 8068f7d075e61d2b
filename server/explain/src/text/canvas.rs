//! Lines of coloured pieces, wrapped at a width.

/// What text is written for.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Columns.
    pub width: usize,
    /// Whether it has colours.
    pub colour: bool,
}

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    Plain,
    Dim,
    Bold,
    Good,
    Warn,
    Bad,
    Name,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Dim => "2",
            Ink::Bold => "1",
            Ink::Good => "32",
            Ink::Warn => "33",
            Ink::Bad => "31",
            Ink::Name => "1;36",
        }
    }
}

/// Text in the making.
pub(crate) struct Canvas {
    pub(super) page: Page,
    out: String,
}

/// Narrowest page that is written for; a narrower terminal wraps by itself.
const WIDTH_MIN: usize = 72;

/// Widest: longer lines are hard to read.
const WIDTH_MAX: usize = 160;

impl Canvas {
    pub(crate) fn new(page: Page) -> Canvas {
        let page = Page { width: page.width.clamp(WIDTH_MIN, WIDTH_MAX), ..page };
        Canvas { page, out: String::new() }
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }

    pub(crate) fn blank(&mut self) {
        self.out.push('\n');
    }

    /// A line of pieces.
    pub(crate) fn line<'t>(&mut self, pieces: impl IntoIterator<Item = (Ink, &'t str)>) {
        for (ink, text) in pieces {
            self.piece(ink, text);
        }
        let end = self.out.trim_end_matches(' ').len();
        self.out.truncate(end);
        self.out.push('\n');
    }

    fn piece(&mut self, ink: Ink, text: &str) {
        if self.page.colour && !ink.code().is_empty() && !text.is_empty() {
            self.out.push_str(&format!("\x1b[{}m{text}\x1b[0m", ink.code()));
        } else {
            self.out.push_str(text);
        }
    }

    /// A text that is wrapped; every line begins with `indent`.
    pub(crate) fn wrapped(&mut self, indent: &str, ink: Ink, text: &str) {
        for line in wrap(text, self.page.width.saturating_sub(indent.chars().count())) {
            self.line([(Ink::Dim, indent), (ink, &line)]);
        }
    }

    /// The title of a part, and a word on it at the right.
    pub(crate) fn title(&mut self, title: &str, beside: &str) {
        self.blank();
        let rest = self.page.width.saturating_sub(title.chars().count() + beside.chars().count() + 4);
        let rule = "─".repeat(rest.max(2));
        self.line([(Ink::Bold, title), (Ink::Dim, " "), (Ink::Dim, &rule), (Ink::Dim, " "), (Ink::Dim, beside)]);
    }
}

/// Breaks a text at spaces. A word that is too long stands alone.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(24);
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let of_word = word.chars().count();
        if length > 0 && length + 1 + of_word > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += of_word;
    }
    lines.push(line);
    lines
}

/// A query; one that is longer than a line has each of its calls on a line of its own.
pub(crate) fn zql(canvas: &mut Canvas, text: &str) {
    if text.chars().count() <= canvas.page.width {
        canvas.line([(Ink::Bold, text)]);
        return;
    }
    let (mut depth, mut begin, mut quote, mut escaped) = (0_usize, 0, None, false);
    let mut lines: Vec<&str> = Vec::new();
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '{' | '[') => depth += 1,
            (None, ')' | '}' | ']') => depth = depth.saturating_sub(1),
            (None, '.') if depth == 0 && text[begin..at].contains('(') => {
                lines.push(&text[begin..at]);
                begin = at;
            }
            (None, _) => {}
        }
    }
    lines.push(&text[begin..]);
    for (number, line) in lines.into_iter().enumerate() {
        canvas.wrapped(if number == 0 { "" } else { "  " }, Ink::Bold, line);
    }
}

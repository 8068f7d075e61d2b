//! What moves in a terminal while servers start and cases run, and is gone when they have.
//!
//! It goes to the standard error, and nowhere when that is no terminal or when a program reads the results.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::Format;

/// How often the sign that something is being started moves.
const TICK: Duration = Duration::from_millis(100);

/// Where it is drawn: on the standard error, which hides it by itself when it is no terminal.
pub(crate) fn target(format: Format) -> ProgressDrawTarget {
    watched(format, ProgressDrawTarget::stderr())
}

fn watched(format: Format, terminal: ProgressDrawTarget) -> ProgressDrawTarget {
    match format {
        Format::Text => terminal,
        Format::Json | Format::Junit => ProgressDrawTarget::hidden(),
    }
}

/// A sign that moves while servers start, which takes seconds; its message says which.
pub(crate) fn starting(target: ProgressDrawTarget) -> ProgressBar {
    let starting = ProgressBar::new_spinner();
    starting.set_draw_target(target);
    starting.enable_steady_tick(TICK);
    starting
}

/// How much of what there is to do is done; `what` is what is counted.
pub(crate) fn running(target: ProgressDrawTarget, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}  {elapsed}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    // Drawn when the length is known: none of nothing would be shown as all of it.
    ProgressBar::with_draw_target(Some(0), target).with_style(style).with_message(what)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps what it was told.
    #[derive(Clone, Debug, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl Told {
        fn tell(&self, what: impl Into<String>) -> io::Result<()> {
            self.0.lock().unwrap().push(what.into());
            Ok(())
        }

        fn has(&self, text: &str) -> bool {
            self.0.lock().unwrap().iter().any(|told| told.contains(text))
        }

        fn target(&self) -> ProgressDrawTarget {
            ProgressDrawTarget::term_like(Box::new(self.clone()))
        }
    }

    impl TermLike for Told {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.tell(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.tell(text)
        }

        fn clear_line(&self) -> io::Result<()> {
            self.tell(CLEARED)
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    const CLEARED: &str = "a line is cleared";

    #[test]
    fn a_terminal_shows_what_is_started_until_it_is() {
        let terminal = Told::default();
        let starting = starting(terminal.target());
        starting.set_message("zql is started (2 of 3)");
        assert!(terminal.has("zql is started (2 of 3)"), "{terminal:?}");
        assert!(!starting.is_hidden());
        starting.finish_and_clear();
        assert_eq!(terminal.0.lock().unwrap().last().map(String::as_str), Some(CLEARED), "{terminal:?}");
    }

    #[test]
    fn a_terminal_shows_how_many_cases_are_done() {
        let terminal = Told::default();
        let running = running(terminal.target(), "cases");
        running.set_length(4);
        running.inc(1);
        // A quarter of the bar.
        assert!(terminal.has(&format!("{}{} 1/4 cases", "█".repeat(10), "░".repeat(30))), "{terminal:?}");
        assert!(!terminal.has("0/0"), "{terminal:?}");
        running.finish_and_clear();
        assert_eq!(terminal.0.lock().unwrap().last().map(String::as_str), Some(CLEARED), "{terminal:?}");
    }

    #[test]
    fn only_people_are_shown_it() {
        for (format, hidden) in [(Format::Text, false), (Format::Json, true), (Format::Junit, true)] {
            assert_eq!(watched(format, Told::default().target()).is_hidden(), hidden, "{format:?}");
        }
    }
}

//! Showing text that a stranger wrote.

use std::fmt;

use super::Prompt;

/// Displays foreign text on one line and without power over the terminal: control characters,
/// line and paragraph separators, and every character that reorders or hides its neighbours are
/// shown as `\u{..}`, and the text is cut.
pub struct Untrusted<'a> {
    text: &'a str,
    max_chars: usize,
    image_bytes: Option<usize>,
}

impl<'a> Untrusted<'a> {
    /// Characters of a prompt that a log line shows (answers.md, "The three log lines").
    pub const LOG_CHARS: usize = 100;

    /// Characters of an error that a log line shows. Errors quote what strangers wrote.
    pub const ERROR_CHARS: usize = 400;

    pub fn new(text: &'a str) -> Self {
        Self { text, max_chars: Self::LOG_CHARS, image_bytes: None }
    }

    /// An error's text for a log line: its quotations are the stranger's, and as long as he likes.
    pub fn error(text: &'a str) -> Self {
        Self { max_chars: Self::ERROR_CHARS, ..Self::new(text) }
    }

    /// A prompt for a log line; image data is replaced by its size.
    pub fn prompt(prompt: &'a Prompt) -> Self {
        match prompt {
            Prompt::Text(text) | Prompt::Other(text) => Self::new(text),
            Prompt::Image(data) => Self { image_bytes: Some(data.len()), ..Self::new("") },
        }
    }
}

fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, zero-width and direction marks, separators,
            // embeddings, overrides, isolates, invisible operators, byte order mark, tags; fillers and
            // joiners that show as nothing.
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bytes) = self.image_bytes {
            return write!(f, "image, {bytes} base64 characters");
        }
        for (shown, c) in self.text.chars().enumerate() {
            if shown == self.max_chars {
                return f.write_str("...");
            }
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_unsafe_to_show(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_direction_overrides_are_shown_as_text() {
        let shown = Untrusted::new("a\u{1b}[2Jb\n\u{202e}c\u{2066}\u{9b}d").to_string();
        assert_eq!(shown, "a\\u{1b}[2Jb\\n\\u{202e}c\\u{2066}\\u{9b}d");
        assert_eq!(Untrusted::new("ein grüner Würfel 立方体").to_string(), "ein grüner Würfel 立方体");
    }

    #[test]
    fn long_text_is_cut_by_characters() {
        let shown = Untrusted::new(&"é".repeat(5_000_000)).to_string();
        assert_eq!(shown.chars().count(), 103);
    }

    #[test]
    fn an_error_is_cut_later_and_escaped_alike() {
        let shown = Untrusted::error(&"\u{1b}".repeat(1_000)).to_string();
        assert_eq!(shown, "\\u{1b}".repeat(400) + "...");
    }

    #[test]
    fn image_data_is_not_shown() {
        let prompt = Prompt::Image("iVBORw0KGgo".into());
        assert_eq!(Untrusted::prompt(&prompt).to_string(), "image, 11 base64 characters");
    }
}

//! What a worker's process writes: into a bounded log file, without secrets.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::primitives::ByteSize;

/// Longer lines are cut.
const LONGEST_LINE: usize = 4_096;

/// Lines kept for messages.
const LAST_LINES: usize = 5;

/// Takes secrets out of lines.
#[derive(Clone, Default)]
pub(super) struct Scrubber {
    known: Vec<String>,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scrubber")
    }
}

/// Names of what is secret, in variables and fields.
const SECRET_NAMES: &[&str] =
    &["token", "secret", "password", "passwd", "api_key", "apikey", "api-key", "access_key", "authorization"];

/// Beginnings of what is secret wherever it stands.
const SECRET_WORDS: &[&str] = &["hf_", "sk-", "ghp_", "github_pat_", "xoxb-", "AKIA"];

/// Addresses whose paths let anybody in.
const SECRET_PATHS: &[&str] = &["/api/webhooks/", "hooks.slack.com/", "api.telegram.org/bot"];

const HIDDEN: &str = "***";

impl Scrubber {
    /// Variables that are secret by their names are taken out wherever their values appear.
    pub(super) fn new<'a>(environment: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let is_secret = |name: &str| {
            let name = name.to_ascii_lowercase();
            SECRET_NAMES.iter().any(|word| name.contains(word))
                || ["key", "webhook", "credential", "pw"].iter().any(|word| name.contains(word))
        };
        let named = environment.into_iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
        // A short value is in every other line.
        Self { known: named.filter(|value| value.len() >= 4).cloned().collect() }
    }

    pub(super) fn scrub(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in &self.known {
            line = line.replace(secret, HIDDEN);
        }
        for path in SECRET_PATHS {
            line = hide_after(line, path, |_| true);
        }
        for word in SECRET_WORDS {
            line = hide_words(&line, word);
        }
        line = hide_bearers(line);
        line = hide_named(line);
        hide_logins(line)
    }
}

fn ends_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | ')' | '}' | ']' | '<' | '>')
}

/// Hides what follows a mark, up to the end of the word, everywhere.
fn hide_after(line: String, mark: &str, holds: impl Fn(&str) -> bool) -> String {
    let mut done = String::new();
    let mut rest = line.as_str();
    while let Some(at) = rest.find(mark) {
        let (before, after) = rest.split_at(at + mark.len());
        let end = after.find(ends_value).unwrap_or(after.len());
        done.push_str(before);
        done.push_str(if end > 0 && holds(&after[..end]) { HIDDEN } else { &after[..end] });
        rest = &after[end..];
    }
    done + rest
}

/// Hides words that begin so and are long enough to be keys.
fn hide_words(line: &str, beginning: &str) -> String {
    let mut done = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(beginning) {
        let (before, word) = rest.split_at(at);
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let end = word.find(|c| !inside(c)).unwrap_or(word.len());
        let starts = !before.chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric());
        done.push_str(before);
        done.push_str(if starts && end >= 16 { HIDDEN } else { &word[..end] });
        rest = &word[end..];
    }
    done + rest
}

fn hide_bearers(line: String) -> String {
    let lower = line.to_ascii_lowercase();
    for scheme in ["bearer ", "basic "] {
        if let Some(at) = lower.find(scheme) {
            let (before, after) = line.split_at(at + scheme.len());
            let end = after.find(ends_value).unwrap_or(after.len());
            if end >= 8 {
                return format!("{before}{HIDDEN}{}", &after[end..]);
            }
        }
    }
    line
}

/// Hides `token=...`, `"password": "..."` and the like.
fn hide_named(line: String) -> String {
    let mut line = line;
    for name in SECRET_NAMES {
        let mut from = 0;
        while let Some(found) = line.get(from..).and_then(|rest| rest.to_ascii_lowercase().find(name)) {
            let after = from + found + name.len();
            from = after;
            let Some(rest) = line.get(after..) else { break };
            // The name's own end, as in `token_id=`, and what stands between it and the value.
            let name_end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let between = &rest[name_end..];
            let value = between.trim_start_matches(['"', '\'', ' ', '=', ':']);
            let gap = &between[..between.len() - value.len()];
            let end = value.find(ends_value).unwrap_or(value.len());
            if end == 0 || !gap.contains(['=', ':']) {
                continue;
            }
            let begin = after + name_end + gap.len();
            line.replace_range(begin..begin + end, HIDDEN);
            from = begin + HIDDEN.len();
        }
    }
    line
}

/// Hides `//user:password@`.
fn hide_logins(line: String) -> String {
    let mut done = String::new();
    let mut rest = line.as_str();
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let end = after.find(|c: char| ends_value(c) || matches!(c, '/' | '?' | '#')).unwrap_or(after.len());
        done.push_str(before);
        match after[..end].rfind('@') {
            Some(login) => {
                done.push_str(HIDDEN);
                done.push_str(&after[login..end]);
            }
            None => done.push_str(&after[..end]),
        }
        rest = &after[end..];
    }
    done + rest
}

/// The last lines, for messages.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Its last line that says something.
    pub(super) fn last(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find(|line| !line.trim().is_empty()).cloned()
    }
}

/// A log file beside which one older one is kept.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    limit: u64,
    size: u64,
    /// Nothing after a failure: lines are dropped then, and it is tried again with the next.
    file: Option<File>,
}

impl LogFile {
    fn new(path: PathBuf, limit: ByteSize) -> Self {
        Self { path, limit: limit.0, size: 0, file: None }
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        if self.size + text.len() as u64 > self.limit && self.size > 0 {
            self.file = None;
            fs::rename(&self.path, older(&self.path)).await?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path).await?;
                self.size = file.metadata().await?.len();
                empty.insert(file)
            }
        };
        file.write_all(text.as_bytes()).await?;
        file.flush().await?;
        self.size += text.len() as u64;
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Bytes that are not yet a line.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    cut: bool,
}

impl Pending {
    /// Takes bytes in and gives the lines that they complete. Progress bars end theirs with `\r`.
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                if !self.bytes.is_empty() {
                    line(&self.bytes, self.cut);
                }
                self.bytes.clear();
                self.cut = false;
            } else if self.bytes.len() < LONGEST_LINE {
                self.bytes.push(*byte);
            } else {
                self.cut = true;
            }
        }
    }
}

/// Where a process's output goes.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub(super) path: PathBuf,
    pub(super) limit: ByteSize,
    pub(super) scrubber: Scrubber,
    pub(super) last: LastLines,
}

/// Copies both streams until they end. Nothing that happens to the file makes the process wait.
pub(super) async fn drain(mut out: impl AsyncRead + Unpin, mut err: impl AsyncRead + Unpin, to: Destination) {
    let mut file = LogFile::new(to.path, to.limit);
    let (mut first, mut second) = (Pending::default(), Pending::default());
    let (mut first_bytes, mut second_bytes) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let (mut first_open, mut second_open) = (true, true);
    let mut warned = false;
    while first_open || second_open {
        let (pending, bytes) = tokio::select! {
            read = out.read(&mut first_bytes), if first_open => match read {
                Ok(count) if count > 0 => (&mut first, &first_bytes[..count]),
                _ => { first_open = false; (&mut first, &b"\n"[..]) }
            },
            read = err.read(&mut second_bytes), if second_open => match read {
                Ok(count) if count > 0 => (&mut second, &second_bytes[..count]),
                _ => { second_open = false; (&mut second, &b"\n"[..]) }
            },
        };
        let mut text = String::new();
        pending.take(bytes, |line, cut| {
            let line = to.scrubber.scrub(&shown(line));
            to.last.push(&line);
            text.push_str(&line);
            text.push_str(if cut { " [cut]\n" } else { "\n" });
        });
        if text.is_empty() {
            continue;
        }
        if let Err(error) = file.write(&text).await {
            file.file = None;
            if !warned {
                tracing::warn!(file = %file.path.display(), %error, "A worker's output cannot be written down");
            }
            warned = true;
        }
    }
}

/// A line as it may be shown in a terminal.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub(line: &str) -> String {
        let environment =
            [("MY_KEY".to_owned(), "abcdef".to_owned()), ("MODE".to_owned(), "fast".to_owned())];
        Scrubber::new(environment.iter().map(|(name, value)| (name, value))).scrub(line)
    }

    #[test]
    fn secrets_are_taken_out_of_lines() {
        for (line, shown) in [
            ("loading with abcdef now, fast", "loading with *** now, fast"),
            ("HF_TOKEN=hf_x1 loaded", "HF_TOKEN=*** loaded"),
            (r#"{"password": "hunter2", "n": 1}"#, r#"{"password": "***", "n": 1}"#),
            ("token: abc token=def", "token: *** token=***"),
            ("Authorization: Bearer abcdefgh12345", "Authorization: *** ***"),
            ("sent bearer abcdefgh12345", "sent bearer ***"),
            ("hf_zyxwvutsrqponmlkjihg is used", "*** is used"),
            ("hf_hub is used", "hf_hub is used"),
            (
                "POST https://discord.com/api/webhooks/12/ab-c done",
                "POST https://discord.com/api/webhooks/*** done",
            ),
            ("via http://me:pw@proxy:3128/x", "via http://***@proxy:3128/x"),
            ("tokens per second: 12", "tokens per second: 12"),
            ("token", "token"),
            ("Total time: 13.26s", "Total time: 13.26s"),
        ] {
            let scrubbed = scrub(line);
            // The bearer of the header goes with the field.
            assert!(scrubbed == shown || scrubbed == shown.replace("*** ***", "***"), "{line}: {scrubbed}");
        }
    }

    #[test]
    fn any_line_can_be_scrubbed() {
        for line in ["", "=", "tokenß=ß", "password=\u{1f980}x", "://@", "İtoken=x", "a://b@c://d@e"] {
            scrub(line);
        }
        assert_eq!(shown(b"\x1b[31mred\x07\xff"), "\\u{1b}[31mred\\u{7}\u{fffd}");
    }

    #[tokio::test]
    async fn lines_and_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        let to = Destination {
            path: path.clone(),
            limit: ByteSize(64 << 10),
            scrubber: Scrubber::default(),
            last: LastLines::default(),
        };
        let mut text = format!("{}\n", "x".repeat(100_000));
        for n in 0..20_000 {
            text += &format!("line {n}\r\n");
        }
        drain(text.as_bytes(), &b"and the error"[..], to.clone()).await;
        let (now, before) = (std::fs::read(&path).unwrap(), std::fs::read(older(&path)).unwrap());
        assert!(now.len() <= 64 << 10 && before.len() <= 64 << 10);
        assert!(String::from_utf8(now).unwrap().contains("line 19999\n"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(to.last.last().unwrap().starts_with("line") || to.last.last().unwrap() == "and the error");

        let long = Destination { path: dir.path().join("long.log"), ..to };
        drain(&b"y".repeat(50_000)[..], &b""[..], long.clone()).await;
        let written = std::fs::read_to_string(&long.path).unwrap();
        assert_eq!(written, format!("{} [cut]\n", "y".repeat(LONGEST_LINE)));
    }
}

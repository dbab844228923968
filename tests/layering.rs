//! Checks the layer table of the design against the sources: a module uses only rows below its own.
//!
//! The sources are read as text, so that code behind a `cfg` counts as well. Comments, strings and what stands under
//! `#[cfg(test)]`, files included, do not: tests may reach anywhere. Paths count that start with `crate`, with
//! `sn17_miner`, or with enough `super` to reach the root. What it cannot see is a path put together by a macro.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down; modules in one row are siblings and do not see each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["sim"],
    &["app", "devnet"],
    &["api"],
    &["config"],
    &["mining"],
    &["gpu"],
    &["dendrite", "store"],
    &["chain", "protocol", "workers"],
    &["wallet", "splat", "net"],
    &["telemetry"],
    &["clock"],
    &["primitives"],
];

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

#[test]
fn every_module_uses_only_the_rows_below_its_own() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeMap<PathBuf, String> = rust_files(&src)
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(src.join(&file)).unwrap();
            (file, text)
        })
        .collect();
    let for_tests: Vec<PathBuf> = files.iter().flat_map(|(file, text)| test_files(file, text)).collect();

    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (file, text) in &files {
        if for_tests.iter().any(|test| file.starts_with(test)) {
            continue;
        }
        let found = violations(file, text);
        problems.extend(found.into_iter().map(|problem| format!("src/{}: {problem}", file.display())));
        seen.insert(module_path(file).swap_remove(0));
    }
    for module in declared_modules(&files[Path::new("lib.rs")]) {
        if row(&module).is_none() {
            problems.push(format!("src/lib.rs: module `{module}` is in no row of the layer table"));
        }
        if !seen.contains(&module) {
            problems.push(format!("src/lib.rs: module `{module}` has no file"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn no_module_stands_in_two_rows() {
    let mut rows = BTreeMap::new();
    for (index, row) in LAYERS.iter().enumerate() {
        for module in *row {
            assert_eq!(rows.insert(module, index), None, "{module}");
        }
    }
}

/// What is wrong with the paths in a file, named as below `src`.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let path = module_path(file);
    let module = path[0].as_str();
    if module == "lib" {
        return Vec::new();
    }
    let Some(own) = row(module) else {
        return vec![format!("module `{module}` is in no row of the layer table")];
    };
    let code = without_tests(&strip(text));
    let mut problems = Vec::new();
    for used in used_modules(&code, path.len()) {
        match row(&used) {
            _ if used == module => {}
            Some(below) if below > own => {}
            Some(beside) if beside == own => problems.push(format!("`{module}` uses its sibling `{used}`")),
            Some(_) => problems.push(format!("`{module}` uses `{used}`, which stands above it")),
            None => problems
                .push(format!("`{module}` uses `crate::{used}`, which is in no row of the layer table")),
        }
    }
    problems
}

fn rust_files(src: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(src).unwrap().to_owned());
            }
        }
    }
    files
}

/// `net/endpoint.rs` is `[net, endpoint]`, `net/mod.rs` is `[net]`.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

/// The files, or folders of files, that this one declares under `#[cfg(test)]`.
fn test_files(file: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") => file.parent().unwrap().to_owned(),
        _ => file.with_extension(""),
    };
    split_tests(&strip(text))
        .1
        .iter()
        .flat_map(|item| declared_modules(item))
        .flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(name)])
        .collect()
}

fn declared_modules(lib: &str) -> Vec<String> {
    let tokens = tokens(&strip(lib));
    tokens
        .windows(3)
        .filter(|three| three[0] == "mod" && matches!(three[2].as_str(), ";" | "{"))
        .map(|three| three[1].clone())
        .collect()
}

/// The first segments of all paths that start at the root of the crate, in a file whose module is `depth` below it.
fn used_modules(code: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(code);
    let is = |at: usize, wanted: &str| tokens.get(at).is_some_and(|token| token == wanted);
    let mut used = BTreeSet::new();
    // Of each open brace, whether it is a module's.
    let mut braces = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => braces.push(at >= 2 && is(at - 2, "mod")),
            "}" => {
                braces.pop();
            }
            "crate" | "sn17_miner" if is(at + 1, "::") => first_segments(&tokens[at + 2..], &mut used),
            "super" if at < 2 || !is(at - 2, "super") => {
                let mut climbed = 0;
                while is(at + 2 * climbed, "super") && is(at + 2 * climbed + 1, "::") {
                    climbed += 1;
                }
                let inline = braces.iter().filter(|&&module| module).count();
                if climbed >= depth + inline {
                    first_segments(&tokens[at + 2 * climbed..], &mut used);
                }
            }
            _ => {}
        }
    }
    used
}

/// Reads `name…` or the heads of `{a::b, c, self}` behind `crate::`.
fn first_segments(rest: &[String], used: &mut BTreeSet<String>) {
    if rest.first().is_none_or(|token| token != "{") {
        used.extend(rest.first().cloned());
        return;
    }
    let mut depth = 0;
    let mut at_head = false;
    for token in rest {
        match token.as_str() {
            "{" => {
                depth += 1;
                at_head = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
            "," => at_head = depth == 1,
            name => {
                if at_head && name != "self" {
                    used.insert(name.to_owned());
                }
                at_head = false;
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words, `::`, and every other visible character by itself. Raw identifiers lose their `r#`.
fn tokens(code: &str) -> Vec<String> {
    let code = code.replace("r#", "");
    let mut tokens = Vec::new();
    let mut rest = code.as_str();
    while let Some(c) = rest.chars().next() {
        let length = if is_word(c) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            tokens.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

fn without_tests(code: &str) -> String {
    split_tests(code).0
}

/// Takes every item under `#[cfg(test)]` out, up to its closing brace or its semicolon. Expects stripped code.
fn split_tests(code: &str) -> (String, Vec<&str>) {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::new();
    let mut taken = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let mut depth = 0_usize;
        let mut end = rest.len();
        for (offset, c) in rest.char_indices() {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && matches!(c, ';' | '}') {
                end = offset + c.len_utf8();
                break;
            }
        }
        taken.push(&rest[..end]);
        rest = &rest[end..];
    }
    kept.push_str(rest);
    (kept, taken)
}

/// Replaces comments and the insides of string and character literals by blanks.
fn strip(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if c == '"' {
            escaped_literal(rest, '"')
        } else if let Some(length) = raw_string(rest).filter(|_| !after_word) {
            length
        } else if c == '\'' && is_character(rest) {
            escaped_literal(rest, '\'')
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[length..];
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a literal that begins and ends with `quote` and knows the backslash.
fn escaped_literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br#"…"#` and so on at the start of the text.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].bytes().take_while(|&byte| byte == b'#').count();
    let open = prefix.len() + hashes;
    if !text[open..].starts_with('"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let body = open + 1;
    Some(text[body..].find(&close).map_or(text.len(), |at| body + at + close.len()))
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || chars.next() == Some('\'')
}

#[cfg(test)]
mod extractor {
    use super::*;

    fn used(text: &str) -> Vec<String> {
        used_modules(&without_tests(&strip(text)), 1).into_iter().collect()
    }

    fn violations(module: &str, text: &str) -> Vec<String> {
        super::violations(&Path::new(module).join("part.rs"), text)
    }

    #[test]
    fn a_path_upwards_is_a_violation() {
        let text = "use crate::mining::Roster;\n";
        assert_eq!(violations("store", text), ["`store` uses `mining`, which stands above it"]);
        assert!(violations("config", text).is_empty());
        assert!(violations("mining", text).is_empty());
    }

    #[test]
    fn siblings_do_not_see_each_other() {
        assert_eq!(
            violations("protocol", "fn f(_: crate::workers::Health) {}"),
            ["`protocol` uses its sibling `workers`"]
        );
        assert_eq!(violations("app", "use crate::devnet::Devnet;"), ["`app` uses its sibling `devnet`"]);
    }

    #[test]
    fn unknown_modules_are_a_violation_on_both_sides() {
        assert_eq!(violations("junk", ""), ["module `junk` is in no row of the layer table"]);
        assert_eq!(
            violations("net", "use crate::junk::Drawer;"),
            ["`net` uses `crate::junk`, which is in no row of the layer table"]
        );
        assert_eq!(violations("net", "use crate::*;").len(), 1);
    }

    #[test]
    fn the_binary_is_checked_by_its_own_path() {
        assert_eq!(used("fn main() { sn17_miner::cli::main() }"), ["cli"]);
        assert_eq!(violations("cli", "use sn17_miner::main::x;").len(), 1);
    }

    #[test]
    fn nested_imports_count_by_their_heads() {
        let text =
            "pub(crate) use crate::{self, net::{Endpoint, chain}, clock, r#splat::{a::b, c},};\nuse std::fs;";
        assert_eq!(used(text), ["clock", "net", "splat"]);
    }

    #[test]
    fn paths_in_expressions_types_and_macros_count() {
        let text = "
            impl From<crate::net::Error> for E {}
            fn f() -> Vec<crate :: clock::Clock> { vec![crate::wallet::sign::<u8>()] }
            macro_rules! m { () => { $crate::store::Store } }
        ";
        assert_eq!(used(text), ["clock", "net", "store", "wallet"]);
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let text = r##"
            //! [`crate::app`]
            /* crate::app /* crate::sim */ crate::app */
            const A: &str = "\"crate::app";
            const B: &str = r#""crate::app"#;
            const C: char = '"'; fn f<'a>(_: &'a crate::clock::Clock) {}
            const D: &[u8] = br"\"; use crate::net;
            #[cfg(test)]
            use crate::app;
            #[cfg(test)]
            mod tests { use crate::sim::Scenario; fn f() { if true {} } }
            #[cfg(test)]
            mod more;
            use crate::primitives::Uid;
        "##;
        assert_eq!(used(text), ["clock", "net", "primitives"]);
    }

    #[test]
    fn climbing_to_the_root_counts() {
        let climbs = |file: &str, text: &str| super::violations(Path::new(file), text).len();
        assert_eq!(climbs("clock.rs", "use super::net::Endpoint;"), 1);
        assert_eq!(climbs("net/mod.rs", "use super::chain::Metagraph;"), 1);
        assert_eq!(climbs("net/part.rs", "use super::chain::Metagraph;"), 0);
        assert_eq!(climbs("net/part.rs", "use super::super::{chain::Metagraph, clock};"), 1);
        assert_eq!(climbs("clock.rs", "pub mod inner { use super::net; } fn f() { super::net::f() }"), 1);
        assert_eq!(climbs("clock.rs", "pub(super) mod inner { use super::super::net; }"), 1);
    }

    #[test]
    fn files_declared_for_tests_are_left_out() {
        let text = "#[cfg(test)]\nmod tests;\nmod part; #[cfg(test)] fn f(_: [u8; 2]) {} #[cfg(test)] mod inline { }";
        let found = test_files(Path::new("net/mod.rs"), text);
        assert!(
            found.contains(&PathBuf::from("net/tests.rs")) && found.contains(&PathBuf::from("net/tests"))
        );
        assert!(!found.iter().any(|file| file.ends_with("part.rs")));
        assert_eq!(test_files(Path::new("clock.rs"), text)[0], Path::new("clock/tests.rs"));
        assert_eq!(
            used("#[cfg(test)] fn f(_: [u8; 2]) { crate::app::x() } use crate::net::Endpoint;"),
            ["net"]
        );
    }

    #[test]
    fn modules_are_read_from_the_library_root() {
        let lib = "#![forbid(unsafe_code)]\npub mod net;\n// mod gone;\nmod wallet { }\n#[cfg(test)] mod x;";
        assert_eq!(declared_modules(lib), ["net", "wallet", "x"]);
    }
}

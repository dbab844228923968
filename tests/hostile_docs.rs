//! `docs/hostile.md` names a test for each bad input, and each of those tests exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The tests named in the last column of the table, as (file, function), with the row's input.
fn documented() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(root().join("docs/hostile.md")).unwrap();
    let mut found = Vec::new();
    let (_, inputs) = text.split_once("## Inputs").expect("the section of the table");
    for row in inputs.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "four cells: {row}");
        if cells[0] == "Bad input" || cells[0].starts_with("---") {
            continue;
        }
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
        let tests: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "a row without test: {row}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("`file::test`, not {test}"));
            found.push((file.to_owned(), name.to_owned(), cells[0].to_owned()));
        }
    }
    found
}

/// Functions marked as tests in a source file, those inside `proptest!` included.
fn tests_in(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut found = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if marked && let Some((_, name)) = line.split_once("fn ") {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            found.insert(name[..end].to_owned());
            marked = false;
        }
    }
    found
}

#[test]
fn every_named_test_exists() {
    let mut files = BTreeMap::new();
    let documented = documented();
    assert!(documented.len() > 50, "{} tests in the table", documented.len());
    for (file, name, input) in documented {
        let path = root().join(&file);
        assert!(path.exists(), "{file} of row {input:?} does not exist");
        let tests = files.entry(file.clone()).or_insert_with(|| tests_in(&path));
        assert!(tests.contains(&name), "{file} has no test {name} (row {input:?})");
    }
}

#[test]
fn every_hostile_test_is_in_the_table() {
    let named: BTreeSet<_> = documented().into_iter().map(|(file, name, _)| (file, name)).collect();
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !file.starts_with("hostile_") || !file.ends_with(".rs") || file == "hostile_docs.rs" {
            continue;
        }
        for test in tests_in(&path) {
            let place = (format!("tests/{file}"), test);
            if !named.contains(&place) {
                missing.push(place);
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/hostile.md: {missing:#?}");
}

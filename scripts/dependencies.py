#!/usr/bin/env python3
"""Checks Cargo.lock against deny.toml where cargo-deny is not installed: licences, banned crates, sources.

Reads only what deny.toml uses today and refuses a key it does not know, so that a new rule cannot be ignored.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KNOWN = {
    "graph": {"all-features"},
    "licenses": {"allow", "exceptions", "unused-allowed-license"},
    "bans": {"multiple-versions", "wildcards", "allow-wildcard-paths", "deny"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry"},
}


def permitted(expression: str, allowed: set[str], used: set[str]) -> bool:
    """Evaluates an SPDX expression; the old `A/B` means `A OR B`, and a `WITH` exception only adds freedom."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def term() -> bool:
        token = tokens.pop(0)
        if token == "(":
            value = choice()
            if not tokens or tokens.pop(0) != ")":
                raise ValueError(expression)
            return value
        if token in (")", "OR", "AND", "WITH"):
            raise ValueError(expression)
        if tokens[:1] == ["WITH"]:
            del tokens[:2]
        if token in allowed:
            used.add(token)
        return token in allowed

    def both() -> bool:
        value = term()
        while tokens[:1] == ["AND"]:
            tokens.pop(0)
            value = term() and value
        return value

    def choice() -> bool:
        value = both()
        while tokens[:1] == ["OR"]:
            tokens.pop(0)
            value = both() or value
        return value

    value = choice()
    if tokens:
        raise ValueError(expression)
    return value


def check(rules: dict[str, Any], packages: list[dict[str, Any]]) -> list[str]:
    problems = []
    for section, keys in KNOWN.items():
        if unknown := set(rules[section]) - keys:
            problems.append(f"deny.toml: [{section}] {sorted(unknown)} is not known to this check")

    allow = set(rules["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in rules["licenses"]["exceptions"]}
    banned = {entry["crate"]: entry["reason"] for entry in rules["bans"]["deny"]}
    registries = {f"registry+{address}" for address in rules["sources"]["allow-registry"]}
    used: set[str] = set()
    names = {package["name"] for package in packages}

    for package in packages:
        name = f"{package['name']} {package['version']}"
        try:
            if not package["license"]:
                problems.append(f"{name}: names no licence")
            elif not permitted(package["license"], allow | exceptions.get(package["name"], set()), used):
                problems.append(f"{name}: licence {package['license']}")
        except (ValueError, IndexError):
            problems.append(f"{name}: cannot read the licence {package['license']!r}")
        if package["name"] in banned:
            problems.append(f"{name}: banned, {banned[package['name']]}")
        if package["source"] is None:
            for dependency in package["dependencies"]:
                if dependency["req"] == "*" and not dependency.get("path"):
                    problems.append(f"{name}: any version of {dependency['name']}")
        elif package["source"] not in registries:
            problems.append(f"{name}: comes from {package['source']}")

    problems += [f"deny.toml: nothing uses {unused}" for unused in sorted(allow - used)]
    problems += [f"deny.toml: exception for {gone}, which is not used" for gone in sorted(set(exceptions) - names)]
    return problems


def built() -> set[tuple[str, str]]:
    """Name and version of whatever a build for any target can contain.

    Cargo.lock and `cargo metadata` also list the optional crates behind weak features (`crate?/feature`) that nothing
    enables, such as subxt's light client; cargo-deny leaves those out as well.
    """
    command = ["cargo", "tree", "--locked", "--all-features", "--target", "all", "--prefix", "none", "--format", "{p}"]
    tree = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = (line.split() for line in tree.splitlines() if line)
    return {(words[0], words[1].removeprefix("v")) for words in lines}


def main() -> int:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    wanted = built()
    packages = [
        package
        for package in json.loads(metadata.stdout)["packages"]
        if (package["name"], package["version"]) in wanted
    ]
    problems = check(rules, packages)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(packages)} packages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

//! `splat encode`, `decode` and `inspect` of the real binary.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sn17_miner::splat::{MAX_PAYLOAD_BYTES, Payload, PlyReader};
use tempfile::TempDir;

fn splat(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
    command.arg("splat").args(args).stdin(Stdio::null());
    command
}

fn piped(args: &[&str], input: &[u8]) -> Output {
    let mut child =
        splat(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that refuses its input closes the pipe early.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

#[track_caller]
fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn fails(mut command: Command, message: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    let error = stderr.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: ") && error.contains(message), "{stderr}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small cloud in ascii.
fn write_cloud(dir: &TempDir, points: usize) -> PathBuf {
    let names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3";
    let properties: String = names.split(' ').map(|name| format!("property float {name}\n")).collect();
    let rows: String = (0..points)
        .map(|i| format!("{} 0.5 -1 0 0.5 1 2 -4 -4 -4 1 0.{i} 0 0\n", i as f32 / points as f32))
        .collect();
    let file = dir.path().join("cloud.ply");
    fs::write(
        &file,
        format!("ply\nformat ascii 1.0\nelement vertex {points}\n{properties}end_header\n{rows}"),
    )
    .unwrap();
    file
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_valid_vector_through_files_and_pipes() {
    let Some(root) = support::shared("vectors/spz") else { return };
    let expected: Value = serde_json::from_slice(&fs::read(root.join("expected.json")).unwrap()).unwrap();
    let dir = TempDir::new().unwrap();
    let valid = expected["valid"].as_object().unwrap();
    assert_eq!(valid.len(), 27);
    for name in valid.keys() {
        let file = |suffix: &str| root.join(format!("valid/{name}.{suffix}"));
        let (spz, ply) = (dir.path().join("out.spz"), dir.path().join("out.ply"));
        done(&splat(&["encode", "--strict", path(&file("ply")), path(&spz)]).output().unwrap());
        let by_file = fs::read(&spz).unwrap();
        let by_pipe = piped(&["encode", "-", "-"], &fs::read(file("ply")).unwrap());
        done(&by_pipe);
        assert_eq!(by_pipe.stdout, by_file, "{name}");
        let payload = Payload::decompress(&by_file, MAX_PAYLOAD_BYTES).unwrap();
        assert_eq!(payload.as_bytes(), fs::read(file("payload")).unwrap(), "{name}");

        done(&splat(&["decode", path(&file("spz")), path(&ply)]).output().unwrap());
        let by_file = fs::read(&ply).unwrap();
        let by_pipe = piped(&["decode", "-", "-"], &fs::read(file("spz")).unwrap());
        done(&by_pipe);
        assert_eq!(by_pipe.stdout, by_file, "{name}");
        assert_eq!(by_file.len(), fs::read(file("decompressed.ply")).unwrap().len(), "{name}");
        let with_normals = piped(&["decode", "--normals", "-", "-"], &fs::read(file("spz")).unwrap()).stdout;
        let (with, without) =
            (PlyReader::default().read(&with_normals).unwrap(), PlyReader::default().read(&by_file).unwrap());
        assert_eq!(format!("{:?}", with.to_splat()), format!("{:?}", without.to_splat()), "{name}");
        let normals = "property float nx\n".len() * 3 + with.len() * 12;
        assert_eq!(with_normals.len(), by_file.len() + normals, "{name}");
    }
    assert_eq!(entries(dir.path()), ["out.ply", "out.spz"]);
}

#[test]
fn strict_refuses_what_lenient_takes() {
    let dir = TempDir::new().unwrap();
    let cloud = write_cloud(&dir, 9);
    let out = dir.path().join("out.spz");
    fails(splat(&["encode", "--strict", path(&cloud), path(&out)]), "line 2 of the PLY header");
    assert!(!out.exists());
    let output = splat(&["encode", path(&cloud), path(&out)]).output().unwrap();
    done(&output);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("warning: validators would refuse it: D2: 9 Gaussians"), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn the_level_is_clamped_from_below() {
    let dir = TempDir::new().unwrap();
    let cloud = write_cloud(&dir, 9);
    let encode = |level: &str| {
        let output = splat(&["encode", "--level", level, path(&cloud), "-"]).output().unwrap();
        done(&output);
        output.stdout
    };
    assert_eq!(encode("-5"), encode("1"));
    assert!(Payload::decompress(&encode("22"), MAX_PAYLOAD_BYTES).is_ok());
}

#[test]
fn a_failure_leaves_the_old_file_and_no_other() {
    let dir = TempDir::new().unwrap();
    let (good, bad) = (write_cloud(&dir, 9), dir.path().join("bad.ply"));
    fs::write(&bad, "ply\nformat ascii 1.0\n").unwrap();
    let out = dir.path().join("out.spz");
    fs::write(&out, "old").unwrap();
    fails(splat(&["encode", path(&bad), path(&out)]), "no `end_header` line");
    assert_eq!(fs::read(&out).unwrap(), b"old");
    done(&splat(&["encode", path(&good), path(&out)]).output().unwrap());
    assert!(Payload::decompress(&fs::read(&out).unwrap(), MAX_PAYLOAD_BYTES).is_ok());
    assert_eq!(entries(dir.path()), ["bad.ply", "cloud.ply", "out.spz"]);
    fails(splat(&["encode", path(&good), path(&dir.path().join("absent/out.spz"))]), "write ");
    fails(splat(&["encode", path(&good), path(dir.path())]), "is a directory");
    fails(splat(&["encode", path(&dir.path().join("absent.ply")), path(&out)]), "read ");
}

#[cfg(unix)]
#[test]
fn links_and_devices_are_written_to_not_replaced() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    let dir = TempDir::new().unwrap();
    let cloud = write_cloud(&dir, 9);
    done(&splat(&["encode", path(&cloud), "/dev/null"]).output().unwrap());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

    let (target, link) = (dir.path().join("target.spz"), dir.path().join("link.spz"));
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    done(&splat(&["encode", path(&cloud), path(&link)]).output().unwrap());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read(&target).unwrap().starts_with(b"\x28\xb5\x2f\xfd"));
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn foreign_files_are_named() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        path(&file).to_owned()
    };
    let (page, gzip, empty) =
        (file("page", b"<html></html>"), file("gzip", b"\x1f\x8b\x08\0\0"), file("empty", b""));
    for command in [&["inspect"][..], &["encode"], &["decode"]] {
        let run = |input: &str| {
            let mut args = command.to_vec();
            args.push(input);
            if command != ["inspect"] {
                args.push("-");
            }
            splat(&args)
        };
        fails(run(&gzip), "gzip");
        fails(run(&page), if command == ["decode"] { "no zstd frame" } else { "is a web page" });
        fails(run(&empty), if command == ["decode"] { "no bytes at all" } else { "is empty" });
    }
    let cloud = write_cloud(&dir, 9);
    fails(splat(&["decode", path(&cloud), "-"]), "is a PLY file already");
    let spz = dir.path().join("cloud.spz");
    done(&splat(&["encode", path(&cloud), path(&spz)]).output().unwrap());
    fails(splat(&["encode", path(&spz), "-"]), "is an SPZ file already");
}

#[test]
fn inspect_says_the_same_of_both_formats() {
    let dir = TempDir::new().unwrap();
    let (cloud, spz) = (write_cloud(&dir, 8000), dir.path().join("cloud.spz"));
    done(&splat(&["encode", path(&cloud), path(&spz)]).output().unwrap());
    let report = |file: &Path| -> Value {
        let output = splat(&["inspect", "--json", path(file)]).output().unwrap();
        done(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (mut ply, mut packed) = (report(&cloud), report(&spz));
    assert_eq!((&ply["format"], &packed["format"]), (&"ply".into(), &"spz".into()));
    assert_eq!(ply["bytes"]["file"], fs::metadata(&cloud).unwrap().len());
    assert_eq!(packed["bytes"]["file"], fs::metadata(&spz).unwrap().len());
    for report in [&mut ply, &mut packed] {
        report.as_object_mut().unwrap().remove("format");
        report["bytes"].as_object_mut().unwrap().remove("file");
    }
    assert_eq!(ply, packed);
    assert_eq!(ply["points"], 8000);
    assert_eq!(ply["bounds"]["min"], serde_json::json!([0.0, 0.5, -1.0]));
    assert_eq!((&ply["visible_share"], &ply["defect"]), (&1.0.into(), &Value::Null));
    assert_eq!(ply["bytes"]["payload"], 16 + 8000 * 19);

    let text = splat(&["inspect", path(&spz)]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("points    8000\n") && text.ends_with("check     passes\n"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = TempDir::new().unwrap();
    let (cloud, spz) = (write_cloud(&dir, 20_000), dir.path().join("cloud.spz"));
    done(&splat(&["encode", path(&cloud), path(&spz)]).output().unwrap());
    let mut child =
        splat(&["decode", path(&spz), "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

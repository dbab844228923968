//! `splat`: encode, decode and look at clouds of Gaussians.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::ExitStatus;
use crate::splat::{
    Bounds, DEFAULT_LEVEL, MAX_PAYLOAD_BYTES, Magic, Payload, PlyDialect, PlyReader, Spz, SpzEncoder, sniff,
    write_ply,
};

/// Longest input that is read; a cloud of 10,000,000 points with all properties takes 2.5 GB.
const MAX_INPUT: u64 = 4 << 30;

#[derive(Debug, clap::Subcommand)]
pub enum SplatCommand {
    /// Compress a PLY file to the subnet's SPZ
    Encode(Encode),
    /// Decompress an SPZ file to PLY
    Decode(Decode),
    /// Show what a PLY or SPZ file holds and whether it breaks a data rule
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub struct Encode {
    /// zstd level, 1 to 22; below 1 counts as 1
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LEVEL, allow_negative_numbers = true)]
    level: i32,
    /// Take only what the reference module takes: no ascii, comments, other types or elements
    #[arg(long)]
    strict: bool,
    /// PLY file; - for stdin
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// SPZ file; - for stdout
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

#[derive(Debug, Args)]
pub struct Decode {
    /// Write the properties nx, ny and nz, all zero
    #[arg(long)]
    normals: bool,
    /// SPZ file; - for stdin
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// PLY file; - for stdout
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// PLY or SPZ file; - for stdin
    #[arg(value_name = "IN")]
    input: PathBuf,
}

pub fn run(command: SplatCommand) -> anyhow::Result<ExitStatus> {
    let result = match command {
        SplatCommand::Encode(args) => encode(&args),
        SplatCommand::Decode(args) => decode(&args),
        SplatCommand::Inspect(args) => inspect(&args),
    };
    match result {
        // Whoever reads our output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitStatus::Done),
        result => result.map(|()| ExitStatus::Done),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

fn encode(args: &Encode) -> anyhow::Result<()> {
    let output = Output::new(&args.output)?;
    let bytes = read_input(&args.input)?;
    let dialect = if args.strict { PlyDialect::Reference } else { PlyDialect::Lenient };
    let spz = encode_ply(&bytes, dialect, args.level).with_context(|| refusal(&args.input, &bytes))?;
    if let Err(defect) = spz.data().verdict() {
        eprintln!("warning: validators would refuse it: {defect}");
    }
    output.write(|out| out.write_all(spz.as_bytes()))
}

fn encode_ply(bytes: &[u8], dialect: PlyDialect, level: i32) -> anyhow::Result<Spz> {
    let cloud = PlyReader::new(dialect).read(bytes)?;
    Ok(SpzEncoder::new(level).encode(&cloud)?)
}

fn decode(args: &Decode) -> anyhow::Result<()> {
    let output = Output::new(&args.output)?;
    let bytes = read_input(&args.input)?;
    let payload = Payload::decompress(&bytes, MAX_PAYLOAD_BYTES).with_context(|| match sniff(&bytes) {
        Magic::Ply => format!("{} is a PLY file already", shown(&args.input)),
        _ => format!("decode {}", shown(&args.input)),
    })?;
    let splat = payload.to_splat();
    output.write(|out| write_ply(&splat, args.normals, out))
}

/// What the operator did, or what the file is if that explains the failure.
fn refusal(input: &Path, bytes: &[u8]) -> String {
    let input = shown(input);
    match sniff(bytes) {
        Magic::ZstdSpz => format!("{input} is an SPZ file already; `splat inspect` checks it"),
        Magic::GzipSpz => format!("{input} is compressed with gzip; give the PLY file it was made from"),
        Magic::Html => format!("{input} is a web page"),
        Magic::Json => format!("{input} is JSON, perhaps an error of a server"),
        Magic::Empty => format!("{input} is empty"),
        Magic::Ply | Magic::Unknown => format!("encode {input}"),
    }
}

#[derive(Debug, Serialize)]
struct Report {
    format: &'static str,
    points: u32,
    degree: u8,
    /// Box around the centres, as decoded.
    bounds: Option<Corners>,
    /// Share of Gaussians with an opacity of at least 0.001.
    visible_share: f64,
    /// Gaussians of the PLY with a value that is no finite number.
    non_finite: u32,
    bytes: Sizes,
    /// The first data rule it breaks.
    defect: Option<String>,
}

#[derive(Debug, Serialize)]
struct Corners {
    min: [f32; 3],
    max: [f32; 3],
}

#[derive(Debug, Serialize)]
struct Sizes {
    file: usize,
    payload: usize,
    spz: usize,
}

fn inspect(args: &Inspect) -> anyhow::Result<()> {
    let bytes = read_input(&args.input)?;
    let file = bytes.len();
    let (format, spz) = match sniff(&bytes) {
        Magic::ZstdSpz | Magic::GzipSpz => (
            "spz",
            Spz::parse(bytes, MAX_PAYLOAD_BYTES).with_context(|| format!("decode {}", shown(&args.input)))?,
        ),
        _ => (
            "ply",
            encode_ply(&bytes, PlyDialect::Lenient, DEFAULT_LEVEL)
                .with_context(|| refusal(&args.input, &bytes))?,
        ),
    };
    let payload = spz.payload()?;
    let data = spz.data();
    let report = Report {
        format,
        points: spz.points(),
        degree: spz.degree().number(),
        bounds: payload.bounds().map(|Bounds { min, max }| Corners { min, max }),
        visible_share: data.visible_share(),
        non_finite: data.non_finite(),
        bytes: Sizes { file, payload: payload.as_bytes().len(), spz: spz.as_bytes().len() },
        defect: data.verdict().err().map(|defect| defect.to_string()),
    };
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&report, &mut out)?;
    }
    out.flush()?;
    Ok(())
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "format    {}", report.format)?;
    writeln!(out, "points    {}", report.points)?;
    writeln!(out, "degree    {}", report.degree)?;
    match &report.bounds {
        Some(Corners { min: [x, y, z], max: [u, v, w] }) => {
            writeln!(out, "bounds    x {x} to {u}, y {y} to {v}, z {z} to {w}")?;
        }
        None => writeln!(out, "bounds    none")?,
    }
    writeln!(out, "visible   {:.2} %", report.visible_share * 100.0)?;
    let Sizes { file, payload, spz } = report.bytes;
    writeln!(out, "bytes     file {file}, payload {payload}, SPZ {spz}")?;
    writeln!(out, "check     {}", report.defect.as_deref().unwrap_or("passes"))
}

fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn shown(path: &Path) -> String {
    if is_standard_stream(path) { "the input".to_owned() } else { path.display().to_string() }
}

fn read_input(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if is_standard_stream(path) {
        io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes)
    } else {
        // Room for all of it at once: growing by doubling would hold a large file twice.
        File::open(path).and_then(|file| {
            let length = file.metadata()?.len().min(MAX_INPUT);
            bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
            file.take(MAX_INPUT + 1).read_to_end(&mut bytes)
        })
    };
    read.with_context(|| format!("read {}", shown(path)))?;
    if bytes.len() as u64 > MAX_INPUT {
        bail!("{} is longer than {MAX_INPUT} bytes: no splat is", shown(path));
    }
    Ok(bytes)
}

/// Where binary data goes.
enum Output<'a> {
    Stdout,
    /// A device, a pipe: written in place, since renaming would replace it.
    Special(&'a Path),
    /// A file, complete or not there at all.
    File(PathBuf),
}

impl<'a> Output<'a> {
    /// Refuses what cannot work before any effort is made.
    fn new(path: &'a Path) -> anyhow::Result<Self> {
        if is_standard_stream(path) {
            if io::stdout().is_terminal() {
                bail!("binary data does not belong on a terminal: name a file or redirect the output");
            }
            return Ok(Self::Stdout);
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => bail!("{} is a directory: name a file in it", path.display()),
            Ok(found) if !found.is_file() => Ok(Self::Special(path)),
            // A link stays a link: what it points to is replaced.
            Ok(_) => {
                Ok(Self::File(fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?))
            }
            Err(_) => Ok(Self::File(path.to_owned())),
        }
    }

    fn write(self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        match self {
            Self::Stdout => write_through(io::stdout().lock(), fill).context("write to stdout"),
            Self::Special(path) => OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| write_through(file, fill))
                .with_context(|| format!("write {}", path.display())),
            Self::File(path) => replace(&path, fill).with_context(|| format!("write {}", path.display())),
        }
    }
}

fn write_through(to: impl Write, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(to);
    fill(&mut out)?;
    out.flush()
}

/// Writes beside `path` and renames, so that nobody ever reads half a file.
fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut staged_name = std::ffi::OsString::from(".");
    staged_name.push(name);
    staged_name.push(format!(".{}.tmp", std::process::id()));
    let staged = path.with_file_name(staged_name);
    let file = OpenOptions::new().write(true).create_new(true).open(&staged)?;
    let written = fs::metadata(path)
        .map_or(Ok(()), |replaced| file.set_permissions(replaced.permissions()))
        .and_then(|()| write_through(file, fill))
        .and_then(|()| fs::rename(&staged, path));
    if let Err(error) = written {
        // The first error is the one to report; a leftover file is only untidy.
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    Ok(())
}

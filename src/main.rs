#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sn17_miner::cli::main().into()
}

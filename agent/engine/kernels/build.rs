//! Compiles the kernels of the GPU where the feature `cuda` is on. They use nothing of one chip only, so the PTX is for the oldest
//! that CUDA 13 knows, and the driver compiles it for its own.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/gpu/step.cu";
const OLDEST: &str = "compute_75";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    for name in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let in_home = || env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC").map(PathBuf::from).or_else(in_home).unwrap_or_else(|| "nvcc".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("step.ptx");
    let made = Command::new(&nvcc)
        .args(["--ptx", "-O3", "-std=c++17", "-arch", OLDEST, SOURCE, "-o"])
        .arg(&out)
        .status();
    match made {
        Ok(status) if status.success() => {}
        Ok(status) => println!("cargo::error={} could not compile {SOURCE}: {status}", nvcc.display()),
        Err(error) => println!(
            "cargo::error={} could not be started ({error}): the feature `cuda` needs CUDA's toolkit, in PATH, CUDA_HOME or NVCC",
            nvcc.display()
        ),
    }
}

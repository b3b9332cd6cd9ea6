//! Compiles the kernels of the GPU where the feature `cuda` is on. They use nothing of one chip only, so the PTX is for the oldest
//! that has what they need, and the driver compiles it for its own. With `cuda-on-host` they are compiled for the CPU.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest that CUDA 13 knows, and the oldest whose tensor cores multiply 16 by 8 by 32 bytes at a time, and 16 by 8 by 16 numbers of
/// bfloat16.
const KERNELS: [(&str, &str); 3] = [
    ("src/gpu/step.cu", "compute_75"),
    ("src/gpu/product/quantized.cu", "compute_80"),
    ("src/gpu/product/floats.cu", "compute_80"),
];
const SHARED: [&str; 3] = ["src/gpu/halves.cuh", "src/gpu/stored.cuh", "src/gpu/product/panels.cuh"];
const ON_HOST: &str = "src/gpu/on_host";

fn main() {
    for shared in SHARED.into_iter().chain([ON_HOST]) {
        println!("cargo::rerun-if-changed={shared}");
    }
    for name in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for (source, oldest) in KERNELS {
        println!("cargo::rerun-if-changed={source}");
        if env::var_os("CARGO_FEATURE_CUDA").is_some() {
            compile(Path::new(source), oldest);
        }
    }
    #[cfg(feature = "cuda-on-host")]
    compile_for_host();
}

fn compile(source: &Path, oldest: &str) {
    let in_home = || env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC").map(PathBuf::from).or_else(in_home).unwrap_or_else(|| "nvcc".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let made = Command::new(&nvcc)
        .args(["--ptx", "-O3", "-std=c++17", "-arch", oldest, "-o"])
        .arg(out.join(source.with_extension("ptx").file_name().unwrap_or_default()))
        .arg(source)
        .status();
    let source = source.display();
    match made {
        Ok(status) if status.success() => {}
        Ok(status) => println!("cargo::error={} could not compile {source}: {status}", nvcc.display()),
        Err(error) => println!(
            "cargo::error={} could not be started ({error}): the feature `cuda` needs CUDA's toolkit, in PATH, CUDA_HOME or NVCC",
            nvcc.display()
        ),
    }
}

#[cfg(feature = "cuda-on-host")]
fn compile_for_host() {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .files(["product.cpp", "step.cpp"].map(|name| Path::new(ON_HOST).join(name)))
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        // GCC 12 makes an address of two others so that it belongs to neither, and leaves out what is written there.
        .flag_if_supported("-fno-ivopts")
        .warnings(false)
        .opt_level(2)
        .compile("cuda_on_host");
}

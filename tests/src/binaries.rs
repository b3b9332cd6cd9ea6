use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Paths of what is tested.
#[derive(Debug)]
pub struct Binaries {
    /// `llmdeck-agent`
    pub agent: PathBuf,
    /// `llmdeck`, with the demo.
    pub console: PathBuf,
    /// `panic-in-terminal`
    pub panic_in_terminal: PathBuf,
    /// `scripted-server`
    pub scripted_server: PathBuf,
    /// The fake `libnvidia-ml.so`.
    pub nvml: PathBuf,
}

/// What cargo tells a test of its own package, by the beginnings of names.
const OF_THE_PACKAGE: [&str; 3] = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"];

/// Builds them as the rest of the workspace was built, which does nothing when they are up to date: cargo builds no
/// binaries of other packages for a test.
pub fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        // Tests are one folder deeper than programs.
        let folder = own.parent().unwrap();
        let profile_folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--workspace", "--features", "demo,instructions", "--lib"]);
        for name in ["llmdeck-agent", "llmdeck", "panic-in-terminal", "scripted-server"] {
            build.args(["--bin", name]);
        }
        if profile_folder.ends_with("release") {
            build.arg("--release");
        }
        // Libraries whose build scripts watch these would be built anew, and all above them.
        for (name, _) in std::env::vars_os() {
            if OF_THE_PACKAGE.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                build.env_remove(name);
            }
        }
        build.env("CARGO_TARGET_DIR", profile_folder.parent().unwrap());
        assert!(build.status().unwrap().success(), "the binaries do not build");
        Binaries {
            agent: profile_folder.join("llmdeck-agent"),
            console: profile_folder.join("llmdeck"),
            panic_in_terminal: profile_folder.join("panic-in-terminal"),
            scripted_server: profile_folder.join("scripted-server"),
            nvml: profile_folder.join("libllmdeck_fake_nvml.so"),
        }
    })
}

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{AgentProcess, binaries};

impl AgentProcess {
    /// Runs a command of the console on it.
    pub fn llmdeck(&self, arguments: &[&str]) -> Output {
        let target = self.target().to_string();
        let mut command = Command::new(&binaries().console);
        command.args(arguments).args(["--target", &target]).stdin(Stdio::null()).output().unwrap()
    }

    /// What it prints as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.llmdeck(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What its registry says of the artifact with a tag.
    ///
    /// # Panics
    /// When there is none.
    pub fn artifact(&self, tag: &str) -> Value {
        let listed = self.json(&["registry", "list"]);
        let found = listed.as_array().unwrap().iter().find(|known| known["tags"][0] == tag).cloned();
        found.unwrap_or_else(|| panic!("{tag} is not in {listed}"))
    }
}

/// All that a command said.
pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

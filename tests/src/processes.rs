/// Process and state, as ps has it, of everything with a word in its command.
///
/// # Panics
/// When there is no ps.
pub fn processes(word: &str) -> Vec<(u32, String)> {
    let output = std::process::Command::new("ps").args(["-eo", "pid=,stat=,args="]).output().unwrap();
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = all.lines().filter(|line| line.contains(word));
    let parts = named.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    });
    parts.collect()
}

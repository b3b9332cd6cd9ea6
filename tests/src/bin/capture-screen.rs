//! Prints the fleet screen as it is while a worse model serves: the picture in the README.
//!
//! ```text
//! cargo run -p llmdeck-tests --bin capture-screen
//! ```

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck_tests::{ASSISTANT, AgentProcess, Console, change, traffic, wait_for};

#[tokio::main]
async fn main() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let load = traffic(&agent, 15.0);
    let console = Console::start(&[&agent.target().to_string()], 80, 24);
    wait_for("traffic", async || (load.report().ok > 60).then_some(())).await;
    let worse = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model("assistant-worse"),
        force: false,
        how: RolloutChoice::default(),
    };
    change(&agent.channel(), worse, "longer context").await.expect("the deploy was refused");
    let answered = load.report().ok;
    wait_for("traffic on the worse model", async || (load.report().ok > answered + 60).then_some(())).await;
    let screen = tokio::task::block_in_place(|| console.wait_for("roll back?"));
    println!("{screen}");
}

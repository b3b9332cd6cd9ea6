//! The console in a pseudo-terminal, its screen read back through a terminal emulator.

use llmdeck_tests::{ASSISTANT, AgentProcess, Console, traffic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn target(agent: &AgentProcess) -> String {
    agent.target().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_at_80x24() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let load = traffic(&agent, 15.0);
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&target(&agent)], 80, 24);
        let fleet = console.wait_until("the fleet with its quality", |screen| {
            screen.contains("live") && screen.contains("0.97") && screen.contains("node-a")
        });
        assert!(fleet.contains("TTFT p50/p99") && fleet.contains("─ Nodes ─"), "{fleet}");

        console.send("d");
        console.wait_for("Deploy assistant");
        console.wait_for("assistant-worse");
        console.send("worse\r");
        let plan = console.wait_for("96 golden prompts");
        assert!(
            plan.contains("assistant@1  assistant") && plan.contains("assistant@2  assistant-worse"),
            "{plan}"
        );
        assert!(plan.contains("undo"), "{plan}");
        console.send("try it\r");
        console.wait_for("serves all new requests");
        console.send("\r");
        let fallen = console.wait_until("the worse score", |screen| {
            screen.contains("0.55 ↓") && !screen.contains("Deploy assistant")
        });
        assert!(fallen.contains("▲ assistant") && fallen.contains("1 alert"), "{fallen}");

        console.send("r");
        let rollback = console.wait_for("standby, ready now");
        assert!(rollback.contains("roll back?"), "the reason is what is wrong: {rollback}");
        console.send("\r");
        console.wait_for("serves all new requests");
        console.send("\r");
        console.wait_until("the good score", |screen| {
            screen.contains("0.97 ↑") && !screen.contains("Roll back assistant")
        });
        console.send("\r");
        console.wait_for("Revisions");
        console.send("q");
        assert!(console.wait());
        console.wait_until("the first screen", |_| console.is_restored());
    });
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_at_200x50_and_resized_to_the_least() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&target(&agent)], 200, 50);
        console.wait_until("the wide fleet", |screen| {
            screen.contains("ITL p50/p99 ms") && screen.contains("0/256")
        });
        console.send("2");
        console.wait_for("Events, newest first");
        console.send("/serves");
        let filtered = console.wait_for("/serves");
        assert!(filtered.contains("revision 1 of assistant serves"), "{filtered}");
        // Both at once, as a slow link brings them.
        console.send("\x1b:node\r");
        console.wait_for("no NVIDIA driver is installed");
        console.send("?");
        console.wait_for("any key closes this");
        console.send("x1");
        console.wait_for("1 Fleet");
        for (columns, lines) in [(80, 24), (40, 8), (20, 5), (120, 30), (200, 50)] {
            console.resize(columns, lines);
            if columns >= 80 {
                console.wait_until("the fleet again", |screen| {
                    screen.contains("1 Fleet") && screen.contains("node-a")
                });
            } else if columns < 40 {
                console.wait_for("needed");
            }
        }
        console.send("q");
        assert!(console.wait());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_at_the_moment_of_a_resize_counts() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&target(&agent)], 100, 30);
        console.wait_for("1 Fleet");
        for round in 0..100 {
            console.resize(100 + round % 2, 30);
            console.send("?");
            console.wait_for("any key closes this");
            console.resize(102, 30);
            console.send("x");
            console.wait_until("the fleet again", |screen| !screen.contains("any key closes this"));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_agent_is_shown_as_lost_and_comes_back_by_itself() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let console = Console::start(&[&target(&agent)], 100, 30);
    tokio::task::block_in_place(|| {
        console.wait_until("a live agent", |screen| screen.contains("live") && screen.contains("node-a"));
        agent.kill();
        let lost = console.wait_for("1 agent lost");
        assert!(
            lost.contains("node-a") && lost.contains("assistant"),
            "what was known is still there: {lost}"
        );
        console.wait_until("its age", |screen| screen.contains("lost, data") && screen.contains("old"));
        agent.restart();
        console.wait_until("the agent again", |screen| screen.contains("live") && !screen.contains("lost"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_that_comes_first_waits_for_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", folder.path().join("agent.sock").display());
    tokio::task::block_in_place(|| {
        let console = Console::start(&[&nowhere], 100, 24);
        console.wait_for("is llmdeck-agent running?");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_given_back_on_sigterm() {
    let agent = AgentProcess::start(ASSISTANT);
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&target(&agent)], 80, 24);
        console.wait_for("Deployments");
        kill(Pid::from_raw(console.pid()), Signal::SIGTERM).unwrap();
        assert!(console.wait());
        console.wait_until("the first screen", |_| console.is_restored());
    });
}

#[test]
fn the_terminal_is_given_back_on_a_panic_and_the_panic_is_readable() {
    let mut console = Console::start_panicking();
    console.wait_for("about to panic");
    assert!(!console.is_restored());
    console.send("\r\n");
    assert!(!console.wait());
    console.wait_for("on purpose");
    assert!(console.is_restored());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_z_goes_to_the_shell_and_fg_comes_back() {
    let agent = AgentProcess::start(ASSISTANT);
    tokio::task::block_in_place(|| {
        let script = format!("\"$LLMDECK\" {}; echo in the shell; read line; fg", target(&agent));
        let mut console = Console::start_in_shell(&script);
        console.wait_for("Deployments");
        console.send("\x1a");
        console.wait_for("in the shell");
        assert!(console.is_restored());
        console.send("\n");
        console.wait_until("the console again", |screen| {
            !console.is_restored() && screen.contains("Deployments")
        });
        console.send("q");
        assert!(console.wait());
        console.wait_until("the first screen", |_| console.is_restored());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_colour_and_without_unicode_everything_is_said_in_ascii() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    tokio::task::block_in_place(|| {
        let variables = [("NO_COLOR", "1"), ("LANG", "C")];
        let console = Console::start_with(&[&target(&agent)], 80, 24, &variables);
        let screen =
            console.wait_until("the fleet", |screen| screen.contains("live") && screen.contains("0.97"));
        assert!(screen.is_ascii(), "{screen}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn several_agents_are_one_fleet() {
    let first = AgentProcess::start(ASSISTANT);
    let second = AgentProcess::start(&ASSISTANT.replace("node-a", "node-b"));
    first.ready().await;
    second.ready().await;
    tokio::task::block_in_place(|| {
        let console = Console::start(&[&target(&first), &target(&second)], 80, 24);
        console.wait_until("both nodes", |screen| {
            screen.contains("2 nodes · 2 deployments")
                && screen.contains("node-a")
                && screen.contains("node-b")
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mouse_selects_and_then_opens() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&target(&agent)], 80, 24);
        let fleet = console.wait_for("· assistant");
        let line = fleet.lines().position(|line| line.contains("· assistant")).unwrap() + 1;
        let click = format!("\x1b[<0;10;{line}M\x1b[<0;10;{line}m");
        console.send(&click);
        console.send(&click);
        console.wait_for("Revisions");
        console.send("q");
        assert!(console.wait());
    });
}

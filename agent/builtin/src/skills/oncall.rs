use rand::rngs::StdRng;

use super::{fill, pick, politely};

/// A thing that an operator asks about, and the answer to each kind of question.
struct Fact {
    asks: &'static [&'static str],
    answer: &'static str,
}

const FACTS: [Fact; 16] = [
    Fact { asks: &["ttft", "time to first token"], answer: "time from request to first token" },
    Fact { asks: &["itl", "inter-token latency"], answer: "time between two tokens of one answer" },
    Fact { asks: &["tpot", "time per output token"], answer: "mean time per token after the first" },
    Fact { asks: &["e2e", "end to end latency"], answer: "time from request to last token" },
    Fact { asks: &["a revision"], answer: "an immutable, numbered spec of a deployment" },
    Fact { asks: &["a deployment"], answer: "a named model endpoint" },
    Fact { asks: &["a standby"], answer: "the previous revision, kept ready for rollback" },
    Fact { asks: &["a canary"], answer: "a candidate that gets a small share of traffic" },
    Fact { asks: &["a node"], answer: "one machine running one agent" },
    Fact { asks: &["a frame"], answer: "all signals of one interval" },
    Fact { asks: &["a verdict"], answer: "what the analysis says of a candidate" },
    Fact { asks: &["goodput"], answer: "requests per second that met their objective" },
    Fact { asks: &["an adapter"], answer: "small weights added to a base model" },
    Fact { asks: &["the agent"], answer: "the daemon that hosts models on a node" },
    Fact { asks: &["the console"], answer: "the terminal that shows and acts" },
    Fact { asks: &["the audit log"], answer: "the record of who did what, when and why" },
];
const DEFINE: [&str; 6] = [
    "what is {}?",
    "what does {} mean?",
    "explain {}",
    "define {}",
    "in one line, what is {}?",
    "tell me what {} is",
];

const HOW: [(&[&str], &str); 8] = [
    (&["roll back", "undo a deploy", "go back a revision", "revert"], "press r, or run llmdeck rollback"),
    (&["deploy a revision", "redeploy", "ship a model", "release"], "press d, or run llmdeck deploy"),
    (&["see events", "list what changed", "find what changed"], "open the events screen with 4"),
    (&["get help", "see the keys", "list the keys"], "press ?"),
    (&["filter a list", "search a list", "find a deployment"], "press / and type"),
    (&["leave", "quit", "close the console"], "press q"),
    (&["check a node", "diagnose a node", "test the driver"], "run llmdeck-agent doctor"),
    (&["print the status", "get status in a script", "see status without a console"], "run llmdeck status"),
];
const ASK_HOW: [&str; 5] =
    ["how do i {}?", "how to {}?", "how can i {}?", "what do i do to {}?", "i want to {}, how?"];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let both = FACTS.len() + HOW.len();
    let index = *pick(rng, &(0..both).collect::<Vec<_>>());
    let (prompt, answer) = match FACTS.get(index) {
        Some(fact) => {
            let subject = *pick(rng, fact.asks);
            (fill(rng, &DEFINE, &[subject]), fact.answer)
        }
        None => {
            let (asks, answer) = HOW[index - FACTS.len()];
            let subject = *pick(rng, asks);
            (fill(rng, &ASK_HOW, &[subject]), answer)
        }
    };
    (politely(rng, prompt), answer.to_owned())
}

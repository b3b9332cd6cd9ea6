use std::net::SocketAddr;
use std::time::Duration;

use llmdeck_builtin::skills::{Skill, Split};
use llmdeck_load::{LoadPlan, Prompt};
use rand::SeedableRng;
use rand::rngs::StdRng;

const PROMPTS_PER_SKILL: usize = 100;
const SEED: u64 = 11;

/// What users of the built-in model ask, with the right answers; none of it was in its training.
pub(super) fn plan(http: SocketAddr, deployment: &str, rate_per_s: f64) -> LoadPlan {
    let mut rng = StdRng::seed_from_u64(SEED);
    let prompts = Skill::ALL
        .into_iter()
        .flat_map(|skill| std::iter::repeat_n(skill, PROMPTS_PER_SKILL))
        .map(|skill| {
            let example = skill.example(&mut rng, Split::HeldOut);
            Prompt { text: example.prompt, expected: Some(example.answer) }
        })
        .collect();
    LoadPlan {
        server: format!("http://{http}"),
        model: deployment.to_owned(),
        rate_per_s,
        max_in_flight: 256,
        max_tokens: 96,
        patience: Duration::from_secs(60),
        prompts,
        seed: SEED,
    }
}

//! The screens, cell by cell, from a model that never changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use llmdeck::app::{Action, Answer, App, AppEvent, Intent, Screen, update};
use llmdeck::link::{LinkError, LinkEvent};
use llmdeck::model::{DeploymentKey, Model};
use llmdeck::theme::{ColorDepth, Theme};
use llmdeck::view::{View, draw};
use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::finding::Scale;
use llmdeck_proto::v1::gpu_driver::State as DriverState;
use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::rollout::{State as RolloutState, Strategy};
use llmdeck_proto::v1::{
    Alert, Assessment, ChangePlan, Counters, Deployment, Event as NodeEvent, Finding, Frame, Gpu, GpuDriver,
    Host, JobReport, JobSummary, ModelOnGpu, Quality, Revision, Rollout, RolloutStep, TrainingPoint, Verdict,
};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::time::Instant;

const START_UNIX_MS: i64 = 50_400_000;
const SECONDS: u64 = 60;

fn revision(number: u32, state: State, golden: f64, second: u64, requests: u64) -> Revision {
    let spread =
        |base: u64| (0..requests).map(move |request| base + base * ((request * 7 + second) % 10) / 10);
    let quality = Quality {
        golden_score: Some(golden),
        golden_low: Some(golden - 0.05),
        golden_high: Some(golden + 0.03),
        responses: requests,
        ..Quality::default()
    };
    Revision {
        number,
        state: state.into(),
        traffic_share: if state == State::Serving { 1.0 } else { 0.0 },
        model: if number == 8 { "llama-3.1-8b-long" } else { "llama-3.1-8b" }.into(),
        weights_bytes: 16 << 30,
        resident_weights_bytes: 16 << 30,
        kv_used_bytes: 3 << 30,
        kv_total_bytes: 12 << 30,
        scratch_bytes: 180 << 20,
        on_gpu: (number == 7).then(|| ModelOnGpu { device: "cuda:0".into(), weights_bytes: 15 << 30 }),
        ttft_us: Some(spread(84_000).collect::<SparseHistogram>().encode()),
        itl_us: Some(spread(18_000).collect::<SparseHistogram>().encode()),
        e2e_us: Some(spread(1_400_000).collect::<SparseHistogram>().encode()),
        counters: Some(Counters {
            requests_ok: requests,
            tokens_out: requests * 22,
            prompt_tokens_begun: requests * 500,
            prompt_tokens_remembered: requests * 320,
            tokens_guessed: requests * 4,
            tokens_guessed_right: requests * 3,
            ..Counters::default()
        }),
        in_flight: if requests > 0 { 12 } else { 0 },
        energy_mj: Some(requests * 7_400),
        quality: Some(quality),
        ..Revision::default()
    }
}

fn gpu(index: u32) -> Gpu {
    Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "NVIDIA H100 80GB HBM3".into(),
        utilization: Some(0.93),
        memory_used_bytes: Some(71 << 30),
        memory_total_bytes: Some(80 << 30),
        temperature_c: Some(81),
        power_mw: Some(612_000),
        power_limit_mw: Some(700_000),
        clock_sm_mhz: Some(1_755),
        throttle_reasons: if index == 1 { vec!["slowed by its power limit".into()] } else { Vec::new() },
        ..Gpu::default()
    }
}

/// At half time `chat` moves from revision 7 to 8, which is worse.
fn frame(second: u64) -> Frame {
    let moved = second >= SECONDS / 2;
    let revisions = if moved {
        vec![revision(8, State::Serving, 0.61, second, 41), revision(7, State::Standby, 0.91, second, 0)]
    } else {
        vec![revision(7, State::Serving, 0.91, second, 41)]
    };
    let chat = Deployment {
        name: "chat".into(),
        stable_revision: if moved { 8 } else { 7 },
        revisions,
        queue_limit: 256,
        objective_ttft_p99_us: Some(250_000),
        guaranteed_bytes: 40 << 30,
        ..Deployment::default()
    };
    let alert = |severity: Severity, subject: &str, text: &str| Alert {
        severity: severity.into(),
        subject: subject.into(),
        text: text.into(),
        since_unix_ms: START_UNIX_MS,
    };
    let mut alerts = vec![alert(Severity::Warning, "GPU 1", "slowed by its power limit")];
    if moved {
        alerts.insert(0, alert(Severity::Bad, "chat@8", "quality 0.61, 7 had 0.91: roll back?"));
    }
    let time_unix_ms = START_UNIX_MS + second as i64 * 1_000;
    let events = if second == SECONDS / 2 {
        vec![NodeEvent {
            time_unix_ms,
            severity: Severity::Bad.into(),
            subject: "chat@8".into(),
            text: "quality 0.61, 7 had 0.91: roll back?".into(),
            ..NodeEvent::default()
        }]
    } else {
        Vec::new()
    };
    Frame {
        node: "gpu-01".into(),
        time_unix_ms,
        interval_ms: 1_000,
        merged_frames: 1,
        agent_version: "0.1.0".into(),
        host: Some(Host {
            cpu_utilization: Some(0.12),
            cpu_count: 64,
            load_1m: 7.5,
            memory_used_bytes: 212 << 30,
            memory_total_bytes: 512 << 30,
            disk_used_bytes: 2 << 40,
            disk_total_bytes: 7 << 40,
            network_received_bytes: 1_200_000,
            network_sent_bytes: 5_400_000,
            agent_cpu_cores: Some(0.02),
            agent_memory_bytes: 31 << 20,
            uptime_s: 400_000,
            ..Host::default()
        }),
        gpu_driver: Some(GpuDriver {
            state: DriverState::Ok.into(),
            driver_version: "570.86.15".into(),
            ..GpuDriver::default()
        }),
        gpus: vec![gpu(0), gpu(1)],
        model_memory_bytes: 460 << 30,
        deployments: vec![chat, Deployment { name: "summarise".into(), ..Deployment::default() }],
        alerts,
        events,
        ..Frame::default()
    }
}

fn model() -> Model {
    let mut model = Model::new(["ssh://gpu-01".to_owned()]);
    model.apply(0, LinkEvent::History((0..SECONDS).map(frame).collect()));
    model
}

fn screen(app: &App, model: &Model, (width, height): (u16, u16), ascii: bool) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let view = View {
        app,
        model,
        theme: Theme::new(ColorDepth::None, ascii),
        now_unix_ms: START_UNIX_MS + SECONDS as i64 * 1_000,
        zone: &TimeZone::UTC,
    };
    draw(&view, area, &mut buffer);
    let lines = buffer.content().chunks(width.into());
    lines
        .map(|line| {
            line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned() + "\n"
        })
        .collect()
}

fn press(app: &mut App, model: &Model, code: KeyCode) -> Vec<Intent> {
    update(app, model, AppEvent::Terminal(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))))
}

fn serial(intents: &[Intent]) -> u64 {
    match intents {
        [Intent::Act { serial, .. }] => *serial,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fleet() {
    insta::assert_snapshot!("fleet_80x24", screen(&App::new(), &model(), (80, 24), false));
    insta::assert_snapshot!("fleet_160x20", screen(&App::new(), &model(), (160, 20), false));
    let ascii = screen(&App::new(), &model(), (80, 24), true);
    assert!(ascii.replace("°", "").is_ascii(), "{ascii}");
}

#[test]
fn deployment() {
    let mut app = App::new();
    app.screen = Screen::Deployment(DeploymentKey { node: 0, name: "chat".into() });
    insta::assert_snapshot!("deployment_80x24", screen(&app, &model(), (80, 24), false));
    insta::assert_snapshot!("deployment_200x40", screen(&app, &model(), (200, 40), false));
}

#[test]
fn node_and_a_lost_one() {
    let mut app = App::new();
    app.screen = Screen::Node(0);
    let mut model = model();
    insta::assert_snapshot!("node_120x28", screen(&app, &model, (120, 28), false));
    model.apply(
        0,
        LinkEvent::Lost { reason: "ssh gpu-01: Connection refused".into(), retry_at: Instant::now() },
    );
    insta::assert_snapshot!("lost_80x24", screen(&App::new(), &model, (80, 24), false));
}

#[test]
fn rollback_dialog_from_the_key_to_its_refusal() {
    let (mut app, model) = (App::new(), model());
    press(&mut app, &model, KeyCode::Down);
    let asked = press(&mut app, &model, KeyCode::Char('r'));
    let plan = ChangePlan {
        deployment: "chat".into(),
        from_revision: 8,
        from_model: "llama-3.1-8b-long".into(),
        to_revision: 7,
        to_model: "llama-3.1-8b".into(),
        standby_ready: true,
        in_flight: 12,
        effects: vec![
            "new requests go to chat@7 at once; it is loaded".into(),
            "12 requests running on chat@8 finish there".into(),
        ],
        undo: "roll back: chat@8 is kept ready while memory allows".into(),
        ..ChangePlan::default()
    };
    update(&mut app, &model, AppEvent::Answer(Answer::Planned { serial: serial(&asked), plan: Ok(plan) }));
    insta::assert_snapshot!("rollback_80x24", screen(&app, &model, (80, 24), false));

    let sent = press(&mut app, &model, KeyCode::Enter);
    let [Intent::Act { reason, dry_run: false, expected_revision: 8, .. }] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(reason, "quality 0.61, 7 had 0.91: roll back?", "what is wrong is why");
    let refused = Err(LinkError::Refused("alice started moving chat to revision 9 4 s ago".into()));
    update(&mut app, &model, AppEvent::Answer(Answer::Accepted { serial: serial(&sent), id: refused }));
    let screen = screen(&app, &model, (80, 24), false);
    assert!(
        screen.contains("refused: alice") && screen.contains("roll back?"),
        "nothing typed is lost: {screen}"
    );
}

#[test]
fn what_stops_a_deployment_asks_for_its_name_and_sends_nothing_without() {
    let (mut app, model) = (App::new(), model());
    let typed = |app: &mut App, text: &str| {
        text.chars().for_each(|letter| drop(press(app, &model, KeyCode::Char(letter))));
    };
    typed(&mut app, ":stop chat");
    let asked = press(&mut app, &model, KeyCode::Enter);
    let plan = ChangePlan {
        deployment: "chat".into(),
        from_revision: 8,
        in_flight: 12,
        effects: vec![
            "chat takes no new requests: they are refused with 503".into(),
            "12 running finish; then its memory is given back".into(),
        ],
        undo: "llmdeck rollback chat, which loads chat@8 again".into(),
        ..ChangePlan::default()
    };
    update(&mut app, &model, AppEvent::Answer(Answer::Planned { serial: serial(&asked), plan: Ok(plan) }));
    typed(&mut app, "chatt");
    assert!(press(&mut app, &model, KeyCode::Enter).is_empty(), "another name stops nothing");
    insta::assert_snapshot!("stop_80x24", screen(&app, &model, (80, 24), false));

    press(&mut app, &model, KeyCode::Backspace);
    press(&mut app, &model, KeyCode::Tab);
    typed(&mut app, "too hot");
    let sent = press(&mut app, &model, KeyCode::Enter);
    let [Intent::Act { action: Action::Stop { deployment }, reason, dry_run: false, .. }] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!((deployment.as_str(), reason.as_str()), ("chat", "too hot"));
    let done = Answer::Accepted { serial: serial(&sent), id: Ok(String::new()) };
    update(&mut app, &model, AppEvent::Answer(done));
    let screen = screen(&app, &model, (80, 24), false);
    assert!(screen.contains("chat is stopped; rolling back brings it back"), "{screen}");
}

#[test]
fn what_was_stopped_is_brought_back_for_a_reason_of_ones_own() {
    let why = "it was stopped; a deploy or a rollback brings it back";
    let mut stopped = frame(SECONDS);
    stopped.deployments[0] =
        Deployment { name: "chat".into(), unavailable: why.into(), ..Deployment::default() };
    let (severity, text) = (Severity::Warning.into(), format!("cannot serve: {why}"));
    stopped.alerts = vec![Alert { severity, subject: "chat".into(), text, ..Alert::default() }];
    let mut model = model();
    model.apply(0, LinkEvent::Frame(Box::new(stopped)));
    let mut app = App::new();
    ":roll back chat".chars().for_each(|letter| drop(press(&mut app, &model, KeyCode::Char(letter))));
    let asked = press(&mut app, &model, KeyCode::Enter);
    let [Intent::Act { action: Action::Rollback { .. }, reason, dry_run: true, .. }] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(reason, "", "that it was stopped is not why it comes back");
}

#[test]
fn why_a_deployment_cannot_serve_is_there_to_its_end() {
    let why = "/models/gemma-3-270m-q4_k_m.gguf: GPU: cuda:0 is asked for, and this program was built without CUDA; \
               build it with `--features cuda`, or use the device cpu";
    let mut broken = frame(SECONDS);
    broken.deployments[0] =
        Deployment { name: "chat".into(), unavailable: why.into(), ..Deployment::default() };
    let text = format!("cannot serve: {why}");
    let event = NodeEvent {
        severity: Severity::Bad.into(),
        sequence: 1_000,
        subject: "chat".into(),
        text: text.clone(),
        ..NodeEvent::default()
    };
    broken.events.push(event);
    broken.alerts =
        vec![Alert { severity: Severity::Bad.into(), subject: "chat".into(), text, ..Alert::default() }];
    let mut model = model();
    model.apply(0, LinkEvent::Frame(Box::new(broken)));
    let shown = |keys: &[KeyCode]| {
        let mut app = App::new();
        keys.iter().for_each(|key| drop(press(&mut app, &model, *key)));
        screen(&app, &model, (80, 24), false)
    };
    for (name, screen) in
        [("deployment", shown(&[KeyCode::Down, KeyCode::Enter])), ("events", shown(&[KeyCode::Char('2')]))]
    {
        let words: Vec<&str> = screen.split_whitespace().collect();
        assert!(words.join(" ").contains("or use the device cpu"), "{name}: {screen}");
    }
}

#[test]
fn what_is_only_loading_is_not_said_to_be_broken() {
    let why = "its model is still loading";
    let mut loading = frame(SECONDS);
    loading.deployments[0] =
        Deployment { name: "chat".into(), unavailable: why.into(), ..Deployment::default() };
    let mut model = model();
    model.apply(0, LinkEvent::Frame(Box::new(loading)));
    let mut app = App::new();
    [KeyCode::Down, KeyCode::Enter].iter().for_each(|key| drop(press(&mut app, &model, *key)));
    let screen = screen(&app, &model, (80, 24), false);
    assert!(screen.contains(&format!("chat  {why}")) && !screen.contains("cannot serve"), "{screen}");
}

#[test]
fn a_plan_of_many_effects_covers_neither_its_way_back_nor_the_reason() {
    let plan_of = |effects: usize| ChangePlan {
        deployment: "chat".into(),
        from_revision: 8,
        to_revision: 9,
        effects: (1..=effects).map(|effect| format!("effect number {effect}.")).collect(),
        undo: "roll back: chat@8 is kept ready".into(),
        ..ChangePlan::default()
    };
    let shown = |effects: usize| {
        let (mut app, model) = (App::new(), model());
        press(&mut app, &model, KeyCode::Down);
        let asked = press(&mut app, &model, KeyCode::Char('r'));
        let answer = Answer::Planned { serial: serial(&asked), plan: Ok(plan_of(effects)) };
        update(&mut app, &model, AppEvent::Answer(answer));
        screen(&app, &model, (80, 24), false)
    };
    for effects in [1, 9, 15, 16, 60] {
        let screen = shown(effects);
        let all = screen.contains(&format!("effect number {effects}."));
        let some = screen.contains("effect number 14.")
            && screen.contains(&format!("and {} more", effects.max(14) - 14));
        assert!(if effects <= 15 { all } else { some }, "{screen}");
        let lines: Vec<&str> = screen.lines().collect();
        let line = |word: &str| {
            lines.iter().position(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {screen}"))
        };
        assert!(line("undo     roll back: chat@8 is kept ready") < line("reason"), "{screen}");
        assert!(line("reason") < line("Enter roll back"), "{screen}");
    }
}

/// What is known of a metric when the candidate has finished so many requests.
fn finding(metric: &str, verdict: Verdict, (stable, candidate): (f64, f64), half_width: f64) -> Finding {
    let timed = metric.starts_with("ttft") || metric.starts_with("tpot");
    let (scale, effect, margin) = if timed {
        (Scale::Ratio, candidate / stable, 0.10)
    } else {
        (Scale::Difference, candidate - stable, 0.02)
    };
    Finding {
        metric: metric.into(),
        verdict: verdict.into(),
        judged: metric != "ttft_p99",
        stable: Some(stable),
        candidate: Some(candidate),
        effect: Some(effect),
        low: Some(effect - half_width),
        high: (metric != "ttft_p99").then_some(effect + half_width),
        scale: scale.into(),
        margin,
    }
}

fn assessment(requests: u64) -> Assessment {
    let half_width = 4.0 / (requests as f64).sqrt();
    Assessment {
        verdict: Verdict::Undecided.into(),
        sentence: "undecided".into(),
        stable_requests: 3 * requests,
        candidate_requests: requests,
        findings: vec![
            finding("error_rate", Verdict::NoWorse, (0.001, 0.002), half_width / 20.0),
            finding("quality", Verdict::Better, (0.91, 0.95), half_width / 20.0),
            finding("ttft_p95", Verdict::Undecided, (231_000.0, 262_000.0), half_width),
            finding("ttft_p99", Verdict::Undecided, (412_000.0, 431_000.0), half_width),
            finding("tpot_p95", Verdict::NoWorse, (21_000.0, 20_400.0), half_width / 2.0),
        ],
        time_unix_ms: START_UNIX_MS,
    }
}

fn canary() -> Rollout {
    let step = |share, requests| RolloutStep { share, hold_s: 300, requests };
    Rollout {
        deployment: "chat".into(),
        id: "1".into(),
        from_revision: 8,
        to_revision: 9,
        state: RolloutState::Canary.into(),
        detail: "step 2 of 3, 25 %: undecided after 310 requests: ttft_p95 is +13 % (-9 % to +36 %)".into(),
        progress: Some(0.6),
        operator: "alice".into(),
        reason: "longer context".into(),
        started_unix_ms: START_UNIX_MS - 540_000,
        strategy: Strategy::Canary.into(),
        steps: vec![step(0.05, 100), step(0.25, 300), step(0.5, 500)],
        step: 1,
        auto_promote: true,
        assessment: Some(assessment(310)),
        history: (1..60).map(|look| assessment(5 * look + 10)).collect(),
        ..Rollout::default()
    }
}

#[test]
fn a_rollout_from_the_key_to_its_promotion() {
    let (mut app, model) = (App::new(), model());
    press(&mut app, &model, KeyCode::Down);
    let asked = press(&mut app, &model, KeyCode::Char('v'));
    let [Intent::GetRollout { key }] = &asked[..] else { panic!("{asked:?}") };
    let told = Answer::Rollout { key: key.clone(), rollout: Ok(Some(Box::new(canary()))) };
    update(&mut app, &model, AppEvent::Answer(told));
    insta::assert_snapshot!("rollout_80x24", screen(&app, &model, (80, 24), false));
    press(&mut app, &model, KeyCode::Down);
    press(&mut app, &model, KeyCode::Down);
    insta::assert_snapshot!("rollout_120x40", screen(&app, &model, (120, 40), false));
    let ascii = screen(&app, &model, (80, 24), true);
    assert!(ascii.is_ascii(), "{ascii}");

    let held = press(&mut app, &model, KeyCode::Char('p'));
    assert!(
        matches!(&held[..], [Intent::Act { action: Action::Pause { .. }, dry_run: false, .. }]),
        "{held:?}"
    );
    let ended = press(&mut app, &model, KeyCode::Char('x'));
    assert!(
        matches!(&ended[..], [Intent::Act { action: Action::Abort { .. }, dry_run: false, .. }]),
        "{ended:?}"
    );
    // To promote is not taken back by the next key, and so is asked for first.
    let asked = press(&mut app, &model, KeyCode::Char('P'));
    assert!(
        matches!(&asked[..], [Intent::Act { action: Action::Promote { .. }, dry_run: true, .. }]),
        "{asked:?}"
    );
}

/// A training under way, or done.
fn training(done: bool) -> JobReport {
    let steps = 680;
    let taken = if done { steps } else { 408 };
    let point = |step: u64| TrainingPoint {
        elapsed_s: step as f64 * 0.1,
        step,
        steps,
        loss: 4.0 / (1.0 + step as f64 / 40.0),
        held_out_loss: step.is_multiple_of(34).then(|| 4.2 / (1.0 + step as f64 / 40.0)),
        learning_rate: 3e-3,
        gradient_norm: 1.0,
        tokens: step * 336,
        energy_mj: Some(step * 3_000),
        held_out_score: step.is_multiple_of(136).then(|| 0.9 * step as f64 / steps as f64),
        suite_score: step.is_multiple_of(136).then_some(0.83),
    };
    let job = JobSummary {
        id: "7".into(),
        kind: "finetune".into(),
        subject: "chat on missing-skill".into(),
        state: if done { "done" } else { "running" }.into(),
        detail: if done {
            "taught: 0.85, before 0.00; suite 0.93, before 0.83"
        } else {
            "step 408 of 680, loss 0.357, 3360 tokens/s"
        }
        .into(),
        created_unix_ms: START_UNIX_MS,
    };
    let score = |before: f64, after: f64| {
        serde_json::json!({
            "prompts": 60, "before": before, "after": after,
            "difference_low": after - before - 0.09, "difference_high": after - before + 0.09,
        })
    };
    let report = serde_json::json!({
        "schema": "llmdeck.finetune/1",
        "comparison": {
            "task": score(0.0, 0.85), "suite": score(0.83, 0.93),
            "skills": [["sums", score(1.0, 1.0)], ["opposites", score(0.0, 0.83)]],
        },
        "data": { "rows": [
            { "check": "schema", "count": 0, "detail": "600 of 600 lines" },
            { "check": "near_duplicates", "count": 71, "detail": "0.8 or more of runs of three words in common" },
        ] },
    });
    JobReport {
        job: Some(job),
        progress: Some(taken as f64 / steps as f64),
        training: (1..=taken).map(point).collect(),
        log: vec!["14:00:08 364544 parameters, 680 steps, 2 threads that give way to others".into()],
        remaining_least_s: (!done).then_some(24.0),
        remaining_most_s: (!done).then_some(31.0),
        report_json: if done { report.to_string() } else { String::new() },
        ended_unix_ms: done.then_some(START_UNIX_MS + 52_000),
        ..JobReport::default()
    }
}

#[test]
fn a_training_from_the_key_to_its_scores() {
    let (mut app, model) = (App::new(), model());
    press(&mut app, &model, KeyCode::Down);
    let listed = press(&mut app, &model, KeyCode::Char('t'));
    let [Intent::ListArtifacts { kind: "dataset", serial: tags_serial, .. }] = &listed[..] else {
        panic!("{listed:?}")
    };
    let tags = Ok(vec!["assistant-skills".into(), "missing-skill".into()]);
    update(&mut app, &model, AppEvent::Answer(Answer::Tags { serial: *tags_serial, tags }));
    for letter in "miss".chars() {
        press(&mut app, &model, KeyCode::Char(letter));
    }
    let asked = press(&mut app, &model, KeyCode::Enter);
    let [Intent::Act { action: Action::Finetune { dataset, .. }, dry_run: true, .. }] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(dataset, "missing-skill", "the only one that goes on from what is typed");
    let plan = ChangePlan {
        deployment: "chat".into(),
        effects: vec!["trains an adapter for llama-3.1-8b-long on 540 examples of missing-skill".into()],
        undo: "cancel the job, or roll back: the model itself stays as it is".into(),
        ..ChangePlan::default()
    };
    update(&mut app, &model, AppEvent::Answer(Answer::Planned { serial: serial(&asked), plan: Ok(plan) }));
    insta::assert_snapshot!("teach_80x24", screen(&app, &model, (80, 24), false));

    let begun = press(&mut app, &model, KeyCode::Enter);
    let opened = update(
        &mut app,
        &model,
        AppEvent::Answer(Answer::Accepted { serial: serial(&begun), id: Ok("7".into()) }),
    );
    let [Intent::GetJob { key }] = &opened[..] else { panic!("{opened:?}") };
    let told = |done| Answer::Job { key: key.clone(), report: Ok(Box::new(training(done))) };
    update(&mut app, &model, AppEvent::Answer(told(false)));
    insta::assert_snapshot!("training_80x24", screen(&app, &model, (80, 24), false));
    update(&mut app, &model, AppEvent::Answer(told(true)));
    insta::assert_snapshot!("trained_120x30", screen(&app, &model, (120, 30), false));
    let ascii = screen(&app, &model, (80, 24), true);
    assert!(ascii.is_ascii(), "{ascii}");

    // The remedy is at the end of what it says.
    let mut failed = training(false);
    failed.job.iter_mut().for_each(|job| {
        job.state = "failed".into();
        job.detail = "the trainer took 1024 MiB of GPU 0's memory, and gpu_memory_mib of [finetune] allows 1000; it was ended: lower what \
                      it computes at once, or raise gpu_memory_mib"
            .into();
    });
    failed.ended_unix_ms = Some(START_UNIX_MS + 52_000);
    let told = Answer::Job { key: key.clone(), report: Ok(Box::new(failed)) };
    update(&mut app, &model, AppEvent::Answer(told));
    let text = screen(&app, &model, (80, 24), false);
    assert!(text.contains("Why it failed") && text.contains("   raise gpu_memory_mib"), "{text}");
}

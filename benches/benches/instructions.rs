//! Instruction counts of the hot paths: they do not drift on a busy machine. Valgrind has no AVX-512: kernels are those of
//! AVX2.
//!
//! ```text
//! cargo install gungraun-runner --version 0.20.0
//! cargo bench -p llmdeck-benches --features instructions --bench instructions
//! ```

#![allow(missing_docs, reason = "the macros make public items")]
#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to count")]

use std::hint::black_box;
use std::time::Duration;

use gungraun::{library_benchmark, library_benchmark_group, main};
use jiff::tz::TimeZone;
use llmdeck::app::App;
use llmdeck::link::LinkEvent;
use llmdeck::model::Model;
use llmdeck::theme::{ColorDepth, Theme};
use llmdeck::view::{View, draw};
use llmdeck_agent::telemetry::Recorder;
use llmdeck_benches::busy_frame;
use llmdeck_engine::sampling::{Sampled, Sampler, SamplingOptions};
use llmdeck_engine::scheduler::{Plan, Priority, Running, SchedulerLimits, Waiting, plan};
use llmdeck_kernels::{Matrix, Pool, Product, Rows, WeightFormat, matmul};
use llmdeck_proto::merge::FrameSum;
use llmdeck_proto::v1::Frame;
use prost::Message;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

fn recorder() -> Box<Recorder> {
    let recorder = Box::new(Recorder::default());
    // The thread takes its shard on its first event.
    recorder.next_token(Duration::from_millis(15));
    recorder
}

fn frame() -> Frame {
    busy_frame(0, 1, 8, 4)
}

fn pending_and_frame() -> (FrameSum, Frame) {
    let mut pending = FrameSum::from(frame());
    pending.add(busy_frame(0, 2, 8, 4));
    (pending, busy_frame(0, 3, 8, 4))
}

fn pending() -> FrameSum {
    pending_and_frame().0
}

fn model_and_frame() -> (Model, Frame) {
    let mut model = Model::new(["ssh://gpu-0000".to_owned()]);
    model.apply(0, LinkEvent::History(vec![frame()]));
    (model, busy_frame(0, 2, 8, 4))
}

#[library_benchmark(setup = recorder)]
fn record_an_event(recorder: Box<Recorder>) -> Box<Recorder> {
    recorder.next_token(black_box(Duration::from_micros(14_321)));
    recorder
}

#[library_benchmark(setup = frame)]
fn encode_a_frame(frame: Frame) -> Vec<u8> {
    black_box(frame).encode_to_vec()
}

#[library_benchmark(setup = pending_and_frame)]
fn add_a_frame((mut pending, newer): (FrameSum, Frame)) -> FrameSum {
    pending.add(newer);
    pending
}

#[library_benchmark(setup = pending)]
fn make_one_frame(pending: FrameSum) -> Frame {
    pending.into_frame()
}

#[library_benchmark(setup = model_and_frame)]
fn fold_a_frame((mut model, frame): (Model, Frame)) -> Model {
    model.apply(0, LinkEvent::Frame(Box::new(frame)));
    model
}

#[library_benchmark(setup = model_and_frame)]
fn draw_the_fleet((model, _): (Model, Frame)) -> Buffer {
    let area = Rect::new(0, 0, 80, 24);
    let mut buffer = Buffer::empty(area);
    let view = View {
        app: &App::new(),
        model: &model,
        theme: Theme::new(ColorDepth::Indexed, false),
        now_unix_ms: 1_700_000_003_000,
        zone: &TimeZone::UTC,
    };
    draw(black_box(&view), area, &mut buffer);
    buffer
}

/// 32 that generate, 64 that wait behind each other's keys.
fn busy_scheduler() -> (Vec<Running>, Vec<Waiting>) {
    let running = (0..32).map(|arrival| Running {
        priority: Priority::Interactive,
        arrival,
        seen_tokens: 200 + arrival as usize,
        pending_tokens: 1,
        generating: true,
        held_blocks: 14 * 18,
    });
    let waiting = (32..96).map(|arrival| Waiting {
        priority: Priority::Interactive,
        arrival,
        waited_steps: 96 - arrival,
        served_tokens: arrival * 37 % 500,
        prompt_tokens: 128,
        remembered_tokens: 32,
        prompt_blocks: 12 * 18,
    });
    (running.collect(), waiting.collect())
}

#[library_benchmark(setup = busy_scheduler)]
fn plan_a_step((running, waiting): (Vec<Running>, Vec<Waiting>)) -> Plan {
    let limits =
        SchedulerLimits { max_sequences: 48, max_step_tokens: 256, patience_steps: 2_000, layers: 18 };
    plan(black_box(&running), black_box(&waiting), 20_000, limits)
}

/// 256 outputs of 1,024 inputs, and rows to multiply with them, on one thread.
struct Multiplication {
    pool: Pool,
    matrix: Matrix,
    rows: Rows,
    out: Vec<f32>,
}

fn multiplication(format: WeightFormat, count: usize) -> Multiplication {
    let (outputs, inputs) = (256, 1_024);
    let pool = Pool::new(1).expect("one thread");
    let bytes = vec![0x21; format.file_row_bytes(inputs).expect("whole blocks") * outputs];
    let matrix = Matrix::from_bytes(&pool, format, outputs, inputs, &bytes).expect("enough bytes");
    let mut rows = Rows::default();
    rows.reshape(count, inputs);
    for mut row in rows.each() {
        row.floats.fill(0.5);
        row.round();
    }
    Multiplication { pool, matrix, rows, out: vec![0.0; outputs * count] }
}

#[library_benchmark]
#[bench::q8_0_by_1(args = (WeightFormat::Q8_0, 1), setup = multiplication)]
#[bench::q8_0_by_8(args = (WeightFormat::Q8_0, 8), setup = multiplication)]
#[bench::q4_k_by_1(args = (WeightFormat::Q4K, 1), setup = multiplication)]
#[bench::q4_k_by_8(args = (WeightFormat::Q4K, 8), setup = multiplication)]
#[bench::q6_k_by_8(args = (WeightFormat::Q6K, 8), setup = multiplication)]
fn multiply(mut of: Multiplication) -> Multiplication {
    let product = Product { matrix: &of.matrix, column: 0 };
    matmul(&of.pool, &of.rows, &[product], &mut of.out, of.matrix.rows());
    of
}

/// A row of a vocabulary of 262,144, of which few are likely.
fn row_of_logits(options: SamplingOptions) -> (Sampler, Vec<f32>) {
    let logit = |token: u32| {
        let share = token.wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32;
        24.0 * share.powi(3)
    };
    (Sampler::new(options, &[]), (0..1 << 18).map(logit).collect())
}

#[library_benchmark]
#[bench::likeliest(args = (SamplingOptions::greedy()), setup = row_of_logits)]
#[bench::with_5_logprobs(args = (SamplingOptions { top_logprobs: Some(5), ..SamplingOptions::greedy() }), setup = row_of_logits)]
#[bench::from_all(args = (SamplingOptions::default()), setup = row_of_logits)]
#[bench::top_p(args = (SamplingOptions { top_p: 0.95, ..SamplingOptions::default() }), setup = row_of_logits)]
#[bench::top_k(args = (SamplingOptions { top_k: Some(40), ..SamplingOptions::default() }), setup = row_of_logits)]
fn choose_a_token((mut sampler, mut logits): (Sampler, Vec<f32>)) -> (Sampled, Vec<f32>) {
    let sampled = sampler.sample(black_box(&mut logits));
    (sampled, logits)
}

library_benchmark_group!(name = engine, benchmarks = [plan_a_step, multiply, choose_a_token]);
library_benchmark_group!(
    name = hot_paths,
    benchmarks = [record_an_event, encode_a_frame, add_a_frame, make_one_frame, fold_a_frame, draw_the_fleet]
);
main!(library_benchmark_groups = hot_paths, engine);

//! Instruction counts of the hot paths: they do not drift on a busy machine.
//!
//! ```text
//! cargo install gungraun-runner --version 0.20.0
//! cargo bench -p llmdeck-benches --features instructions --bench instructions
//! ```

#![allow(missing_docs, reason = "the macros make public items")]

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
use llmdeck_proto::merge::merge_frames;
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

fn two_frames() -> (Frame, Frame) {
    (frame(), busy_frame(0, 2, 8, 4))
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

#[library_benchmark(setup = two_frames)]
fn merge_two_frames((mut pending, newer): (Frame, Frame)) -> Frame {
    merge_frames(&mut pending, newer);
    pending
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

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [record_an_event, encode_a_frame, merge_two_frames, fold_a_frame, draw_the_fleet]
);
main!(library_benchmark_groups = hot_paths);

//! The console's share of a second: folding frames, drawing screens, answering a key.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::tz::TimeZone;
use llmdeck::app::{App, Screen};
use llmdeck::link::LinkEvent;
use llmdeck::model::{DeploymentKey, Model};
use llmdeck::theme::{ColorDepth, Theme};
use llmdeck::view::{View, draw};
use llmdeck_benches::busy_frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const NOW_UNIX_MS: i64 = 1_700_000_121_000;

fn model(nodes: usize, frames: u64) -> Model {
    let mut model = Model::new((0..nodes).map(|node| format!("ssh://gpu-{node:04}")));
    for node in 0..nodes {
        let past = (1..=frames).map(|sequence| busy_frame(node, sequence, 8, 4)).collect();
        model.apply(node, LinkEvent::History(past));
    }
    model
}

fn console(criterion: &mut Criterion) {
    let mut folded = model(1, 120);
    let mut sequence = 120;
    criterion.bench_function("fold a frame of 8 GPUs and 4 deployments", |bencher| {
        bencher.iter_batched(
            || {
                sequence += 1;
                Box::new(busy_frame(0, sequence, 8, 4))
            },
            |frame| folded.apply(0, LinkEvent::Frame(frame)),
            criterion::BatchSize::PerIteration,
        );
    });
    let key = DeploymentKey { node: 0, name: "chat-0".into() };
    for (nodes, frames) in [(2, 300), (1_000, 12)] {
        let model = model(nodes, frames);
        for (name, screen) in [("fleet", Screen::Fleet), ("deployment", Screen::Deployment(key.clone()))] {
            let mut app = App::new();
            app.screen = screen;
            for (width, height) in [(80, 24), (200, 50)] {
                let area = Rect::new(0, 0, width, height);
                let mut buffer = Buffer::empty(area);
                let view = View {
                    app: &app,
                    model: &model,
                    theme: Theme::new(ColorDepth::Indexed, false),
                    now_unix_ms: NOW_UNIX_MS,
                    zone: &TimeZone::UTC,
                };
                let label = format!("draw {name} at {width}x{height}, {nodes} nodes");
                criterion.bench_function(&label, |bencher| {
                    bencher.iter(|| {
                        buffer.reset();
                        black_box(draw(&view, area, &mut buffer))
                    });
                });
            }
        }
    }
}

criterion_group!(benches, console);
criterion_main!(benches);

//! Recording one event, alone and with every core recording; draining an interval.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use llmdeck_agent::telemetry::Recorder;
use llmdeck_benches::record_request;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn recorder(criterion: &mut Criterion) {
    let recorder = Recorder::default();
    let mut step = 0_u64;
    let mut event = move |recorder: &Recorder| {
        step = (step + 7) % 20_000;
        recorder.next_token(Duration::from_micros(black_box(14_000 + step)));
    };
    criterion.bench_function("record an event", |bencher| bencher.iter(|| event(&recorder)));

    let stop = AtomicBool::new(false);
    let others = std::thread::available_parallelism().map_or(1, |cores| cores.get() - 1);
    std::thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    recorder.next_token(Duration::from_micros(15_000));
                }
            });
        }
        criterion.bench_function("record an event while every other core records", |bencher| {
            bencher.iter(|| event(&recorder));
        });
        stop.store(true, Ordering::Relaxed);
    });

    let mut rng = StdRng::seed_from_u64(1);
    criterion.bench_function("drain an interval of 40 requests", |bencher| {
        bencher.iter_batched(
            || (0..40).for_each(|_| record_request(&recorder, &mut rng)),
            |()| black_box(recorder.drain()),
            criterion::BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, recorder);
criterion_main!(benches);

//! A frame on its way: encoded, compressed as gRPC does it, merged for a slow reader. Prints its size first.

use std::hint::black_box;
use std::io::Write;

use criterion::{Criterion, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use llmdeck_benches::busy_frame;
use llmdeck_proto::merge::FrameSum;
use llmdeck_proto::v1::{Frame, Revision};
use prost::Message;

fn compressed(bytes: &[u8]) -> usize {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_or(0, |bytes| bytes.len())
}

fn without_histograms(frame: &Frame) -> Frame {
    let mut bare = frame.clone();
    for revision in bare.deployments.iter_mut().flat_map(|deployment| &mut deployment.revisions) {
        let Revision { queue_us, ttft_us, itl_us, tpot_us, e2e_us, .. } = revision;
        for histogram in [queue_us, ttft_us, itl_us, tpot_us, e2e_us] {
            *histogram = None;
        }
    }
    bare
}

fn frame(criterion: &mut Criterion) {
    let frame = busy_frame(0, 1, 8, 4);
    let encoded = frame.encode_to_vec();
    println!(
        "frame of 8 GPUs and 4 deployments under load: {} bytes, {} on the wire (gzip), {} of it without histograms",
        encoded.len(),
        compressed(&encoded),
        compressed(&without_histograms(&frame).encode_to_vec())
    );
    criterion.bench_function("encode a frame", |bencher| bencher.iter(|| black_box(&frame).encode_to_vec()));
    criterion.bench_function("compress a frame", |bencher| bencher.iter(|| compressed(black_box(&encoded))));
    let newer = busy_frame(0, 2, 8, 4);
    let mut pending = FrameSum::from(frame);
    pending.add(newer.clone());
    criterion.bench_function("add a frame to those that a slow reader has not taken", |bencher| {
        bencher.iter_batched(
            || (pending.clone(), newer.clone()),
            |(mut pending, newer)| {
                pending.add(newer);
                pending
            },
            criterion::BatchSize::SmallInput,
        );
    });
    criterion.bench_function("make one frame of those that a slow reader takes", |bencher| {
        bencher.iter_batched(|| pending.clone(), FrameSum::into_frame, criterion::BatchSize::SmallInput);
    });
}

criterion_group!(benches, frame);
criterion_main!(benches);

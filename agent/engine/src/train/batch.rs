use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor};

use super::TrainableDecoder;

/// Tokens of one conversation; the model learns only what follows the prompt.
#[derive(Clone, Debug)]
pub struct TrainingExample {
    /// Prompt and answer, the end token included.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt; at least one.
    pub prompt_tokens: usize,
}

/// Loss per answer token, and the gradients of its mean, one store for each worker: their sum is the gradient.
/// Workers split the batch by position, so the result depends on their number but not on their timing.
///
/// # Errors
/// When a token is beyond the vocabulary.
pub fn accumulate_gradients(
    decoder: &TrainableDecoder,
    batch: &mut [TrainingExample],
    workers: usize,
) -> Result<(f64, Vec<GradStore>)> {
    // Neighbours of like length share a worker, so that padding is small.
    batch.sort_by_key(|example| example.tokens.len());
    let answer_tokens: usize = batch.iter().map(|example| example.tokens.len() - example.prompt_tokens).sum();
    let scale = 1.0 / answer_tokens.max(1) as f64;
    let parts: Vec<&[TrainingExample]> = batch.chunks(batch.len().div_ceil(workers.max(1)).max(1)).collect();
    let results: Vec<Result<(f64, GradStore)>> = std::thread::scope(|scope| {
        let running: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(move || backward(decoder, part, scale))).collect();
        running
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(candle_core::Error::Msg("a training worker panicked".into())))
            })
            .collect()
    });
    let mut loss = 0.0;
    let mut stores = Vec::with_capacity(results.len());
    for result in results {
        let (part, store) = result?;
        loss += part;
        stores.push(store);
    }
    Ok((loss, stores))
}

fn backward(decoder: &TrainableDecoder, part: &[TrainingExample], scale: f64) -> Result<(f64, GradStore)> {
    let length = part.iter().map(|example| example.tokens.len() - 1).max().unwrap_or(1);
    let mut tokens = Vec::with_capacity(part.len() * length);
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    for (row, example) in part.iter().enumerate() {
        let inputs = example.tokens.len() - 1;
        tokens.extend_from_slice(&example.tokens[..inputs]);
        tokens.extend(std::iter::repeat_n(0, length - inputs));
        for place in example.prompt_tokens - 1..inputs {
            places.push((row * length + place) as u32);
            targets.push(example.tokens[place + 1]);
        }
    }
    let tokens = Tensor::from_vec(tokens, (part.len(), length), &Device::Cpu)?;
    let places = Tensor::new(places, &Device::Cpu)?;
    let targets = Tensor::new(targets, &Device::Cpu)?;
    let loss = (decoder.loss(&tokens, &places, &targets)? * scale)?;
    Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
}

//! Room for a step's numbers, kept from step to step.

use llmdeck_kernels::Rows;

use crate::description::DecoderDescription;

/// Room for the numbers between a step's products.
#[derive(Default)]
pub struct Scratch {
    pub(crate) hidden: Vec<f32>,
    pub(crate) normed: Rows,
    pub(crate) projected: Vec<f32>,
    pub(crate) gates: Vec<f32>,
    pub(crate) attended: Rows,
    pub(crate) gated: Rows,
    pub(crate) output: Vec<f32>,
    pub(crate) rotations: Vec<f32>,
    pub(crate) logits: Vec<f32>,
}

/// How many numbers each part has for so many rows.
struct Sizes {
    width: usize,
    queries: usize,
    projected: usize,
    ffn: usize,
    rows: usize,
    hidden: usize,
    rotations: usize,
    logits: usize,
}

impl Sizes {
    fn new(description: &DecoderDescription, rows: usize, logit_rows: usize) -> Self {
        let dim = description.head_dim;
        let bases = if description.local.is_some() { 2 } else { 1 };
        Self {
            width: description.width,
            queries: description.heads * dim,
            projected: (description.heads + 2 * description.kv_heads) * dim,
            ffn: description.ffn_width,
            // The rows whose logits are wanted are normed in the place of the step's.
            rows: rows.max(logit_rows),
            hidden: rows * description.width,
            rotations: rows * dim * bases,
            logits: logit_rows.saturating_mul(description.vocabulary),
        }
    }
}

impl Scratch {
    /// Room for steps of up to `rows` tokens of which `logit_rows` get logits. Pages come as they are used, or with [`Scratch::touch`].
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn with_room(
        description: &DecoderDescription,
        rows: usize,
        logit_rows: usize,
    ) -> std::io::Result<Self> {
        let sizes = Sizes::new(description, rows, logit_rows);
        let room = |numbers: usize| -> std::io::Result<Vec<f32>> {
            let mut room = Vec::new();
            room.try_reserve_exact(numbers).map_err(|error| {
                let message = format!("{} MiB of memory for a step's numbers: {error}", numbers >> 18);
                std::io::Error::new(std::io::ErrorKind::OutOfMemory, message)
            })?;
            Ok(room)
        };
        Ok(Self {
            hidden: room(sizes.hidden)?,
            normed: Rows::with_room(sizes.rows, sizes.width)?,
            projected: room(rows * sizes.projected)?,
            gates: room(rows * 2 * sizes.ffn)?,
            attended: Rows::with_room(rows, sizes.queries)?,
            gated: Rows::with_room(rows, sizes.ffn)?,
            output: room(sizes.hidden)?,
            rotations: room(sizes.rotations)?,
            logits: room(sizes.logits)?,
        })
    }

    /// Takes the pages of its room from the system, so that none is missing at the first large step of a busy hour. Those of logits
    /// come as they are used: so many rows want logits only where all sequences have guesses at once.
    pub(crate) fn touch(&mut self) {
        let floats =
            [&mut self.hidden, &mut self.projected, &mut self.gates, &mut self.output, &mut self.rotations];
        for part in floats {
            part.resize(part.capacity(), 0.0);
            part.clear();
        }
        for rows in [&mut self.normed, &mut self.attended, &mut self.gated] {
            rows.touch();
        }
    }

    /// Bytes that [`Scratch::with_room`] asks for.
    pub fn bytes_for(description: &DecoderDescription, rows: usize, logit_rows: usize) -> u64 {
        let sizes = Sizes::new(description, rows, logit_rows);
        let floats =
            [2 * sizes.hidden, rows * (sizes.projected + 2 * sizes.ffn), sizes.rotations, sizes.logits];
        let rows_of = [(sizes.rows, sizes.width), (rows, sizes.queries), (rows, sizes.ffn)];
        let floats: usize = floats.iter().fold(0, |sum, part| sum.saturating_add(*part));
        let rows: u64 = rows_of.iter().map(|(count, columns)| Rows::bytes_for(*count, *columns)).sum();
        (floats as u64).saturating_mul(size_of::<f32>() as u64).saturating_add(rows)
    }

    /// Bytes that are reserved.
    pub fn size_bytes(&self) -> u64 {
        let floats =
            [&self.hidden, &self.projected, &self.gates, &self.output, &self.rotations, &self.logits];
        let floats: usize = floats.iter().map(|part| part.capacity() * size_of::<f32>()).sum();
        let rows = [&self.normed, &self.attended, &self.gated];
        floats as u64 + rows.iter().map(|rows| rows.size_bytes()).sum::<u64>()
    }
}

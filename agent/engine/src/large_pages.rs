//! A model's weights move into large pages while there is nothing else to do: decoding reads them faster then, and a load is as quick
//! as before.

use std::sync::Arc;

use crate::model::Model;

/// How far that has come.
pub struct LargePages {
    model: Arc<Model>,
    matrix: usize,
    part: usize,
}

impl LargePages {
    /// Nothing of this model has moved yet.
    pub fn new(model: &Arc<Model>) -> Self {
        Self { model: Arc::clone(model), matrix: 0, part: 0 }
    }

    /// Moves the next 2 MiB, which takes milliseconds; false when all that can have moved. A GPU reads weights of its own.
    pub fn gather(&mut self) -> bool {
        if self.model.gpu.is_some() {
            return false;
        }
        while let Some(matrix) = self.model.decoder.matrices().nth(self.matrix) {
            if matrix.gather_pages(self.part) {
                self.part += 1;
                return true;
            }
            (self.matrix, self.part) = (self.matrix + 1, 0);
        }
        false
    }
}

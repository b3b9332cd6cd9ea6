/// How the numbers of a weight matrix are stored. The quantized ones are GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the field's")]
pub enum WeightFormat {
    F32,
    F16,
    BF16,
    Q4_0,
    Q5_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Numbers in a block that shares a scale of activations.
pub(crate) const BLOCK: usize = 32;
/// Words of four bytes in a block.
pub(crate) const GROUPS: usize = BLOCK / 4;

/// How a format is laid out in panels of 16 rows. A panel is a run of units; a unit is some lines of scales, then for
/// each of its blocks the lines of quants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Blocks of 32 numbers in a unit.
    pub(crate) unit_blocks: usize,
    pub(crate) scale_lines: usize,
    pub(crate) quant_lines: usize,
    /// What is taken off a stored quant, all of which are unsigned.
    pub(crate) offset: i32,
}

impl Layout {
    pub(crate) const fn unit_lines(self) -> usize {
        self.scale_lines + self.unit_blocks * self.quant_lines
    }

    pub(crate) const fn unit_numbers(self) -> usize {
        self.unit_blocks * BLOCK
    }
}

impl WeightFormat {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q5_0,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// By GGUF's number of the type; `None` for those that the kernels do not know.
    pub fn from_gguf(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            6 => Self::Q5_0,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Numbers and bytes of a block in the file (GGUF specification and ggml's `ggml-common.h`).
    pub(crate) const fn file_block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q5_0 => (32, 22),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of `columns` numbers in the file; `None` where they do not fill its blocks.
    pub fn file_row_bytes(self, columns: usize) -> Option<usize> {
        let (numbers, bytes) = self.file_block();
        columns
            .is_multiple_of(numbers)
            .then(|| columns / numbers)
            .and_then(|blocks| blocks.checked_mul(bytes))
    }

    /// Whether it is multiplied in bfloat16 where rows ask for that: numbers of more bits would lose some.
    pub fn has_bfloat16_products(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// `None` for floating point.
    pub(crate) const fn layout(self) -> Option<Layout> {
        let (unit_blocks, scale_lines, quant_lines, offset) = match self {
            Self::F32 | Self::F16 | Self::BF16 => return None,
            Self::Q4_0 => (2, 1, 4, 8),
            Self::Q5_0 => (2, 1, 5, 16),
            Self::Q8_0 => (2, 1, 8, 128),
            Self::Q4K => (8, 5, 4, 0),
            Self::Q5K => (8, 5, 5, 0),
            Self::Q6K => (8, 5, 6, 32),
        };
        Some(Layout { unit_blocks, scale_lines, quant_lines, offset })
    }

    /// Lines that a panel of 16 rows takes.
    pub(crate) const fn panel_lines(self, columns: usize) -> usize {
        match self.layout() {
            Some(layout) => columns.div_ceil(layout.unit_numbers()) * layout.unit_lines(),
            // A line has one number of each row, or two halves of each.
            None => columns.div_ceil(4 / self.file_block().1),
        }
    }
}

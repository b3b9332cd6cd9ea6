use std::sync::OnceLock;

static WIDEST: OnceLock<Isa> = OnceLock::new();
#[cfg(target_arch = "x86_64")]
static AMX_WORKS: OnceLock<bool> = OnceLock::new();

/// The instruction sets that kernels are written or compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Whatever the target has at least: SSE2, or NEON on Arm.
    Plain,
    /// NEON with Armv8.2's products of four bytes.
    Neon,
    /// 256-bit vectors with AVX2, FMA and F16C.
    Avx2,
    /// 512-bit vectors with VNNI's products of four bytes.
    Avx512Vnni,
    /// The same, with AMX's tiles of bfloat16 for rows that ask for them.
    Amx,
}

impl Isa {
    /// The widest that this machine has, or that [`Isa::limit_to`] leaves.
    pub fn widest() -> Self {
        *WIDEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Plain))
    }

    /// Has kernels use nothing wider, for measurements. False where the machine does not have it, or a kernel has chosen
    /// already.
    pub fn limit_to(self) -> bool {
        Self::available().contains(&self) && *WIDEST.get_or_init(|| self) == self
    }

    /// Those that this machine has, widest last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            all.push(Self::Neon);
        }
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                all.push(Self::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512Vnni);
                if is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vbmi")
                    && *AMX_WORKS.get_or_init(crate::matmul::amx::works)
                {
                    all.push(Self::Amx);
                }
            }
        }
        all
    }

    /// Whether it has products of bfloat16 that are faster than those of eight bits.
    pub fn bfloat16_is_fast(self) -> bool {
        self == Self::Amx
    }

    /// Its name, as `doctor` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Neon => "NEON with dot products",
            Self::Avx2 => "AVX2",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::Amx => "AVX-512 VNNI and AMX",
        }
    }
}

/// Defines a function that runs the body of a plain one compiled for the widest instruction set of the machine. The
/// plain one must be `#[inline(always)]`, so that its body takes on the caller's instructions.
macro_rules! compiled_for_each_isa {
    ($(#[$doc:meta])* $seen:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $output:ty)? => $plain:path) => {
        $(#[$doc])*
        $seen fn $name($($arg: $kind),*) $(-> $output)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $kind),*) $(-> $output)? {
                    $plain($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
                fn avx512($($arg: $kind),*) $(-> $output)? {
                    $plain($($arg),*)
                }
                match $crate::Isa::widest() {
                    // SAFETY: the machine has what the function needs; `widest` has looked.
                    $crate::Isa::Avx512Vnni | $crate::Isa::Amx => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::Isa::Plain | $crate::Isa::Neon => {}
                }
            }
            $plain($($arg),*)
        }
    };
}
pub(crate) use compiled_for_each_isa;

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use llmdeck_engine::engine::{Engine, EngineReadings};
use llmdeck_engine::footprint::Footprint;

use super::budget::Reservation;
use super::gaps::Gaps;

/// An engine with the memory that it holds.
pub struct Loaded {
    engine: Engine,
    footprint: Footprint,
    told: Mutex<EngineReadings>,
    holder: u32,
    /// What is dropped from here on is dropped after the engine.
    _gaps: Gaps,
    _reservation: Reservation,
}

impl Loaded {
    pub(super) fn new(engine: Engine, footprint: Footprint, holder: u32, reservation: Reservation) -> Self {
        Self { engine, footprint, told: Mutex::default(), holder, _gaps: Gaps, _reservation: reservation }
    }

    /// How it stands; what it counts is since the last call.
    pub fn drain_readings(&self) -> EngineReadings {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.engine.readings();
        let before = std::mem::replace(&mut *told, now);
        EngineReadings {
            prompt_tokens: now.prompt_tokens - before.prompt_tokens,
            remembered_tokens: now.remembered_tokens - before.remembered_tokens,
            put_off: now.put_off - before.put_off,
            guessed_tokens: now.guessed_tokens - before.guessed_tokens,
            kept_tokens: now.kept_tokens - before.kept_tokens,
            constrained_tokens: now.constrained_tokens - before.constrained_tokens,
            constraint_us: now.constraint_us - before.constraint_us,
            ..now
        }
    }

    /// The revision that it was loaded for, and that the budget knows it by; others may share it.
    pub fn holder(&self) -> u32 {
        self.holder
    }

    /// What it holds.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }
}

impl Deref for Loaded {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

//! Runs many cases of many forms on both sides and collects what came of them.

use std::io;

use iced_x86::{Code, Instruction};
use x86_engine::EngineKind;

use crate::compare::{End, differences, engine_end, native_end, unlike};
use crate::engine::Guest;
use crate::form::{self, Encoded};
use crate::minimize;
use crate::native::Native;
use crate::random::Random;
use crate::record;
use crate::state::{Case, Outcome};
use crate::values;
use crate::vendor::{self, Tolerance};

/// What came of one form.
#[derive(Clone, Debug, Default)]
pub struct FormResult {
    pub cases: u64,
    /// Cases in which the host raised #UD and the engine did not.
    pub host_lacks: u64,
    /// Cases in which the engine raised #UD and the host did not.
    pub engine_lacks: u64,
    /// Cases in which both raised #UD.
    pub both_lack: u64,
    /// Cases that completed in translated code.
    pub translated: u64,
    /// Cases that differ, and the first of them in words.
    pub differ: u64,
    pub first: Option<String>,
}

impl FormResult {
    /// The host executes the form and so does the engine.
    pub fn compared(&self) -> bool {
        self.cases > 0 && !self.host_lacks_it() && !self.not_implemented() && !self.both_refuse()
    }
    /// The host raised #UD every time, the engine did not.
    pub fn host_lacks_it(&self) -> bool {
        self.cases > 0 && self.host_lacks > 0 && self.host_lacks + self.both_lack == self.cases
    }
    /// The engine raised #UD every time, the host did not.
    pub fn not_implemented(&self) -> bool {
        self.cases > 0 && self.engine_lacks > 0 && self.engine_lacks + self.both_lack == self.cases
    }
    /// Both raised #UD every time, or the form cannot be encoded.
    pub fn both_refuse(&self) -> bool {
        self.both_lack == self.cases
    }
    /// Differences that are neither a missing instruction nor a known one.
    pub fn unexplained(&self) -> bool {
        self.differ > 0 && !self.host_lacks_it() && !self.not_implemented()
    }
}

pub struct Campaign {
    native: Native,
    guest: Guest,
    /// The same guest with the other kinds of engine, as far as the host has them.
    others: Vec<Guest>,
}

impl Campaign {
    /// # Errors
    /// The native runner's pages cannot be mapped.
    pub fn new() -> io::Result<Self> {
        let others = [EngineKind::Translator, EngineKind::Lockstep].map(Guest::with);
        let others = others.into_iter().filter(|guest| guest.refused().is_none());
        Ok(Self {
            native: Native::new()?,
            guest: Guest::new(),
            others: others.collect(),
        })
    }

    /// Whether the host can translate.
    pub fn translates(&self) -> bool {
        !self.others.is_empty()
    }

    /// Runs `count` cases of `code`. The cases depend on the seed and the form only.
    pub fn form(&mut self, code: Code, seed: u64, count: u64) -> FormResult {
        let mut random = Random::new(seed ^ (code as u64).wrapping_mul(0xA076_1D64_78BD_642F));
        let mut result = FormResult::default();
        let mut attempts = 0;
        while result.cases < count && attempts < 40 * count + 200 {
            attempts += 1;
            let Some(encoded) = form::encode(code, &mut random) else {
                continue;
            };
            let case = values::case(&encoded, &mut random);
            result.cases += 1;
            self.one(&encoded, &case, &mut result);
        }
        result
    }

    fn one(&mut self, encoded: &Encoded, case: &Case, result: &mut FormResult) {
        let native = self.native.run(case);
        let engine = self.guest.run(case);
        let is_ud = |end: End| matches!(end, End::Fault { vector: 6, .. });
        match (is_ud(native_end(&native)), is_ud(engine_end(&engine))) {
            (true, false) => result.host_lacks += 1,
            (false, true) => result.engine_lacks += 1,
            (true, true) => result.both_lack += 1,
            _ => {}
        }
        let before = self.others.first().map_or(0, Guest::translated);
        let mut found = differences(&encoded.instruction, case, &native, &engine);
        found.extend(self.others_unlike(case, &engine));
        result.translated += self.others.first().map_or(0, Guest::translated) - before;
        if found.is_empty() {
            return;
        }
        result.differ += 1;
        if result.first.is_none() {
            let small = minimize::minimize(case, |c| self.differs(&encoded.instruction, c));
            let native = self.native.run(&small);
            let engine = self.guest.run(&small);
            let mut found = differences(&encoded.instruction, &small, &native, &engine);
            found.extend(self.others_unlike(&small, &engine));
            let line = record::line(&small, &native);
            result.first = Some(format!("{line}\n    {}", found.join("\n    ")));
        }
    }

    /// A small case of `code` that completes, as a line with what the host's processor makes of it.
    pub fn recorded(&mut self, code: Code, seed: u64) -> Option<String> {
        let mut random = Random::new(seed ^ code as u64);
        for _ in 0..200 {
            let Some(encoded) = form::encode(code, &mut random) else {
                continue;
            };
            let case = values::case(&encoded, &mut random);
            if vendor::tolerance(&encoded.instruction, &case) != Tolerance::Exact {
                continue;
            }
            let outcome = self.native.run(&case);
            if !matches!(native_end(&outcome), End::At(_)) {
                continue;
            }
            let changes = record::changes(&case, &outcome);
            let small = minimize::minimize(&case, |c| {
                let outcome = self.native.run(c);
                record::changes(c, &outcome) == changes
            });
            let outcome = self.native.run(&small);
            return Some(record::line(&small, &outcome));
        }
        None
    }

    fn differs(&mut self, instruction: &Instruction, case: &Case) -> bool {
        let native = self.native.run(case);
        let engine = self.guest.run(case);
        !differences(instruction, case, &native, &engine).is_empty()
            || !self.others_unlike(case, &engine).is_empty()
    }

    /// What the other kinds of engine make of the case, where it is not exactly what the interpreter made of it.
    fn others_unlike(&mut self, case: &Case, interpreter: &Outcome) -> Vec<String> {
        let others = self.others.iter_mut();
        others
            .filter_map(|guest| {
                let lines = unlike(interpreter, &guest.run(case));
                (!lines.is_empty()).then(|| format!("{}: {}", guest.kind(), lines.join("; ")))
            })
            .collect()
    }
}

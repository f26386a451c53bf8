//! Runs one instruction in the CPU engine, in ring 3 of a small guest with the same pages as the native side.

use x86_arch::RamPage;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, FlatPage, long_vcpu};
use x86_engine::{Engine, EngineKind, Stop};

use crate::state::{CODE, CODE_OFFSET, Case, DATA, DATA_LEN, Exception, Outcome, State};

/// Page tables: PML4, PDPT, PD, and a page table each for data and code.
const TABLES: u64 = 0x1_0000;
const USER: u64 = 7;
const NO_EXECUTE: u64 = 1 << 63;
/// No opcode in 64-bit mode: behind the instruction it makes a translated block of the instruction alone.
const INVALID: u8 = 0x06;

pub struct Guest {
    engine: Engine<FlatPage>,
    guest: FlatGuest,
    vcpu: Vcpu,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// With the interpreter.
    pub fn new() -> Self {
        Self::with(EngineKind::Interpreter)
    }

    /// With an engine of this kind, which translates everything; [`Guest::refused`] says why it does not.
    pub fn with(kind: EngineKind) -> Self {
        let mut engine = Engine::with(kind);
        engine.translate_after(0);
        let mut guest = FlatGuest::new(1 << 30);
        let mut vcpu = long_vcpu(&mut guest, TABLES, 3);
        let table = |n: u64| TABLES + n * 0x1000;
        guest.put_u64(table(0), table(1) | USER);
        guest.put_u64(table(1), table(2) | USER);
        guest.put_u64(table(2) + (DATA >> 21) * 8, table(3) | USER);
        guest.put_u64(table(2) + (CODE >> 21) * 8, table(4) | USER);
        for page in (DATA..DATA + DATA_LEN as u64).step_by(4096) {
            guest.put_u64(table(3) + (page >> 12 & 511) * 8, page | USER | NO_EXECUTE);
        }
        guest.put_u64(table(4) + (CODE >> 12 & 511) * 8, CODE | USER);
        // Every exception exits.
        vcpu.controls.exception_bitmap = u32::MAX;
        Self {
            engine,
            guest,
            vcpu,
        }
    }

    pub fn kind(&self) -> EngineKind {
        self.engine.kind()
    }

    /// Why the host translates nothing.
    pub fn refused(&self) -> Option<&str> {
        self.engine.refused()
    }

    /// Instructions that translated code completed.
    pub fn translated(&self) -> u64 {
        self.engine.translated()
    }

    /// # Panics
    /// When lockstep finds a difference.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let mut code = [0xCC; 0x1000];
        let after = CODE_OFFSET + case.bytes.len();
        code[CODE_OFFSET..after].copy_from_slice(&case.bytes);
        code[after] = INVALID;
        self.guest.put(CODE, &code);
        self.guest.put(DATA, &case.memory[..]);
        let regs = &mut self.vcpu.regs;
        regs.gpr = case.state.gpr;
        regs.rip = case.state.rip;
        regs.rflags = case.state.rflags;
        regs.fpu = case.state.fpu.clone();
        regs.interruptibility = 0;
        regs.pending_debug = 0;
        let ran = self.engine.run(&mut self.vcpu, &mut self.guest, 1);
        if let Some(difference) = self.engine.difference() {
            panic!("{difference}");
        }
        let exit = &self.vcpu.exit;
        let exception = (ran.stop == Stop::Exit).then_some(match exit.interruption_info {
            info if info & 1 << 31 != 0 => Exception {
                vector: info as u8,
                error: exit.interruption_error,
                address: if info as u8 == 14 {
                    exit.qualification
                } else {
                    0
                },
            },
            // Any other VM exit is none that a ring-3 instruction here should make.
            _ => Exception {
                vector: 0xFF,
                error: exit.reason,
                address: exit.qualification,
            },
        });
        let regs = &self.vcpu.regs;
        let mut memory = case.memory.clone();
        for (at, chunk) in (DATA..).step_by(4096).zip(memory.chunks_exact_mut(4096)) {
            if let Some(page) = self.guest.pages.get(&at) {
                page.read(0, chunk);
            }
        }
        Outcome {
            state: State {
                gpr: regs.gpr,
                rip: regs.rip,
                rflags: regs.rflags,
                fpu: regs.fpu.clone(),
            },
            exception,
            memory,
        }
    }
}
